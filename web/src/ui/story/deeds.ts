/** What can be done from more than one place of the view: by buttons and by keys. */
import * as look from "../../story/gaze";
import { orderOf, type Wish } from "../../story/order";
import type { Room, View } from "../../story/room";
import type { Placement } from "./placement";
import { sure } from "./sure";

export interface Deeds {
  order: () => void;
  put: () => void;
  star: () => void;
  remove: () => void;
  cancel: (branches?: readonly number[]) => void;
}

interface ForDeeds {
  room: Room;
  view: View;
  wish: Wish;
  placement: Placement;
  onNotice: (sentence: string) => void;
}

export function useDeeds({ room, view, wish, placement, onNotice }: ForDeeds): Deeds {
  const node = shownNode(view);
  return {
    order: () => {
      const order = node === null ? "There is no frame to dream on from." : orderOf(wish, node, view.context);
      if (typeof order === "string") onNotice(order);
      else void room.order(order);
    },
    put: () => {
      const overlay = placement.overlayPng();
      if (overlay === null) return;
      void room.edit(overlay, placement.copies).then((made) => {
        if (made) placement.drop();
      });
    },
    star: () => {
      const known = node === null ? undefined : view.gaze.tree.nodes.get(node);
      if (known) void room.mark(known.id, { starred: !known.starred });
    },
    remove: () => {
      if (node === null) return;
      const count = view.gaze.tree.withDescendants(node).length;
      const after = count === 2 ? "the one that comes after it" : `the ${count - 1} that come after it`;
      const what = count === 1 ? "this frame" : `this frame and ${after}`;
      void sure(`Remove ${what}? There is no way back.`, "Remove").then((yes) => {
        if (yes) void room.remove(node);
      });
    },
    cancel: (branches) => {
      const running = look.runningHere(view.gaze);
      const ids = branches ?? running;
      if (ids.length) void room.cancel(ids);
    },
  };
}

/** The frame that is meant: the chosen one, or the one shown by the picked branch. */
export function shownNode({ gaze }: View): number | null {
  const branch = gaze.side?.branches[gaze.side.pick];
  return branch === undefined ? look.chosen(gaze) : look.shownOf(gaze, branch);
}
