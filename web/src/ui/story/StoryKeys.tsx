/** The keys of the view of a story: what they do, and the list of them. */
import { useEffect, useEffectEvent } from "react";
import { keyBelongsTo } from "../../control/keyboard";
import type { StoryController } from "../../story/controller";
import { type Placement, placementKey } from "./placement";
import type { Commands } from "./commands";

interface Hearers {
  controller: StoryController;
  placement: Placement;
  commands: Commands;
  onNote: () => void;
  onHelp: () => void;
  onSave: () => void;
}

const MANY = 10;

/** What a key does in the view of a story; undefined: nothing. */
function deedOf(
  event: KeyboardEvent,
  { controller, placement, commands, onNote, onHelp, onSave }: Hearers,
): (() => void) | undefined {
  const far = event.shiftKey ? MANY : 1;
  const { side } = controller.see().state;
  const number = /^[1-8]$/.test(event.key) ? Number(event.key) : null;
  if (side && number !== null)
    return () => {
      controller.pick(number - 1);
    };
  const keys: Readonly<Record<string, () => void>> = {
    " ": () => {
      controller.togglePlay();
    },
    ArrowLeft: () => {
      controller.step(-far);
    },
    ArrowRight: () => {
      controller.step(far);
    },
    ArrowUp: () => {
      controller.otherLane(-1);
    },
    ArrowDown: () => {
      controller.otherLane(1);
    },
    Home: () => {
      controller.goTo(0);
    },
    End: () => {
      controller.goTo(Infinity);
    },
    Enter: () => {
      if (side) controller.keepPicked();
    },
    Escape: () => {
      if (placement.image) placement.drop();
      else controller.leaveSide();
    },
    Delete: commands.remove,
    Backspace: commands.remove,
    "?": onHelp,
    b: commands.order,
    c: () => {
      if (side) controller.leaveSide();
      else controller.compare();
    },
    d: onSave,
    g: () => {
      controller.nextStar();
    },
    l: () => {
      controller.toggleLoop();
    },
    n: onNote,
    s: commands.star,
    x: () => {
      commands.cancel();
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
    if (hearers.placement.image) {
      const used =
        event.key === "Enter"
          ? (hearers.commands.put(), true)
          : placementKey(hearers.placement, event, hearers.controller.see());
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
  ["loop", ["L"]],
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
