/** One person in one story: what is heard, asked and shown, with a server that is a few functions. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError } from "../src/net/api";
import { chosen } from "../src/story/gaze";
import type { Ear } from "../src/story/listen";
import type { Story } from "../src/story/model";
import { type Net, Room } from "../src/story/room";
import { branch, BRANCHES, NODES } from "./stories";

const STORY: Story = {
  id: "s",
  name: "Tower",
  width: 300,
  height: 180,
  context: 10,
  hertz: 10,
  nodes: [...NODES],
  branches: [...BRANCHES],
  event: 40,
};

interface Told {
  room: Room;
  net: Net;
  notices: string[];
  /** What listens now; null: nothing does. */
  ear: () => Ear | null;
  after: number[];
}

function told(changes: Partial<Net> = {}): Told {
  let ear: Ear | null = null;
  const after: number[] = [];
  const notices: string[] = [];
  const net: Net = {
    fetchStory: vi.fn(() => Promise.resolve(STORY)),
    renameStory: vi.fn(() => Promise.resolve()),
    orderBranches: vi.fn(() => Promise.resolve({ branches: [], notes: [] })),
    cancelBranch: vi.fn(() => Promise.resolve()),
    removeNode: vi.fn(() => Promise.resolve()),
    changeNode: vi.fn(() => Promise.resolve()),
    editNode: vi.fn(() => Promise.resolve([])),
    listen: (_, from, listener) => {
      ear = listener;
      after.push(from);
      return () => {
        ear = null;
      };
    },
    ...changes,
  };
  const room = new Room("s", null, (sentence) => notices.push(sentence), net);
  return { room, net, notices, ear: () => ear, after };
}

async function opened(changes: Partial<Net> = {}): Promise<Told> {
  const all = told(changes);
  all.room.open();
  await vi.advanceTimersByTimeAsync(0);
  return all;
}

const raw = (id: number, parent: number, of: number) => ({
  id,
  parent,
  origin: "dreamed",
  branch: of,
  pressed: "model",
});

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

describe("a room", () => {
  it("reads the story, hears what comes after it, and looks at the end of its first way", async () => {
    const { room, after } = await opened();
    expect(room.see()).toMatchObject({ line: { kind: "open" }, name: "Tower", width: 300 });
    expect(after).toEqual([40]);
    expect(chosen(room.see().gaze)).toBe(4);
  });

  it("shows frames that come in, several at once", async () => {
    const { room, ear } = await opened();
    let shown = 0;
    room.watch(() => (shown += 1));
    for (const id of [9, 10, 11]) ear()?.onEvent("node", raw(id, id === 9 ? 5 : id - 1, 1));
    await vi.advanceTimersByTimeAsync(100);
    expect(shown).toBe(1);
    expect(room.see().gaze.tree.lineThrough(5)).toEqual([0, 1, 2, 5, 9, 10, 11]);
  });

  it("lays several ordered branches side by side, and follows a single one", async () => {
    const several = [branch(3, 4), branch(4, 4)];
    const { room, ear } = await opened({ orderBranches: () => Promise.resolve({ branches: several, notes: [] }) });
    await room.order({ from: 4, count: 2, frames: 2, context: 10, presses: "model" });
    expect(room.see().gaze).toMatchObject({ follow: true, side: { branches: [3, 4], at: 0 } });
    ear()?.onEvent("node", raw(9, 4, 3));
    ear()?.onEvent("branch", { ...branch(3, 4), state: "dreaming", made: 1, first: 9, last: 9 });
    await vi.advanceTimersByTimeAsync(100);
    expect(room.see().gaze.side?.at).toBe(1);
    const single = await opened({
      orderBranches: () => Promise.resolve({ branches: [branch(3, 1)], notes: ["it is cut"] }),
    });
    await single.room.order({ from: 1, count: 1, frames: 2, context: 10, presses: "model" });
    expect(single.notices).toEqual(["It is cut."]);
    single.ear()?.onEvent("node", raw(9, 1, 3));
    single.ear()?.onEvent("branch", { ...branch(3, 1), state: "dreaming", made: 1, first: 9, last: 9 });
    await vi.advanceTimersByTimeAsync(100);
    expect(chosen(single.room.see().gaze)).toBe(9);
  });

  it("orders once while the first order is not answered", async () => {
    const { room, net } = await opened();
    const order = { from: 4, count: 1, frames: 2, context: 10, presses: "model" } as const;
    const answers = [room.order(order), room.order(order)];
    expect(await Promise.all(answers)).toEqual([true, false]);
    expect(net.orderBranches).toHaveBeenCalledTimes(1);
    expect(await room.order(order)).toBe(true);
  });

  it("hears an order's first frame before its answer", async () => {
    const late = [branch(3, 4)];
    const { room, ear } = await opened({ orderBranches: () => Promise.resolve({ branches: late, notes: [] }) });
    ear()?.onEvent("branch", { ...branch(3, 4), state: "dreaming", made: 1, first: 9, last: 9 });
    ear()?.onEvent("node", raw(9, 4, 3));
    await room.order({ from: 4, count: 1, frames: 2, context: 10, presses: "model" });
    await vi.advanceTimersByTimeAsync(100);
    expect(room.see().gaze.tree.branches.get(3)?.made).toBe(1);
    expect(chosen(room.see().gaze)).toBe(9);
  });

  it("takes away what was removed, and the branches that began there", async () => {
    const { room, ear } = await opened();
    ear()?.onEvent("removed", { nodes: [2, 3, 4, 5], branches: [] });
    await vi.advanceTimersByTimeAsync(100);
    const { tree } = room.see().gaze;
    expect([...tree.nodes.keys()]).toEqual([0, 1, 6, 7, 8]);
    expect([...tree.branches.keys()]).toEqual([2]);
    expect(chosen(room.see().gaze)).toBe(1);
  });

  it("says why a branch failed, once, and what it cannot read", async () => {
    const { ear, notices } = await opened();
    const failed = { ...branch(1, 2), state: "failed", problem: "The model is gone." };
    ear()?.onEvent("branch", failed);
    ear()?.onEvent("branch", failed);
    ear()?.onEvent("node", { nothing: true });
    expect(notices).toEqual(["The model is gone.", expect.stringContaining("does not know")]);
  });

  it("plays at the story's rate, stops at the end, and begins again from there", async () => {
    const { room } = await opened();
    room.goTo(2);
    room.togglePlay();
    await vi.advanceTimersByTimeAsync(200);
    expect(room.see().gaze.at).toBe(4);
    await vi.advanceTimersByTimeAsync(200);
    expect(room.see().playing).toBe(false);
    room.togglePlay();
    expect([room.see().gaze.at, room.see().playing]).toEqual([0, true]);
    room.toggleLoop();
    await vi.advanceTimersByTimeAsync(500);
    expect([room.see().gaze.at, room.see().playing]).toEqual([0, true]);
    room.close();
  });

  it("marks at once, and says so in a sentence when the server refuses", async () => {
    const refused = () => Promise.reject(new ApiError("The story is full.", 400));
    const { room, notices } = await opened({ changeNode: refused });
    const marking = room.mark(4, { starred: true });
    expect(room.see().gaze.tree.nodes.get(4)?.starred).toBe(true);
    await marking;
    expect(notices).toEqual(["The story is full."]);
  });

  it("puts an edit onto the frames of the way that is looked at, then looks at the last of them", async () => {
    const made = [
      { ...NODES[7], id: 9, parent: 1 },
      { ...NODES[8], id: 10, parent: 9 },
    ] as Story["nodes"];
    const { room, net } = await opened({ editNode: vi.fn(() => Promise.resolve(made)) });
    room.choose(2);
    await room.edit("aGVsbG8=", 1);
    expect(net.editNode).toHaveBeenCalledWith("s", 2, { overlay: "aGVsbG8=", copies: 1, along: 4 }, null);
    expect(chosen(room.see().gaze)).toBe(10);
  });

  it("reads the story again when the line breaks, waiting a little longer each time", async () => {
    const { room, net, ear } = await opened();
    ear()?.onBroken();
    expect(room.see().line.kind).toBe("lost");
    await vi.advanceTimersByTimeAsync(600);
    expect(room.see().line.kind).toBe("open");
    expect(net.fetchStory).toHaveBeenCalledTimes(2);
    ear()?.onEvent("reload", {});
    await vi.advanceTimersByTimeAsync(0);
    expect(net.fetchStory).toHaveBeenCalledTimes(3);
  });

  it("tells a story that is not there from one that wants a key and a server that is gone", async () => {
    const answers: [number, string][] = [
      [404, "gone"],
      [401, "locked"],
      [0, "lost"],
      [503, "lost"],
    ];
    for (const [status, kind] of answers) {
      const { room } = await opened({ fetchStory: () => Promise.reject(new ApiError("No.", status)) });
      expect(room.see().line.kind).toBe(kind);
      room.close();
    }
    const { room, ear } = await opened();
    ear()?.onEvent("gone", {});
    expect(room.see().line.kind).toBe("gone");
  });

  it("hears nothing any more once it is closed, also when the story comes late", async () => {
    const { room, ear } = told();
    room.open();
    room.close();
    await vi.advanceTimersByTimeAsync(0);
    expect(ear()).toBeNull();
  });
});
