/** A controller that stays as it is left: choose what is held, by a word, by touch or by keys. */
import {
  type Action,
  type Control,
  CONTROLS,
  indexOf,
  isRest,
  REST,
  sameAction,
  toBins,
  valueOf,
} from "../../control/controls";
import { inWords } from "../../play/timeline";
import { Stick } from "../Stick";

interface Props {
  held: Action;
  onHeld: (held: Action) => void;
}

const pressing = (values: Partial<Record<Control, number>>): Action => CONTROLS.map((control) => values[control] ?? 0);

const CHOICES: readonly (readonly [string, Action])[] = [
  ["Nothing", REST],
  ["Forward", pressing({ left_stick_y: -1 })],
  ["Back", pressing({ left_stick_y: 1 })],
  ["Turn left", pressing({ right_stick_x: -1 })],
  ["Turn right", pressing({ right_stick_x: 1 })],
  ["Fire", pressing({ trigger_RT: 1 })],
  ["Jump", pressing({ button_A: 1 })],
];

const SHOULDERS: readonly (readonly [Control, string])[] = [
  ["trigger_LT", "LT"],
  ["skill_1", "LB"],
  ["skill_2", "RB"],
  ["trigger_RT", "RT"],
];
const CROSS: readonly (readonly [Control, string, string])[] = [
  ["dpad_up", "↑", "D-pad up"],
  ["dpad_right", "→", "D-pad right"],
  ["dpad_down", "↓", "D-pad down"],
  ["dpad_left", "←", "D-pad left"],
];
const FACE: readonly (readonly [Control, string, string])[] = [
  ["button_Y", "Y", "Y"],
  ["button_B", "B", "B"],
  ["button_A", "A", "A"],
  ["button_X", "X", "X"],
];
const SIDES = ["up", "right", "down", "left"] as const;
const LEVELS = [-1, -0.85, -0.625, -0.375, -0.15, 0, 0.15, 0.375, 0.625, 0.85, 1];

const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The next position of an axis that the model knows, to either side. */
export function nextLevel(value: number, by: number): number {
  const at = LEVELS.findIndex((level) => Math.abs(level - value) < 0.01);
  return LEVELS[Math.max(0, Math.min(LEVELS.length - 1, (at < 0 ? 5 : at) + by))] ?? 0;
}

export function HoldPad({ held, onHeld }: Props) {
  const set = (changes: Partial<Record<Control, number>>): void => {
    onHeld(toBins(CONTROLS.map((control) => changes[control] ?? valueOf(held, control))));
  };
  const key = (control: Control, label: string, name: string, place: string) => (
    <button
      key={control}
      type="button"
      className={`key ${place}`}
      aria-pressed={valueOf(held, control) > 0}
      aria-label={name}
      data-control={control}
      data-held={valueOf(held, control) > 0}
      onClick={() => {
        set({ [control]: valueOf(held, control) > 0 ? 0 : 1 });
      }}
    >
      <b>{label}</b>
    </button>
  );
  return (
    <div className="hold">
      <ul className="chips" aria-label="Often held">
        {CHOICES.map(([name, action]) => (
          <li key={name}>
            <button
              type="button"
              aria-pressed={sameAction(held, action)}
              onClick={() => {
                onHeld(isRest(action) ? REST : toggled(held, action));
              }}
            >
              {name}
            </button>
          </li>
        ))}
      </ul>
      <div className="pad-body">
        <div className="shoulders">{SHOULDERS.map(([control, label]) => key(control, label, label, "shoulder"))}</div>
        <HeldStick name="left" x="left_stick_x" y="left_stick_y" held={held} set={set} />
        <HeldStick name="right" x="right_stick_x" y="right_stick_y" held={held} set={set} />
        <div className="cross">
          {CROSS.map(([control, label, name], at) => key(control, label, name, `dpad ${SIDES[at] ?? ""}`))}
        </div>
        <div className="cross face">
          {FACE.map(([control, label, name], at) => key(control, label, name, `round ${SIDES[at] ?? ""}`))}
        </div>
      </div>
      <p className="in-words" data-given="true" role="status">
        <b>Held</b> {inWords(held)}
      </p>
    </div>
  );
}

/** Adds a choice to what is held, so that two of them make one; the same choice again takes it away. */
export function toggled(held: Action, choice: Action): Action {
  const on = choice.every((value, index) => value === 0 || held[index] === value);
  return held.map((value, index) => (choice[index] ? (on ? 0 : (choice[index] ?? 0)) : value));
}

interface StickProps {
  name: "left" | "right";
  x: Control;
  y: Control;
  held: Action;
  set: (changes: Partial<Record<Control, number>>) => void;
}

function HeldStick({ name, x, y, held, set }: StickProps) {
  const values: readonly [number, number] = [valueOf(held, x), valueOf(held, y)];
  const words = inWords(held.map((value, index) => (index === indexOf(x) || index === indexOf(y) ? value : 0)));
  return (
    <div
      className="held-stick"
      tabIndex={0}
      role="group"
      aria-label={`${name === "left" ? "Left" : "Right"} stick: ${words}. Arrow keys move it, 0 lets it go.`}
      onKeyDown={(event) => {
        const move = MOVES[event.key];
        if (!move && event.key !== "0") return;
        event.preventDefault();
        event.stopPropagation();
        set(move ? { [x]: nextLevel(values[0], move[0]), [y]: nextLevel(values[1], move[1]) } : { [x]: 0, [y]: 0 });
      }}
      onDoubleClick={() => {
        set({ [x]: 0, [y]: 0 });
      }}
    >
      <Stick
        name={name}
        held={values}
        model={null}
        keys={[]}
        stays
        onMove={(vx, vy) => {
          const near = Math.hypot(vx, vy) < 0.25;
          set({ [x]: near ? 0 : vx, [y]: near ? 0 : vy });
        }}
      />
    </div>
  );
}
