import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { REST } from "../src/control/controls";
import { Connection, type Line, type Listener, SILENCE_MS, type Socket } from "../src/net/connection";
import type { Frame } from "../src/net/header";
import type { Opening } from "../src/net/messages";
import { frameBytes } from "./frames";

const OPENING: Opening = { prompt: "plaza", image: null, controller: "person", seed: 7, temperature: null };

/** A socket whose other end is the test. */
class Wire implements Socket {
  binaryType: BinaryType = "blob";
  readyState = 1 as const;
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  sent: (string | ArrayBuffer)[] = [];
  closed = false;

  send(data: unknown): void {
    this.sent.push(data as string | ArrayBuffer);
  }
  close(): void {
    this.closed = true;
  }
  opens(): void {
    this.onopen?.(new Event("open"));
  }
  says(data: object | ArrayBuffer): void {
    const said = data instanceof ArrayBuffer ? data : JSON.stringify(data);
    this.onmessage?.({ data: said } as MessageEvent);
  }
  breaks(code = 1006): void {
    this.onclose?.({ code } as CloseEvent);
  }
  get hello(): Record<string, unknown> {
    return JSON.parse(this.sent[0] as string) as Record<string, unknown>;
  }
}

function setUp() {
  const wires: Wire[] = [];
  const lines: Line[] = [];
  const notices: string[] = [];
  const ready: boolean[] = [];
  const frames: Frame[] = [];
  const listener: Listener = {
    onLine: (line) => lines.push(line),
    onReady: (_, fresh) => ready.push(fresh),
    onState: () => undefined,
    onFrame: (frame) => frames.push(frame),
    onNotice: (sentence) => notices.push(sentence),
  };
  const tokens: (string | null)[] = [];
  const connection = new Connection(listener, (token) => {
    tokens.push(token);
    const wire = new Wire();
    wires.push(wire);
    return wire;
  });
  const wire = (): Wire => {
    const last = wires.at(-1);
    if (!last) throw new Error("no socket was made");
    return last;
  };
  const line = (): Line | undefined => lines.at(-1);
  return { connection, wires, wire, line, notices, ready, frames, tokens };
}

/** Started, and the server has said ready. */
function playing(token = "T") {
  const all = setUp();
  all.connection.start(OPENING);
  all.wire().opens();
  all.wire().says({ type: "ready", token, seed: 7 });
  return all;
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe("a line", () => {
  it("says hello first and hears frames", () => {
    const { wire, line, frames, connection } = playing();
    expect(wire().hello).toMatchObject({ type: "hello", resume: null, prompt: "plaza", seed: 7, controller: "person" });
    expect(line()).toEqual({ kind: "open" });
    wire().says(frameBytes({ sequence: 3 }));
    expect(frames[0]?.sequence).toBe(3);
    connection.act(REST);
    expect((wire().sent[1] as ArrayBuffer).byteLength).toBe(64);
  });

  it("comes back by itself with its token", () => {
    const { wires, wire, line, ready, notices, tokens } = playing();
    wire().breaks();
    expect(line()).toMatchObject({ kind: "waiting", reason: "The server does not answer." });
    vi.advanceTimersByTime(500);
    expect(wires).toHaveLength(2);
    expect(tokens).toEqual([null, "T"]);
    wire().opens();
    expect(wire().hello).toMatchObject({ resume: "T" });
    wire().says({ type: "ready", token: "T" });
    expect(line()).toEqual({ kind: "open" });
    expect(ready).toEqual([true, false]);
    expect(notices).toEqual([]);
  });

  it("waits longer each time, and begins anew with the shortest wait once it was back", () => {
    const { wires, wire } = playing();
    for (const [wait, count] of [
      [500, 2],
      [1000, 3],
      [2000, 4],
      [4000, 5],
    ] as const) {
      wire().breaks();
      vi.advanceTimersByTime(wait * 0.74);
      expect(wires).toHaveLength(count - 1);
      vi.advanceTimersByTime(wait * 0.27);
      expect(wires).toHaveLength(count);
    }
    wire().opens();
    wire().says({ type: "ready", token: "T" });
    wire().breaks();
    vi.advanceTimersByTime(500);
    expect(wires).toHaveLength(6);
  });

  it("can be told not to wait", () => {
    const { connection, wires, wire } = playing();
    wire().breaks();
    connection.tryNow();
    expect(wires).toHaveLength(2);
    vi.advanceTimersByTime(600);
    expect(wires).toHaveLength(2);
  });

  it("starts over where it began when the server has forgotten it, and says so", () => {
    for (const refuses of [true, false]) {
      const { connection, wire, notices, ready } = playing();
      connection.remember({ prompt: "court", seed: 9 });
      wire().breaks();
      connection.tryNow();
      wire().opens();
      if (refuses) {
        wire().says({ type: "error", message: "There is no such session." });
        wire().breaks(1008);
        wire().opens();
        expect(wire().hello).toMatchObject({ resume: null });
      }
      expect(wire().hello).toMatchObject({ prompt: "court", seed: 9 });
      wire().says({ type: "ready", token: "U" });
      expect(notices).toEqual(["The server closed this session, so the dream starts over."]);
      expect(ready).toEqual([true, true]);
    }
  });

  it("does not ask again where it was refused", () => {
    const { connection, wires, wire, line } = setUp();
    connection.start(OPENING);
    wire().opens();
    wire().says({ type: "error", message: "This key is not known." });
    wire().breaks(1008);
    expect(line()).toEqual({ kind: "refused", reason: "This key is not known." });
    vi.advanceTimersByTime(60_000);
    expect(wires).toHaveLength(1);
  });

  it("asks again where there was no controller, with the server's sentence", () => {
    const { connection, wires, wire, line } = setUp();
    connection.start(OPENING);
    wire().opens();
    wire().says({ type: "error", message: "All places are taken." });
    wire().breaks(1013);
    expect(line()).toMatchObject({ kind: "waiting", reason: "All places are taken." });
    vi.advanceTimersByTime(500);
    expect(wires).toHaveLength(2);
  });

  it("takes silence for death, and a word a second for life", () => {
    const { wire, line } = playing();
    for (let second = 0; second < 20; second += 1) {
      vi.advanceTimersByTime(1000);
      wire().says({ type: "state", late: 0 });
    }
    expect(line()).toEqual({ kind: "open" });
    const dead = wire();
    vi.advanceTimersByTime(SILENCE_MS);
    expect(line()).toMatchObject({ kind: "waiting" });
    expect(dead.closed).toBe(true);
  });

  it("takes words of the opening for life, and shows how far it is", () => {
    const { connection, wires, wire, line, ready } = setUp();
    connection.start(OPENING);
    wire().opens();
    for (let second = 0; second < 30; second += 1) {
      wire().says({ type: "opening", seen: second < 10 ? null : 3, steps: second < 10 ? null : 10 });
      vi.advanceTimersByTime(1000);
    }
    expect(wires).toHaveLength(1);
    expect(line()).toMatchObject({ kind: "opening", again: false, progress: { seen: 3, steps: 10 } });
    wire().says({ type: "ready", token: "T" });
    expect(ready).toEqual([true]);
    wire().says({ type: "opening", seen: 1, steps: 2 });
    expect(line()).toEqual({ kind: "open" });
  });

  it("has no token to come back with before the server was ready", () => {
    const { connection, wire, line, tokens, notices } = setUp();
    connection.start(OPENING);
    wire().opens();
    wire().says({ type: "opening", seen: null, steps: null });
    wire().breaks();
    connection.tryNow();
    wire().opens();
    expect(tokens).toEqual([null, null]);
    expect(wire().hello).toMatchObject({ resume: null, prompt: "plaza" });
    expect(line()).toMatchObject({ kind: "opening", again: false, progress: null });
    expect(notices).toEqual([]);
  });

  it("counts silence from the hello on, not from the attempt to connect", () => {
    const { connection, wire, line } = setUp();
    connection.start(OPENING);
    vi.advanceTimersByTime(SILENCE_MS - 1);
    wire().opens();
    vi.advanceTimersByTime(SILENCE_MS - 1);
    expect(line()).toMatchObject({ kind: "opening" });
  });

  it("is left for good when the person leaves", () => {
    const { connection, wires, wire } = playing();
    const left = wire();
    connection.stop();
    expect(left.closed).toBe(true);
    expect(left.onmessage).toBeNull();
    vi.advanceTimersByTime(60_000);
    expect(wires).toHaveLength(1);
  });

  it("ends on a frame it cannot read, with the reason", () => {
    const { wire, line } = playing();
    wire().says(new ArrayBuffer(10));
    expect(line()).toMatchObject({ kind: "refused" });
  });
});
