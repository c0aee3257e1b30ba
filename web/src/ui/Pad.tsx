/**
 * The controller on the screen: shows what is held and what the model presses, names the key of every part, and can
 * be touched, with as many fingers as there are. The keys do the same, so it takes no focus.
 */
import { useEffect, useRef } from "react";
import { type Action, type Control, CONTROLS, valueOf } from "../control/controls";
import type { ControlInput } from "../control/useControls";
import { inWords } from "../play/timeline";
import { useKeyLabels } from "./keyLabels";
import { Stick } from "./Stick";

interface Props {
  input: ControlInput;
  held: Action;
  used: Action;
  /** Whether the last frame's input was a person's. */
  given: boolean;
  /** A sentence on what can steer. */
  hint: string;
}

interface ButtonSpec {
  control: Control;
  label: string;
  code: string;
}

const SHOULDERS: readonly ButtonSpec[] = [
  { control: "trigger_LT", label: "LT", code: "KeyC" },
  { control: "skill_1", label: "LB", code: "KeyQ" },
  { control: "skill_2", label: "RB", code: "KeyE" },
  { control: "trigger_RT", label: "RT", code: "Space" },
];
const DPAD: readonly ButtonSpec[] = [
  { control: "dpad_up", label: "↑", code: "Digit1" },
  { control: "dpad_right", label: "→", code: "Digit2" },
  { control: "dpad_down", label: "↓", code: "Digit3" },
  { control: "dpad_left", label: "←", code: "Digit4" },
];
const FACE: readonly ButtonSpec[] = [
  { control: "button_Y", label: "Y", code: "KeyV" },
  { control: "button_B", label: "B", code: "ShiftLeft" },
  { control: "button_A", label: "A", code: "KeyF" },
  { control: "button_X", label: "X", code: "KeyR" },
];
const SIDES = ["up", "right", "down", "left"] as const;

export function Pad({ input, held, used, given, hint }: Props) {
  const touch = useTouch(input);
  const label = useKeyLabels();
  const model = given ? null : used;
  const button = ({ control, label: text, code }: ButtonSpec, place: string) => (
    <span
      key={control}
      className={`key ${place}`}
      data-control={control}
      data-held={valueOf(held, control) > 0}
      data-model={model !== null && valueOf(model, control) > 0}
      {...touch.button(control)}
    >
      <b>{text}</b>
      <kbd>{label(code)}</kbd>
    </span>
  );
  return (
    <section className="pad" aria-label="Controller">
      <div className="pad-body" aria-hidden="true">
        <div className="shoulders">{SHOULDERS.map((spec) => button(spec, "shoulder"))}</div>
        <div className="cross">{DPAD.map((spec, index) => button(spec, `dpad ${SIDES[index] ?? ""}`))}</div>
        <div className="cross face">{FACE.map((spec, index) => button(spec, `round ${SIDES[index] ?? ""}`))}</div>
        <Stick
          name="left"
          held={[valueOf(held, "left_stick_x"), valueOf(held, "left_stick_y")]}
          model={model && [valueOf(model, "left_stick_x"), valueOf(model, "left_stick_y")]}
          keys={["KeyW", "KeyD", "KeyS", "KeyA"].map(label)}
          onMove={touch.stick("left_stick_x", "left_stick_y")}
        />
        <Stick
          name="right"
          held={[valueOf(held, "right_stick_x"), valueOf(held, "right_stick_y")]}
          model={model && [valueOf(model, "right_stick_x"), valueOf(model, "right_stick_y")]}
          keys={["ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft"].map(label)}
          onMove={touch.stick("right_stick_x", "right_stick_y")}
        />
      </div>
      <p className="in-words" data-given={given}>
        <b>{given ? "You" : "Model"}</b> {inWords(used)}
      </p>
      <p className="hint">{hint}</p>
    </section>
  );
}

interface Touch {
  button: (
    control: Control,
  ) => Record<"onPointerDown" | "onPointerUp" | "onPointerCancel", (event: React.PointerEvent) => void>;
  stick: (x: Control, y: Control) => (vx: number, vy: number, at: number) => void;
}

/** What all fingers hold together, told to the input. */
function useTouch(input: ControlInput): Touch {
  const values = useRef(new Map<Control, number>());
  useEffect(() => {
    const held = values.current;
    const clear = (): void => {
      held.clear();
    };
    window.addEventListener("blur", clear);
    document.addEventListener("visibilitychange", clear);
    return () => {
      window.removeEventListener("blur", clear);
      document.removeEventListener("visibilitychange", clear);
    };
  }, []);
  const set = (changes: readonly (readonly [Control, number])[], at: number): void => {
    for (const [control, value] of changes) values.current.set(control, value);
    input.hold(
      "touch",
      CONTROLS.map((control) => values.current.get(control) ?? 0),
      at,
    );
  };
  return {
    button: (control) => {
      const up = (event: React.PointerEvent): void => {
        set([[control, 0]], event.timeStamp);
      };
      return {
        onPointerDown: (event) => {
          event.preventDefault();
          event.currentTarget.setPointerCapture(event.pointerId);
          set([[control, 1]], event.timeStamp);
        },
        onPointerUp: up,
        onPointerCancel: up,
      };
    },
    stick: (x, y) => (vx, vy, at) => {
      set(
        [
          [x, vx],
          [y, vy],
        ],
        at,
      );
    },
  };
}
