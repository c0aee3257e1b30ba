/** What each key does, by its place (so WASD is the same cross on every layout), and when a key is not ours. */
import { type Action, type Control, CONTROLS } from "./controls";

interface Push {
  control: Control;
  value: number;
}

const push = (control: Control, value = 1): Push => ({ control, value });

/** Physical key (`KeyboardEvent.code`) to the push it gives. */
export const KEYS: Readonly<Record<string, Push>> = {
  KeyW: push("left_stick_y", -1),
  KeyS: push("left_stick_y", 1),
  KeyA: push("left_stick_x", -1),
  KeyD: push("left_stick_x", 1),
  ArrowUp: push("right_stick_y", -1),
  ArrowDown: push("right_stick_y", 1),
  ArrowLeft: push("right_stick_x", -1),
  ArrowRight: push("right_stick_x", 1),
  KeyI: push("right_stick_y", -1),
  KeyK: push("right_stick_y", 1),
  KeyJ: push("right_stick_x", -1),
  KeyL: push("right_stick_x", 1),
  Space: push("trigger_RT"),
  KeyC: push("trigger_LT"),
  KeyF: push("button_A"),
  ShiftLeft: push("button_B"),
  ShiftRight: push("button_B"),
  KeyR: push("button_X"),
  KeyV: push("button_Y"),
  Digit1: push("dpad_up"),
  Digit2: push("dpad_right"),
  Digit3: push("dpad_down"),
  Digit4: push("dpad_left"),
  KeyQ: push("skill_1"),
  KeyE: push("skill_2"),
};

/** Keys that command the page, not the player. */
export const COMMANDS = { KeyP: "pause", KeyN: "step", Backspace: "reset" } as const;
export type Command = (typeof COMMANDS)[keyof typeof COMMANDS];

export const commandOf = (code: string): Command | undefined =>
  (COMMANDS as Readonly<Record<string, Command | undefined>>)[code];

/** The action of the keys that are down; opposite keys cancel. */
export function fromKeys(down: Iterable<string>): Action {
  const pushes = new Map<string, Push>();
  for (const code of down) {
    const found = KEYS[code];
    if (found) pushes.set(`${found.control} ${found.value}`, found);
  }
  const action = CONTROLS.map(() => 0);
  for (const { control, value } of pushes.values()) {
    const index = CONTROLS.indexOf(control);
    action[index] = (action[index] ?? 0) + value;
  }
  return action;
}

/** The little of an element that decides whether it wants a key for itself. */
export interface Focused {
  tagName: string;
  type?: string | undefined;
  isContentEditable?: boolean | undefined;
}

const BUTTON_LIKE = new Set(["button", "checkbox", "submit", "reset", "file"]);
const ARROWS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"];

/** Whether the element that has the focus needs this key itself: writing, sliding, choosing, pressing a button. */
export function keyBelongsTo(focused: Focused | null, code: string): boolean {
  if (!focused) return false;
  if (focused.isContentEditable) return true;
  const tag = focused.tagName.toUpperCase();
  if (tag === "TEXTAREA" || tag === "SELECT") return true;
  if (tag === "BUTTON" || tag === "SUMMARY" || tag === "A") return code === "Space" || code === "Enter";
  if (tag !== "INPUT") return false;
  const type = (focused.type ?? "text").toLowerCase();
  if (BUTTON_LIKE.has(type)) return code === "Space" || code === "Enter";
  if (type === "radio") return code === "Space" || ARROWS.includes(code);
  if (type === "range") return [...ARROWS, "Home", "End", "PageUp", "PageDown"].includes(code);
  return true;
}
