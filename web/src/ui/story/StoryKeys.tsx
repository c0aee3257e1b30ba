/** The keys of the view of a story: what they do, and the list of them. */
import { useEffect, useEffectEvent } from "react";
import { keyBelongsTo } from "../../control/keyboard";
import type { Room } from "../../story/room";
import { type Placement, placementKey } from "./placement";
import type { Deeds } from "./deeds";

interface Hearers {
  room: Room;
  placement: Placement;
  deeds: Deeds;
  onNote: () => void;
  onHelp: () => void;
  onSave: () => void;
}

const MANY = 10;

/** What a key does in the view of a story; undefined: nothing. */
function deedOf(
  event: KeyboardEvent,
  { room, placement, deeds, onNote, onHelp, onSave }: Hearers,
): (() => void) | undefined {
  const far = event.shiftKey ? MANY : 1;
  const { side } = room.see().gaze;
  const number = /^[1-8]$/.test(event.key) ? Number(event.key) : null;
  if (side && number !== null)
    return () => {
      room.pick(number - 1);
    };
  const keys: Readonly<Record<string, () => void>> = {
    " ": () => {
      room.togglePlay();
    },
    ArrowLeft: () => {
      room.step(-far);
    },
    ArrowRight: () => {
      room.step(far);
    },
    ArrowUp: () => {
      room.otherLane(-1);
    },
    ArrowDown: () => {
      room.otherLane(1);
    },
    Home: () => {
      room.goTo(0);
    },
    End: () => {
      room.goTo(Infinity);
    },
    Enter: () => {
      if (side) room.keepPicked();
    },
    Escape: () => {
      if (placement.sticker) placement.drop();
      else room.leaveSide();
    },
    Delete: deeds.remove,
    Backspace: deeds.remove,
    "?": onHelp,
    b: deeds.order,
    c: () => {
      if (side) room.leaveSide();
      else room.compare();
    },
    d: onSave,
    g: () => {
      room.nextStar();
    },
    l: () => {
      room.toggleLoop();
    },
    n: onNote,
    s: deeds.star,
    x: () => {
      deeds.cancel();
    },
  };
  return keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
}

/** Keys work while no text field, dialog or recording needs them. */
export function useStoryKeys(open: boolean, hearers: Hearers): void {
  const press = useEffectEvent((event: KeyboardEvent) => {
    if (!open || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.body.dataset.recording || document.querySelector("dialog[open]")) return;
    const at = document.activeElement instanceof HTMLElement ? document.activeElement : null;
    if (keyBelongsTo(at, event.code) || (at && keyBelongsTo(at, event.key))) return;
    if (hearers.placement.sticker) {
      const used =
        event.key === "Enter"
          ? (hearers.deeds.put(), true)
          : placementKey(hearers.placement, event, hearers.room.see());
      if (used) event.preventDefault();
      if (used || event.key !== "Escape") return;
    }
    const deed = deedOf(event, hearers);
    if (!deed || (event.repeat && !event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    deed();
  });
  useEffect(() => {
    const hear = (event: KeyboardEvent): void => {
      press(event);
    };
    window.addEventListener("keydown", hear);
    return () => {
      window.removeEventListener("keydown", hear);
    };
  }, []);
}

const KEYS: readonly (readonly [string, readonly string[]])[] = [
  ["play, pause", ["Space"]],
  ["frame by frame, by ten", ["←", "→", "Shift"]],
  ["first, last frame", ["Home", "End"]],
  ["the branch above, below", ["↑", "↓"]],
  ["dream on from here", ["B"]],
  ["stop dreaming", ["X"]],
  ["side by side, and back", ["C"]],
  ["pick one of them, open it", ["1–8", "Enter"]],
  ["star, note", ["S", "N"]],
  ["the next star", ["G"]],
  ["remove this frame and all after it", ["Del"]],
  ["paste a picture onto the frame", ["Ctrl V"]],
  ["move, size, turn, mirror it", ["← ↑ ↓ →", "+ –", "[ ]", "M"]],
  ["put it on, cancel", ["Enter", "Esc"]],
  ["round and round", ["L"]],
  ["save", ["D"]],
  ["this list", ["?"]],
];

export function StoryKeys({ open, onOpen }: { open: boolean; onOpen: (open: boolean) => void }) {
  return (
    <details
      className="keys"
      open={open}
      onToggle={(event) => {
        onOpen(event.currentTarget.open);
      }}
    >
      <summary>All keys</summary>
      <table>
        <tbody>
          {KEYS.map(([does, keys]) => (
            <tr key={does}>
              <th scope="row">{does}</th>
              <td>
                {keys.map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
