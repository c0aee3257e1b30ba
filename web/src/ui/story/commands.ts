/** What can be done from more than one place of the view: by buttons and by keys. */
import * as look from "../../story/selection";
import { orderOf, type BranchForm } from "../../story/order";
import type { StoryController, View } from "../../story/controller";
import type { Placement } from "./placement";
import { confirm } from "./confirm";

export interface Commands {
  order: () => void;
  put: () => void;
  star: () => void;
  remove: () => void;
  cancel: (branches?: readonly number[]) => void;
}

interface CommandContext {
  controller: StoryController;
  view: View;
  form: BranchForm;
  placement: Placement;
  onNotice: (sentence: string) => void;
}

export function useCommands({ controller, view, form, placement, onNotice }: CommandContext): Commands {
  const node = shownNode(view);
  return {
    order: () => {
      const order = node === null ? "There is no frame to continue from." : orderOf(form, node, view.context);
      if (typeof order === "string") onNotice(order);
      else void controller.order(order);
    },
    put: () => {
      const overlay = placement.overlayPng();
      if (overlay === null) return;
      void controller.edit(overlay, placement.copies).then((made) => {
        if (made) placement.drop();
      });
    },
    star: () => {
      const known = node === null ? undefined : view.state.tree.nodes.get(node);
      if (known) void controller.mark(known.id, { starred: !known.starred });
    },
    remove: () => {
      if (node === null) return;
      const count = view.state.tree.withDescendants(node).length;
      const after = count === 2 ? "the one that comes after it" : `the ${count - 1} that come after it`;
      const what = count === 1 ? "this frame" : `this frame and ${after}`;
      void confirm(`Remove ${what}? This cannot be undone.`, "Remove").then((yes) => {
        if (yes) void controller.remove(node);
      });
    },
    cancel: (branches) => {
      const running = look.runningHere(view.state);
      const ids = branches ?? running;
      if (ids.length) void controller.cancel(ids);
    },
  };
}

/** The frame that is meant: the chosen one, or the one shown by the picked branch. */
export function shownNode({ state }: View): number | null {
  const branch = state.side?.branches[state.side.pick];
  return branch === undefined ? look.chosen(state) : look.shownOf(state, branch);
}
