/** Play without a server, on a model that makes no effort: messages, clock, actions, noise and frames. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import { fromValues, REST, toValues } from "../src/control/controls";
import type { Dream } from "../src/local/dream";
import { Live, type Said } from "../src/local/live";
import type { Model } from "../src/local/model";
import { choose, Source } from "../src/local/sampling";
import { type Frame, packFrame, parseFrame } from "../src/net/header";

const FORWARD = REST.map((value, index) => (index === 1 ? -1 : value));

describe("actions", () => {
  it("are twelve buttons, then stick bins with forward up", () => {
    expect(toValues(REST)).toEqual([...Array<number>(12).fill(0), 5, 5, 5, 5]);
    expect(toValues(FORWARD).slice(12)).toEqual([5, 10, 5, 5]);
    const held = [-0.4, 0.3, 1, -0.06, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    expect(toValues(held)).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 10, 6]);
  });
  it("come back as they went out", () => {
    for (let bin = 0; bin <= 10; bin++) {
      const values = [...Array<number>(12).fill(1), bin, 10 - bin, bin, bin];
      expect(toValues(fromValues(values))).toEqual(values);
    }
  });
});

describe("noise", () => {
  const logits = Float32Array.from({ length: 64 }, (_, index) => Math.sin(index) * 3);

  it("is the same for the same seed, and another for each step", () => {
    const [one, same, other] = [new Source(3), new Source(3), new Source(4)];
    const draws = one.next();
    expect(same.next().at(5)).toBe(draws.at(5));
    expect(other.next().at(5)).not.toBe(draws.at(5));
    expect(one.next().at(5)).not.toBe(draws.at(5));
  });
  it("takes each choice as often as its probability says", () => {
    const counts = new Float64Array(logits.length);
    const draws = new Source(1).next();
    const tries = 40_000;
    for (let index = 0; index < tries; index++) {
      const chosen = choose(logits, 1, draws, index * logits.length);
      counts[chosen] = (counts[chosen] ?? 0) + 1;
    }
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
    logits.forEach((logit, index) => {
      const share = Math.exp(logit) / total;
      const deviation = Math.sqrt(share * (1 - share) * tries);
      expect(Math.abs((counts[index] ?? 0) - share * tries)).toBeLessThan(4.5 * deviation + 1);
    });
  });
  it("leaves out choices of high risk, but not at temperature 0", () => {
    const values = logits.map((_, index) => (index % 2 ? 4 : 0));
    const tries = Array.from({ length: 50 }, (_, index) => index * logits.length);
    const draws = new Source(2).next();
    const found = (weight: number): number[] =>
      tries.map((first) => choose(logits, 1, draws, first, { values, weight }) % 2);
    expect(Math.max(...found(20))).toBe(0);
    expect(Math.max(...found(0))).toBe(1);
    const likeliest = logits.indexOf(Math.max(...logits));
    expect(choose(logits, 0, draws, 0, { values: logits.map(() => 4), weight: 20 })).toBe(likeliest);
  });
  it("is nothing at temperature 0", () => {
    expect(choose(logits, 0, new Source(1).next(), 0)).toBe(logits.indexOf(Math.max(...logits)));
  });
});

it("a frame made here is read as one of a server is", () => {
  const frame = { sequence: 4, dream: 1, time: 2.5, keyToFrame: null, cost: 0.25, given: false, action: FORWARD };
  const pixels = Uint8Array.from({ length: 3 * 2 * 3 }, (_, index) => index);
  const found = parseFrame(packFrame(frame, pixels, 2, 3));
  expect(found).toMatchObject({ ...frame, mime: "image/bmp" });
  const row = found.picture.subarray(54 + 8, 54 + 14); // rows are padded to whole words
  expect([...row]).toEqual([8, 7, 6, 11, 10, 9]);
});

describe("live play", () => {
  let said: Said[];
  let frames: Frame[];
  let given: (number[] | null)[];
  let live: Live;
  let cost: number;

  const now = (): number => Date.now() / 1000;
  const last = <T>(values: readonly T[]): T | undefined => values.at(-1);
  const state = (): Said | undefined => last(said.filter(({ type }) => type === "state" || type === "ready"));
  const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);
  const begin = (): Promise<unknown> => {
    const opening = { prompt: "yard", image: null, controller: "person", seed: 7, temperature: null } as const;
    live.hear({ type: "hello", key: null, resume: null, format: "jpeg", ...opening });
    return pass(1);
  };

  beforeEach(() => {
    vi.useFakeTimers();
    [said, frames, given, cost] = [[], [], [], 0];
    const dream = {
      giveFrame: () => Promise.resolve(),
      giveAction: (values: number[]) => Promise.resolve(void given.push(values)),
      dreamAction: () => Promise.resolve((given.push(null), toValues(FORWARD))),
      dreamFrame: () => Promise.resolve((vi.setSystemTime(Date.now() + cost), [1])),
    };
    const model = {
      site: {
        fps: 10,
        prompts: { yard: { codes: [[1], [2]], actions: [toValues(REST)] } },
        description: { name: "toy", frame: [2, 2, 3] },
      },
      dream: () => dream as unknown as Dream,
      sampling: (temperature: number | null) => ({
        temperature: temperature ?? 0.5,
        actionTemperature: 1,
        riskWeight: 0,
      }),
      decode: () => Promise.resolve(new Uint8Array(12)),
      encode: () => Promise.resolve([3]),
      marked: (pixels: Uint8Array) => pixels,
    };
    live = new Live(model as unknown as Model, {
      say: (message) => said.push(message),
      show: (frame) => frames.push(parseFrame(frame)),
      now,
      pixels: () => Promise.resolve(new Uint8Array(12)),
    });
    void live.run();
  });

  it("opens, then makes ten frames a second", async () => {
    await begin();
    expect(said[0]).toMatchObject({ type: "opening", seen: 0, steps: 2 });
    expect(state()).toMatchObject({ type: "ready", prompt: "yard", seed: 7, temperature: 0.5, fps: 10 });
    await pass(2000);
    expect(frames.length).toBeGreaterThanOrEqual(20);
    expect(frames.length).toBeLessThanOrEqual(22);
  });
  it("takes the newest input, and says how long its frame took", async () => {
    await begin();
    await pass(250);
    live.act(FORWARD, now() - 0.02);
    await pass(100);
    expect(last(given)).toEqual(toValues(FORWARD));
    expect(last(frames)?.keyToFrame).toBeGreaterThan(0.02);
    await pass(100);
    expect(last(frames)?.keyToFrame).toBeNull();
  });
  it("lets the model act while nothing is held", async () => {
    live.hear({ type: "controller", value: "both" });
    await begin();
    live.hear({ type: "controller", value: "both" });
    await pass(200);
    expect(last(frames)).toMatchObject({ given: false, action: FORWARD });
    live.act(FORWARD, now());
    await pass(100);
    expect(last(frames)?.given).toBe(true);
  });
  it("skips ticks when frames take longer", async () => {
    cost = 250;
    await begin();
    await pass(4000);
    live.hear({ type: "temperature", value: 1 });
    const counts = state() as { late: number; skipped: number; temperature: number };
    expect(counts.late).toBeGreaterThan(3);
    expect(counts.skipped).toBeGreaterThan(counts.late);
    expect(counts.temperature).toBe(1);
  });
  it("pauses, makes one frame a step, and starts over", async () => {
    await begin();
    await pass(300);
    live.hear({ type: "pause" });
    await pass(100);
    const before = frames.length;
    await pass(1000);
    live.hear({ type: "step" });
    await pass(1000);
    expect(frames.length).toBe(before + 1);
    live.hear({ type: "reset", seed: 9, image: "AAAA" });
    await pass(100);
    expect(state()).toMatchObject({ seed: 9, prompt: null, paused: true });
    live.hear({ type: "resume" });
    await pass(300);
    expect(last(frames)?.dream).toBe(1);
  });
  it("makes no frames while the page is hidden or left", async () => {
    await begin();
    live.hide(true);
    await pass(50);
    const before = frames.length;
    await pass(1000);
    expect(frames.length).toBe(before);
    live.hide(false);
    await pass(300);
    expect(frames.length).toBeGreaterThan(before);
    live.leave();
    await pass(200);
    const after = frames.length;
    await pass(1000);
    expect(frames.length).toBe(after);
  });
});
