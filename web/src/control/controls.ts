/** The sixteen controls in the order in which they travel, and their bins. On a y axis -1 is forward / up (`named`). */

export const CONTROLS = [
  "left_stick_x",
  "left_stick_y",
  "right_stick_x",
  "right_stick_y",
  "trigger_LT",
  "trigger_RT",
  "button_A",
  "button_B",
  "button_X",
  "button_Y",
  "dpad_up",
  "dpad_down",
  "dpad_left",
  "dpad_right",
  "skill_1",
  "skill_2",
] as const;

export type Control = (typeof CONTROLS)[number];
/** Sixteen numbers in the order of `CONTROLS`. */
export type Action = readonly number[];

export const REST: Action = CONTROLS.map(() => 0);
const AXES = 4;
const EDGES = [0.05, 0.25, 0.5, 0.75, 0.95];
const LEVELS = [0, 0.15, 0.375, 0.625, 0.85, 1];
const REST_BIN = 5;

export const indexOf = (control: Control): number => CONTROLS.indexOf(control);

/** The value of a control in an action; 0 where it is missing. */
export const valueOf = (action: Action, control: Control): number => action[indexOf(control)] ?? 0;

/**
 * The nearest action the model knows: sticks at the value of their bin, everything else 0 or 1.
 *
 * What is sent is always such an action, so a stick that trembles inside its bin sends nothing, and the action that
 * comes back with a frame can be compared exactly with the one that went out.
 */
export function toBins(action: Action): Action {
  return CONTROLS.map((_, index) => {
    const value = finite(action[index]);
    if (index >= AXES) return value >= 0.5 ? 1 : 0;
    const level = LEVELS[EDGES.filter((edge) => Math.abs(value) >= edge).length] ?? 0;
    return value < 0 ? 0 - level : level;
  });
}

/** Whether two actions are the same to the model. */
export function sameAction(one: Action, other: Action): boolean {
  const [a, b] = [toBins(one), toBins(other)];
  return a.every((value, index) => value === b[index]);
}

/** An action as the model has it: twelve buttons, then the bins of four stick axes, where +y is forward. */
export function toValues(action: Action): number[] {
  const binned = toBins(action);
  const sticks = binned.slice(0, AXES).map((value, axis) => {
    const away = LEVELS.indexOf(Math.abs(value));
    return REST_BIN + Math.sign(axis % 2 ? -value : value) * away;
  });
  return [...binned.slice(AXES), ...sticks];
}

/** The inverse of `toValues`. */
export function fromValues(values: readonly number[]): Action {
  const buttons = CONTROLS.length - AXES;
  const sticks = values.slice(buttons).map((bin, axis) => {
    const away = bin - REST_BIN;
    const level = Math.sign(away) * (LEVELS[Math.abs(away)] ?? 0);
    return axis % 2 ? 0 - level : level;
  });
  return [...sticks, ...values.slice(0, buttons)];
}

export const isRest = (action: Action): boolean => sameAction(action, REST);

/** Several input on one controller: sticks add up, of everything else the strongest counts. */
export function together(actions: readonly Action[]): Action {
  return CONTROLS.map((_, index) => {
    const values = actions.map((action) => finite(action[index]));
    if (index >= AXES) return Math.min(1, Math.max(0, ...values));
    return Math.min(
      1,
      Math.max(
        -1,
        values.reduce((sum, value) => sum + value, 0),
      ),
    );
  });
}

function finite(value: number | undefined): number {
  return value !== undefined && Number.isFinite(value) ? value : 0;
}
