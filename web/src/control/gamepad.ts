/** A gamepad of the standard mapping as an action. The dead zone is round; what lies outside it starts from nothing. */
import { type Action, type Control, CONTROLS } from "./controls";

/** The little of the browser's `Gamepad` that is read. */
export interface PadState {
  mapping: string;
  axes: readonly number[];
  buttons: readonly { pressed: boolean; value: number }[];
}

export const DEAD_ZONE = 0.16;
/** Sticks seldom reach 1 all round: from here on they count as full. */
export const FULL = 0.96;

/** Control to the index of its button in the standard mapping. */
const BUTTONS: readonly (readonly [Control, number])[] = [
  ["button_A", 0],
  ["button_B", 1],
  ["button_X", 2],
  ["button_Y", 3],
  ["skill_1", 4],
  ["skill_2", 5],
  ["trigger_LT", 6],
  ["trigger_RT", 7],
  ["dpad_up", 12],
  ["dpad_down", 13],
  ["dpad_left", 14],
  ["dpad_right", 15],
];
const MENU = { view: 8, start: 9 } as const;

/** A stick with its dead zone taken out; length 0 to 1, direction kept. */
export function withoutDeadZone(x: number, y: number): [number, number] {
  const length = Math.hypot(x, y);
  if (!(length > DEAD_ZONE)) return [0, 0];
  const scale = Math.min(1, (length - DEAD_ZONE) / (FULL - DEAD_ZONE)) / length;
  return [x * scale, y * scale];
}

/** The action of a pad; null when its mapping is not the standard one. The browser's y axes already say -1 for up. */
export function fromGamepad(pad: PadState): Action | null {
  if (pad.mapping !== "standard") return null;
  const axis = (index: number): number => pad.axes[index] ?? 0;
  const action = CONTROLS.map(() => 0);
  [action[0], action[1]] = withoutDeadZone(axis(0), axis(1));
  [action[2], action[3]] = withoutDeadZone(axis(2), axis(3));
  for (const [control, index] of BUTTONS) action[CONTROLS.indexOf(control)] = pressure(pad, index);
  return action;
}

/** Whether Start (pause) and View (start over) are down. */
export function menuOf(pad: PadState): { start: boolean; view: boolean } {
  return { start: pressure(pad, MENU.start) >= 0.5, view: pressure(pad, MENU.view) >= 0.5 };
}

function pressure(pad: PadState, index: number): number {
  const button = pad.buttons[index];
  return button ? Math.max(button.value, button.pressed ? 1 : 0) : 0;
}
