import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { REST } from "../src/control/controls";
import { fromKeys } from "../src/control/keyboard";
import { rowsFor } from "../src/ui/Keys";
import { ApiError, askUntilAnswered, NO_ANSWER, playPath, servedIn } from "../src/net/api";
import { backOff } from "../src/net/backoff";
import { HEADER_BYTES, packAction, parseFrame } from "../src/net/header";
import { parseMessage } from "../src/net/messages";
import { frameBytes } from "./frames";

describe("the model's own temperature", () => {
  it("is that of the model that is served", () => {
    const models = [
      { name: "a", serving: true, temperature: 0.5 },
      { name: "b", serving: false, temperature: null },
    ];
    expect(servedIn(models).temperature).toBe(0.5);
    expect(servedIn([{ name: "a", serving: true, temperature: 0 }]).temperature).toBe(0);
  });

  it("is unknown where the answer does not say it", () => {
    for (const answer of [[], {}, null, [null], [{ serving: true }], [{ serving: false, temperature: 1 }]]) {
      expect(servedIn(answer).temperature).toBeNull();
    }
  });
});

describe("the keys of a game", () => {
  it("are those that its training saw move, with the words of the model", () => {
    const controls = { left_stick_x: "steer", left_stick_y: null, button_A: null, skill_1: null, skill_2: null };
    const rows = rowsFor(servedIn([{ serving: true, controls }]).controls);
    expect(rows.map(({ does }) => does).slice(0, 3)).toEqual(["steer", "right stick", "right stick"]);
    expect(rows.some(({ pad }) => pad === "A" || pad === "LB")).toBe(false);
  });

  it("are the arena's where the model says nothing", () => {
    expect(rowsFor(servedIn([{ serving: true }]).controls).map(({ does }) => does)).toContain("throw a light");
  });
});

describe("frame header", () => {
  it("is read field by field", () => {
    const action = fromKeys(["KeyW", "Space"]);
    const frame = parseFrame(
      frameBytes({ sequence: 70_000, dream: 2, time: 12.5, keyToFrame: 0.125, action, given: false }),
    );
    expect(frame).toMatchObject({ sequence: 70_000, dream: 2, time: 12.5, keyToFrame: 0.125, cost: 0.0625 });
    expect(frame.given).toBe(false);
    expect(frame.mime).toBe("image/jpeg");
    expect(frame.action).toEqual(action);
    expect([...frame.picture]).toEqual([1, 2, 3]);
  });

  it("says null where no press waited", () => {
    expect(parseFrame(frameBytes({ keyToFrame: Number.NaN })).keyToFrame).toBeNull();
  });

  it("refuses what is no frame, in a sentence", () => {
    expect(() => parseFrame(new ArrayBuffer(HEADER_BYTES))).toThrow(/header alone has 96/);
    expect(() => parseFrame(frameBytes({ magic: 0x32464c50 }))).toThrow(/cannot read/);
    expect(() => parseFrame(frameBytes({ format: 9 }))).toThrow(/unknown format 9/);
  });

  it("packs an action into 64 bytes, little-endian", () => {
    const view = new DataView(packAction(fromKeys(["KeyW"])));
    expect(view.byteLength).toBe(64);
    expect(view.getFloat32(4, true)).toBe(-1);
    expect(packAction(REST).byteLength).toBe(64);
  });
});

describe("where to play", () => {
  it("is the server that the token names, or any", () => {
    expect(playPath(null)).toBe("v1/play");
    expect(playPath("secret")).toBe("v1/play");
    expect(playPath("a7_-B.secret")).toBe("v1/play?at=a7_-B");
    expect(playPath("a&b=c.secret")).toBe("v1/play");
  });
});

describe("text messages", () => {
  it("are believed only in what has the right type", () => {
    const message = parseMessage(
      '{"type":"state","paused":true,"seed":"7","controller":"nobody","late":3,"prompt":null}',
    );
    expect(message).toEqual({ type: "state", changes: { paused: true, late: 3, prompt: null } });
  });

  it("may be nonsense", () => {
    for (const text of ["", "null", "7", "[]", "{}", '{"type":"news"}']) expect(parseMessage(text)).toBeNull();
    expect(parseMessage('{"type":"error","message":"no such prompt"}')).toMatchObject({ message: "No such prompt." });
    expect(parseMessage('{"type":"error"}')).toEqual({
      type: "error",
      message: "The server refused the request and gave no reason.",
    });
  });
});

describe("back-off", () => {
  it("doubles to ten seconds and stays there", () => {
    expect([0, 1, 2, 3, 4, 5, 60].map((attempt) => backOff(attempt, 1))).toEqual([
      500, 1000, 2000, 4000, 8000, 10_000, 10_000,
    ]);
    expect(backOff(0, 0)).toBe(375);
  });
});

describe("asking until there is an answer", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("asks again after no answer, and not after a refusal or when stopped", async () => {
    const [answered, refused] = [vi.fn(), vi.fn()];
    const away = new ApiError("away", NO_ANSWER);
    const request = vi.fn<() => Promise<string>>().mockRejectedValueOnce(away).mockResolvedValueOnce("here");
    askUntilAnswered(request, answered, refused);
    await vi.advanceTimersByTimeAsync(600);
    expect(answered).toHaveBeenCalledWith("here");
    request.mockRejectedValueOnce(new ApiError("none", 404));
    askUntilAnswered(request, answered, refused);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(refused).toHaveBeenCalledTimes(1);
    expect(request).toHaveBeenCalledTimes(3);
    request.mockRejectedValue(away);
    askUntilAnswered(request, answered, refused)();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(request).toHaveBeenCalledTimes(4);
  });
});
