/** The parts of the view of a story that know nothing of the page. */
import { describe, expect, it } from "vitest";
import { REST } from "../src/control/controls";
import { freeName, storyIn as storyInAddress } from "../src/story/address";
import { removeBackground, hasPlainCorners, hasTransparency } from "../src/story/removeBackground";
import { Pointers } from "../src/story/pointers";
import { gridOf } from "../src/story/grid";
import { branchIn, entriesIn, fromBins, nodeIn, removedIn, storyIn } from "../src/story/model";
import { DEFAULT_BRANCH_FORM, orderOf, pressedIn, type BranchForm } from "../src/story/order";
import * as overlay from "../src/story/overlay";
import { Performance } from "../src/story/perform";
import { nextLevel, toggled } from "../src/ui/story/HoldPad";
import { node } from "./stories";

const FRAME = { width: 300, height: 180 };
const AT_REST = [...Array.from({ length: 12 }, () => 0), 5, 5, 5, 5];

describe("what the server tells", () => {
  it("is read, with the bins as an action of the page: up is -1", () => {
    const bins = [...AT_REST];
    [bins[0], bins[12], bins[13]] = [1, 0, 10];
    const read = nodeIn({
      id: 3,
      parent: 2,
      origin: "dreamed",
      action: bins,
      action_source: "model",
      branch: 0,
      edit_of: null,
    });
    expect(read.action?.slice(0, 6)).toEqual([-1, -1, 0, 0, 1, 0]);
    expect(read).toMatchObject({ id: 3, parent: 2, actionSource: "model", starred: false, note: "", editOf: null });
    expect(fromBins(AT_REST)).toEqual(REST);
  });

  it("is refused in a sentence when it is no story, node or branch", () => {
    for (const read of [storyIn, nodeIn, branchIn]) expect(() => read({ some: "thing" })).toThrow(/cannot read/);
    expect(() => storyIn(null)).toThrow(/cannot read/);
  });

  it("may leave things out", () => {
    expect(storyIn({ id: "a", nodes: [] })).toMatchObject({ branches: [], context: 1, fps: 10, event: 0 });
    expect(storyIn({ id: "a", nodes: [], revision: 12, size: [180, 300] })).toMatchObject({ event: 12, width: 300 });
    expect(entriesIn({ stories: [{ id: "a", error: "damaged" }, { no: "id" }] })).toMatchObject([
      { id: "a", frames: 0, picture: null, error: "damaged" },
    ]);
    expect(entriesIn(null)).toEqual([]);
    expect(removedIn({ nodes: [1, "2"], branches: [0] })).toEqual({ nodes: [1], branches: [0], from: null });
  });
});

describe("an order", () => {
  const form = (changes: Partial<BranchForm>): BranchForm => ({ ...DEFAULT_BRANCH_FORM, ...changes });
  const forward = fromBins([...AT_REST.slice(0, 13), 10, 5, 5]);

  it("is what the panel says, and no more than the model sees", () => {
    expect(orderOf(form({}), 9, 10)).toEqual({ from: 9, count: 4, frames: 30, context: 10, controlled_by: "model" });
    expect(orderOf(form({ context: 50, seed: 3, temperature: 0 }), 9, 10)).toMatchObject({
      context: 10,
      seed: 3,
      temperature: 0,
    });
  });

  it("holds, for all frames or the first ones", () => {
    expect(orderOf(form({ how: "hold", held: forward }), 0, 10)).toMatchObject({
      controlled_by: "player",
      action: forward,
    });
    expect(orderOf(form({ how: "hold", held: forward, forced: 2 }), 0, 10)).toMatchObject({
      controlled_by: "model",
      actions: [forward, forward],
    });
  });

  it("takes a script or what was recorded, and says what is missing", () => {
    expect(orderOf(form({ how: "script", script: " fire " }), 0, 10)).toMatchObject({
      controlled_by: "player",
      script: "fire",
    });
    expect(orderOf(form({ how: "script", script: " " }), 0, 10)).toBe("Write the inputs first.");
    expect(orderOf(form({ how: "perform" }), 0, 10)).toBe("Record the inputs first.");
    const recorded = form({ how: "perform", performed: [forward, REST, forward], frames: 2, thenModel: true });
    expect(orderOf(recorded, 0, 10)).toMatchObject({ controlled_by: "model", actions: [forward, REST] });
  });

  it("is told in a few words afterwards", () => {
    expect(pressedIn([])).toBe("");
    expect(pressedIn([node(1, 0, { action: REST })])).toBe("no input");
    expect(pressedIn([node(1, 0, { action: forward }), node(2, 1, { action: REST })])).toBe("walk forward, …");
    expect(pressedIn([node(1, 0, { actionSource: "model" })])).toBe("model inputs");
  });
});

describe("a pad that stays as it is left", () => {
  it("adds choices to each other, and takes one away when it is chosen again", () => {
    const forward = REST.map((_, index) => (index === 1 ? -1 : 0));
    const right = REST.map((_, index) => (index === 2 ? 1 : 0));
    const both = toggled(toggled(REST, forward), right);
    expect(both.slice(0, 4)).toEqual([0, -1, 1, 0]);
    expect(toggled(both, forward)).toEqual(right);
  });

  it("goes over the positions that the model knows", () => {
    expect(nextLevel(0, 1)).toBe(0.15);
    expect(nextLevel(1, 1)).toBe(1);
    expect(nextLevel(-0.85, -1)).toBe(-1);
  });
});

describe("inputs that are played", () => {
  it("begin with the first press and end with the last frame", () => {
    const fire = REST.map((_, index) => (index === 5 ? 1 : 0));
    const performance = new Performance(2);
    performance.tick(REST);
    expect(performance.begun).toBe(false);
    for (const held of [fire, REST, fire]) performance.tick(held);
    expect(performance.done).toBe(true);
    expect(performance.made).toEqual([fire, REST]);
  });
});

describe("a picture on a frame", () => {
  const start = overlay.placed({ width: 600, height: 300 }, FRAME);

  it("begins in the middle, at most two fifths wide", () => {
    expect(start).toMatchObject({ x: 150, y: 90, width: 120, aspect: 0.5, turn: 0, opacity: 1 });
    expect(overlay.placed({ width: 30, height: 20 }, FRAME).width).toBe(30);
  });

  it("is moved no further than the frame goes", () => {
    expect(overlay.moved(start, 1000, -20, FRAME)).toMatchObject({ x: 300, y: 70 });
  });

  it("grows by its corner about its middle, and turns by its handle", () => {
    const grown = overlay.pulled(start, { x: 210, y: 90 }, { x: 270, y: 90 }, FRAME);
    expect(grown.width).toBeCloseTo(240);
    expect(overlay.spun(start, { x: 150, y: 40 }, { x: 200, y: 90 }).turn).toBeCloseTo(90);
    expect(overlay.turned({ ...start, turn: 170 }, 20).turn).toBe(-170);
  });

  it("follows two fingers", () => {
    const pointers = [
      { x: 100, y: 90 },
      { x: 200, y: 90 },
    ] as const;
    const pinched = overlay.pinched(
      start,
      pointers,
      [
        { x: 150, y: 40 },
        { x: 150, y: 240 },
      ],
      FRAME,
    );
    expect(pinched).toMatchObject({ x: 150, y: 140 });
    expect(pinched.width).toBeCloseTo(240);
    expect(pinched.turn).toBeCloseTo(90);
  });

  it("hears of every finger", () => {
    const pointers = new Pointers();
    pointers.down(1, { x: 0, y: 0 });
    expect(pointers.move(2, { x: 1, y: 1 })).toBeNull();
    pointers.down(2, { x: 5, y: 5 });
    expect(pointers.move(1, { x: 2, y: 0 })).toEqual({
      from: { x: 0, y: 0 },
      to: { x: 2, y: 0 },
      other: { x: 5, y: 5 },
    });
    pointers.up(2);
    expect(pointers.move(1, { x: 3, y: 0 })).toMatchObject({ from: { x: 2, y: 0 }, other: null });
  });
});

describe("a picture without transparency", () => {
  const white = [255, 255, 255, 255];
  const black = [0, 0, 0, 255];
  /** Five by five: white, with a black ring, and white inside of it. */
  const ring = () => {
    const data = new Uint8ClampedArray(25 * 4);
    for (let at = 0; at < 25; at += 1) {
      const [x, y] = [at % 5, Math.floor(at / 5)];
      const edge = Math.max(Math.abs(x - 2), Math.abs(y - 2));
      data.set(edge === 1 ? black : white, at * 4);
    }
    return { width: 5, height: 5, data };
  };

  it("loses what its edge is like, not what is like it inside", () => {
    const pixels = ring();
    expect([hasTransparency(pixels), hasPlainCorners(pixels)]).toEqual([false, true]);
    removeBackground(pixels);
    const alpha = Array.from({ length: 25 }, (_, at) => pixels.data[at * 4 + 3]);
    expect([alpha[0], alpha[4], alpha[12], alpha[6]]).toEqual([0, 0, 255, 255]);
    expect(hasTransparency(pixels)).toBe(true);
  });

  it("has no plain corners when one differs", () => {
    const pixels = ring();
    pixels.data.set(black, 24 * 4);
    expect(hasPlainCorners(pixels)).toBe(false);
  });
});

describe("pictures side by side", () => {
  const place = { width: 1000, height: 400, gap: 10, caption: 30 };

  it("are as large as the place allows", () => {
    expect(gridOf(1, 5 / 3, place)).toEqual({ columns: 1, width: 616 });
    expect(gridOf(2, 5 / 3, place)).toEqual({ columns: 2, width: 495 });
    expect(gridOf(8, 5 / 3, place).columns).toBe(4);
    expect(gridOf(4, 5 / 3, { ...place, width: 300, height: 2000 }).columns).toBe(1);
  });
});

describe("the address", () => {
  it("is of a story with a name of its own", () => {
    expect(freeName("Court", [])).toBe("Court");
    expect(freeName("Court", ["Court", "Court 2", "Plaza"])).toBe("Court 3");
  });

  it("names a story, or none", () => {
    expect(storyInAddress("#story=0af3")).toBe("0af3");
    expect(storyInAddress("#story=one.0af3")).toBe("one.0af3");
    expect([storyInAddress(""), storyInAddress("#story=a/../b"), storyInAddress("#keys")]).toEqual([null, null, null]);
  });
});
