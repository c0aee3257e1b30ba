import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Action, CONTROLS, isRest, REST, sameAction, toBins, together, valueOf } from "../src/control/controls";
import { DEAD_ZONE, fromGamepad, menuOf, type PadState, withoutDeadZone } from "../src/control/gamepad";
import { ControlInput } from "../src/control/useControls";
import { COMMANDS, fromKeys, keyBelongsTo, KEYS } from "../src/control/keyboard";
import { HEARTBEAT_MS, Sender } from "../src/control/sender";

function pad(changes: { axes?: number[]; pressed?: number[]; mapping?: string } = {}): PadState {
  const { axes = [0, 0, 0, 0], pressed = [], mapping = "standard" } = changes;
  const buttons = Array.from({ length: 17 }, (_, index) => ({
    pressed: pressed.includes(index),
    value: pressed.includes(index) ? 1 : 0,
  }));
  return { mapping, axes, buttons };
}

const read = (changes: Parameters<typeof pad>[0]): Action => {
  const action = fromGamepad(pad(changes));
  if (!action) throw new Error("not standard");
  return action;
};

describe("bins", () => {
  it("are a fixed point, so what comes back can be compared with what went out", () => {
    for (let value = -1; value <= 1; value += 0.01) {
      const once = toBins(CONTROLS.map(() => value));
      expect(toBins(once)).toEqual(once);
      expect(toBins(once.map(Math.fround))).toEqual(once);
    }
  });

  it("take sticks to eleven levels and the rest to 0 or 1", () => {
    expect(toBins([0.04, -0.3, 0.6, -1, 0.49, 0.5]).slice(0, 6)).toEqual([0, -0.375, 0.625, -1, 0, 1]);
    expect(toBins([Number.NaN, Infinity])).toEqual(REST);
  });
});

describe("keyboard", () => {
  it("walks forward with -1, as the wire wants it", () => {
    expect(valueOf(fromKeys(["KeyW"]), "left_stick_y")).toBe(-1);
    expect(valueOf(fromKeys(["ArrowUp"]), "right_stick_y")).toBe(-1);
    expect(valueOf(fromKeys(["ArrowRight"]), "right_stick_x")).toBe(1);
  });

  it("cancels opposite keys and does not double two keys for the same thing", () => {
    expect(isRest(fromKeys(["KeyA", "KeyD"]))).toBe(true);
    expect(valueOf(fromKeys(["ArrowLeft", "KeyJ"]), "right_stick_x")).toBe(-1);
  });

  it("reaches every control", () => {
    expect(new Set(Object.values(KEYS).map(({ control }) => control))).toEqual(new Set(CONTROLS));
    expect(Object.keys(COMMANDS).filter((code) => code in KEYS)).toEqual([]);
  });

  it("leaves keys to the element that needs them", () => {
    expect(keyBelongsTo({ tagName: "INPUT", type: "text" }, "KeyW")).toBe(true);
    expect(keyBelongsTo({ tagName: "textarea" }, "Space")).toBe(true);
    expect(keyBelongsTo({ tagName: "DIV", isContentEditable: true }, "KeyW")).toBe(true);
    expect(keyBelongsTo({ tagName: "INPUT", type: "range" }, "ArrowLeft")).toBe(true);
    expect(keyBelongsTo({ tagName: "INPUT", type: "range" }, "KeyW")).toBe(false);
    expect(keyBelongsTo({ tagName: "INPUT", type: "radio" }, "ArrowUp")).toBe(true);
    expect(keyBelongsTo({ tagName: "BUTTON" }, "Space")).toBe(true);
    expect(keyBelongsTo({ tagName: "BUTTON" }, "KeyW")).toBe(false);
    expect(keyBelongsTo({ tagName: "DIV" }, "Space")).toBe(false);
    expect(keyBelongsTo(null, "Space")).toBe(false);
  });
});

describe("gamepad", () => {
  it("maps the standard layout", () => {
    const at = (index: number): string[] => CONTROLS.filter((name) => valueOf(read({ pressed: [index] }), name) === 1);
    const order = [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15].map(at);
    expect(order).toEqual(
      [
        ...["button_A", "button_B", "button_X", "button_Y", "skill_1", "skill_2", "trigger_LT", "trigger_RT"],
        ...["dpad_up", "dpad_down", "dpad_left", "dpad_right"],
      ].map((name) => [name]),
    );
    expect(at(8)).toEqual([]);
    expect(menuOf(pad({ pressed: [8] }))).toEqual({ start: false, view: true });
  });

  it("keeps the browser's sign: up is -1 there and on the wire", () => {
    expect(valueOf(read({ axes: [0, -1, 0, 0] }), "left_stick_y")).toBe(-1);
    expect(valueOf(read({ axes: [0, 0, 1, 0] }), "right_stick_x")).toBe(1);
  });

  it("has a round dead zone that starts from nothing and reaches full", () => {
    expect(withoutDeadZone(DEAD_ZONE * 0.7, DEAD_ZONE * 0.7)).toEqual([0, 0]);
    const [x] = withoutDeadZone(DEAD_ZONE + 0.01, 0);
    expect(x).toBeGreaterThan(0);
    expect(x).toBeLessThan(0.05);
    const [dx, dy] = withoutDeadZone(0.7, 0.7);
    expect(Math.hypot(dx, dy)).toBeCloseTo(1);
    expect(withoutDeadZone(Number.NaN, 0)).toEqual([0, 0]);
  });

  it("does not guess at another layout", () => {
    expect(fromGamepad(pad({ mapping: "" }))).toBeNull();
  });
});

describe("input", () => {
  it("speak once a change, add sticks, and let go of everything at once", () => {
    const heard: Action[] = [];
    const input = new ControlInput((action) => heard.push(action));
    input.hold("keys", fromKeys(["KeyW"]), 1);
    input.hold("keys", fromKeys(["KeyW"]), 2);
    input.hold("gamepad", read({ axes: [0, 0, 1, 0], pressed: [7] }), 3);
    expect(heard).toHaveLength(2);
    expect(input.action.slice(0, 6)).toEqual([0, -1, 1, 0, 0, 1]);
    input.release(4);
    expect(heard).toHaveLength(3);
    expect(isRest(input.action)).toBe(true);
  });

  it("never go beyond the ends of a stick", () => {
    expect(together([fromKeys(["KeyD"]), read({ axes: [1, 0, 0, 0] })])[0]).toBe(1);
    expect(sameAction(together([]), REST)).toBe(true);
  });
});

describe("sender", () => {
  beforeEach(() => {
    vi.useFakeTimers({ now: 0 });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("sends a change at once, repeats only as a heartbeat, and never more than sixty a second", () => {
    const sent: { action: Action; at: number }[] = [];
    const sender = new Sender((action) => sent.push({ action, at: Date.now() }), Date.now);
    sender.start();
    vi.advanceTimersByTime(100);
    const turn = fromKeys(["ArrowRight"]);
    sender.offer(turn);
    sender.offer(turn);
    expect(sent).toHaveLength(2);
    for (let i = 0; i < 100; i += 1) {
      sender.offer(i % 2 ? turn : REST);
      vi.advanceTimersByTime(1);
    }
    expect(sent.length).toBeGreaterThan(4);
    expect(sent.length).toBeLessThanOrEqual(2 + 7);
    vi.advanceTimersByTime(50);
    expect(sent.at(-1)?.action).toEqual(turn);
    const before = sent.length;
    vi.advanceTimersByTime(4 * HEARTBEAT_MS);
    expect(sent.length).toBe(before + 4);
    sender.stop();
    vi.advanceTimersByTime(10_000);
    expect(sent.length).toBe(before + 4);
  });
});
