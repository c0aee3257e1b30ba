import { describe, expect, it } from "vitest";
import { REST } from "../src/control/controls";
import { fromKeys } from "../src/control/keyboard";
import { parseFrame } from "../src/net/header";
import { KeyToPicture, Rate, Recent, slownessOf } from "../src/play/latency";
import { History } from "../src/play/history";
import { inWords, rowsOf, THREADS, Timeline } from "../src/play/timeline";
import { labelOf } from "../src/ui/keyLabels";
import { seedIn } from "../src/ui/Settings";
import { frameBytes } from "./frames";

const TURN = fromKeys(["ArrowRight"]);
const frame = (action = REST, keyToFrame = Number.NaN) => parseFrame(frameBytes({ action, keyToFrame }));

describe("key to picture", () => {
  it("runs from the key event to the drawing of the first frame made with it", () => {
    const latency = new KeyToPicture();
    latency.press(TURN, 1000);
    latency.receive(frame(REST)); // made before the press was heard
    latency.drawn(1040);
    expect(latency.times.count).toBe(0);
    latency.receive(frame(TURN, 0.09));
    latency.drawn(1130);
    latency.receive(frame(TURN)); // still held, not new
    latency.drawn(1230);
    expect([latency.times.count, latency.times.median]).toEqual([1, 130]);
    expect(latency.serverTimes.median).toBeCloseTo(90);
  });

  it("counts a press whose own frame was overtaken before it was drawn", () => {
    const latency = new KeyToPicture();
    latency.press(TURN, 0);
    latency.receive(frame(TURN, 0.05));
    latency.receive(frame(TURN));
    latency.drawn(200);
    expect(latency.times.median).toBe(200);
  });

  it("forgets presses that were replaced, and those nobody answered", () => {
    const latency = new KeyToPicture();
    latency.press(TURN, 0);
    latency.press(REST, 10);
    latency.receive(frame(REST, 0.05));
    latency.drawn(100);
    latency.receive(frame(TURN, 0.05));
    latency.drawn(200);
    expect(latency.times.count).toBe(1);
    expect(latency.times.worst).toBe(90);
  });
});

describe("figures", () => {
  it("have no value before the first", () => {
    expect(new Recent().median).toBeNull();
    expect(new Recent().worst).toBeNull();
  });

  it("count frames by the time they took, and fall when none come", () => {
    const rate = new Rate();
    for (let at = 0; at <= 1900; at += 100) rate.add(at);
    expect(rate.at(1900)).toBeCloseTo(10);
    expect(rate.at(3500)).toBeLessThan(6);
    expect(rate.at(5000)).toBe(0);
  });
});

describe("the last minute", () => {
  it("keeps six hundred frames", () => {
    const timeline = new Timeline();
    for (let index = 0; index < THREADS + 5; index += 1) timeline.add(frame());
    expect(timeline.count).toBe(THREADS);
  });

  it("sorts presses into walking, looking and buttons", () => {
    expect(rowsOf(fromKeys(["KeyW", "Space"]))).toEqual({ walk: 1, look: 0, press: 1 });
  });

  it("has words for what is pressed", () => {
    expect(inWords(fromKeys(["KeyW", "KeyA", "ArrowLeft", "Space"]))).toBe("walk forward left, turn left, RT");
    expect(inWords(REST)).toBe("no input");
  });
});

describe("small things", () => {
  it("seeds are whole numbers in range", () => {
    expect(["12", " 7 ", "2147483647", "2147483648", "-1", "1.5", "x", ""].map(seedIn)).toEqual([
      12,
      7,
      2147483647,
      null,
      null,
      null,
      null,
      null,
    ]);
  });

  it("keys are called what is printed on them", () => {
    expect(labelOf("KeyW", new Map([["KeyW", "z"]]))).toBe("Z");
    expect(["KeyW", "Digit3", "ArrowUp", "Space"].map((code) => labelOf(code, null))).toEqual(["W", "3", "↑", "Space"]);
  });

  it("a tab remembers its session, and a full or broken store is no trouble", () => {
    const kept = new Map<string, string>();
    const store = {
      getItem: (name: string) => kept.get(name) ?? null,
      setItem: (name: string, text: string) => void kept.set(name, text),
      removeItem: (name: string) => void kept.delete(name),
    };
    const memory = new History(store);
    const opening = { prompt: "plaza", image: null, controller: "both", seed: null, temperature: 0.5 } as const;
    memory.save({ opening, token: null });
    memory.keepToken("T");
    memory.change({ seed: 3 });
    expect(new History(store).load()).toEqual({ opening: { ...opening, seed: 3 }, token: "T" });
    kept.set("playloom.session", "{");
    expect(memory.load()).toBeNull();
    const full = new History({
      ...store,
      setItem: () => {
        throw new Error("full");
      },
    });
    full.save({ opening, token: null });
    expect(full.load()).toBeNull();
  });
});

describe("a slow server", () => {
  it("is said in a sentence, below six tenths of the rate", () => {
    expect(slownessOf(333, 10)).toBe("The server generates 3 of 10 frames per second: its processor is busy.");
    expect(slownessOf(2500, 10)).toContain("0.4 of 10");
    expect(slownessOf(160, 10)).toBeNull();
    expect(slownessOf(null, 10)).toBeNull();
  });
});
