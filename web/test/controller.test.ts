/** One person in one story: what is heard, asked and shown, with a server that is a few functions. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError } from "../src/net/api";
import { chosen } from "../src/story/selection";
import type { EventHandlers } from "../src/story/listen";
import type { Story } from "../src/story/model";
import { type Net, StoryController } from "../src/story/controller";
import { branch, BRANCHES, NODES } from "./stories";

const STORY: Story = {
  id: "s",
  name: "Tower",
  width: 300,
  height: 180,
  context: 10,
  fps: 10,
  nodes: [...NODES],
  branches: [...BRANCHES],
  event: 40,
};

interface Told {
  controller: StoryController;
  net: Net;
  notices: string[];
  /** What listens now; null: nothing does. */
  handlers: () => EventHandlers | null;
  after: number[];
}

function told(changes: Partial<Net> = {}): Told {
  let handlers: EventHandlers | null = null;
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
      handlers = listener;
      after.push(from);
      return () => {
        handlers = null;
      };
    },
    ...changes,
  };
  const controller = new StoryController("s", null, (sentence) => notices.push(sentence), net);
  return { controller, net, notices, handlers: () => handlers, after };
}

async function opened(changes: Partial<Net> = {}): Promise<Told> {
  const all = told(changes);
  all.controller.open();
  await vi.advanceTimersByTimeAsync(0);
  return all;
}

const raw = (id: number, parent: number, of: number) => ({
  id,
  parent,
  origin: "dreamed",
  branch: of,
  actionSource: "model",
});

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

describe("a room", () => {
  it("reads the story, hears what comes after it, and looks at the end of its first way", async () => {
    const { controller, after } = await opened();
    expect(controller.see()).toMatchObject({ line: { kind: "open" }, name: "Tower", width: 300 });
    expect(after).toEqual([40]);
    expect(chosen(controller.see().state)).toBe(4);
  });

  it("shows frames that come in, several at once", async () => {
    const { controller, handlers } = await opened();
    let shown = 0;
    controller.watch(() => (shown += 1));
    for (const id of [9, 10, 11]) handlers()?.onEvent("node", raw(id, id === 9 ? 5 : id - 1, 1));
    await vi.advanceTimersByTimeAsync(100);
    expect(shown).toBe(1);
    expect(controller.see().state.tree.lineThrough(5)).toEqual([0, 1, 2, 5, 9, 10, 11]);
  });

  it("lays several ordered branches side by side, and follows a single one", async () => {
    const several = [branch(3, 4), branch(4, 4)];
    const { controller, handlers } = await opened({
      orderBranches: () => Promise.resolve({ branches: several, notes: [] }),
    });
    await controller.order({ from: 4, count: 2, frames: 2, context: 10, controlled_by: "model" });
    expect(controller.see().state).toMatchObject({ follow: true, side: { branches: [3, 4], at: 0 } });
    handlers()?.onEvent("node", raw(9, 4, 3));
    handlers()?.onEvent("branch", { ...branch(3, 4), state: "dreaming", frames_done: 1, first: 9, last: 9 });
    await vi.advanceTimersByTimeAsync(100);
    expect(controller.see().state.side?.at).toBe(1);
    const single = await opened({
      orderBranches: () => Promise.resolve({ branches: [branch(3, 1)], notes: ["it is cut"] }),
    });
    await single.controller.order({ from: 1, count: 1, frames: 2, context: 10, controlled_by: "model" });
    expect(single.notices).toEqual(["It is cut."]);
    single.handlers()?.onEvent("node", raw(9, 1, 3));
    single.handlers()?.onEvent("branch", { ...branch(3, 1), state: "dreaming", frames_done: 1, first: 9, last: 9 });
    await vi.advanceTimersByTimeAsync(100);
    expect(chosen(single.controller.see().state)).toBe(9);
  });

  it("orders once while the first order is not answered", async () => {
    const { controller, net } = await opened();
    const order = { from: 4, count: 1, frames: 2, context: 10, controlled_by: "model" } as const;
    const answers = [controller.order(order), controller.order(order)];
    expect(await Promise.all(answers)).toEqual([true, false]);
    expect(net.orderBranches).toHaveBeenCalledTimes(1);
    expect(await controller.order(order)).toBe(true);
  });

  it("hears an order's first frame before its answer", async () => {
    const late = [branch(3, 4)];
    const { controller, handlers } = await opened({
      orderBranches: () => Promise.resolve({ branches: late, notes: [] }),
    });
    handlers()?.onEvent("branch", { ...branch(3, 4), state: "dreaming", frames_done: 1, first: 9, last: 9 });
    handlers()?.onEvent("node", raw(9, 4, 3));
    await controller.order({ from: 4, count: 1, frames: 2, context: 10, controlled_by: "model" });
    await vi.advanceTimersByTimeAsync(100);
    expect(controller.see().state.tree.branches.get(3)?.framesDone).toBe(1);
    expect(chosen(controller.see().state)).toBe(9);
  });

  it("takes away what was removed, and the branches that began there", async () => {
    const { controller, handlers } = await opened();
    handlers()?.onEvent("removed", { nodes: [2, 3, 4, 5], branches: [] });
    await vi.advanceTimersByTimeAsync(100);
    const { tree } = controller.see().state;
    expect([...tree.nodes.keys()]).toEqual([0, 1, 6, 7, 8]);
    expect([...tree.branches.keys()]).toEqual([2]);
    expect(chosen(controller.see().state)).toBe(1);
  });

  it("says why a branch failed, once, and what it cannot read", async () => {
    const { handlers, notices } = await opened();
    const failed = { ...branch(1, 2), state: "failed", error: "The model is gone." };
    handlers()?.onEvent("branch", failed);
    handlers()?.onEvent("branch", failed);
    handlers()?.onEvent("node", { nothing: true });
    expect(notices).toEqual(["The model is gone.", expect.stringContaining("cannot read")]);
  });

  it("plays at the story's rate, stops at the end, and begins again from there", async () => {
    const { controller } = await opened();
    controller.goTo(2);
    controller.togglePlay();
    await vi.advanceTimersByTimeAsync(200);
    expect(controller.see().state.at).toBe(4);
    await vi.advanceTimersByTimeAsync(200);
    expect(controller.see().playing).toBe(false);
    controller.togglePlay();
    expect([controller.see().state.at, controller.see().playing]).toEqual([0, true]);
    controller.toggleLoop();
    await vi.advanceTimersByTimeAsync(500);
    expect([controller.see().state.at, controller.see().playing]).toEqual([0, true]);
    controller.close();
  });

  it("marks at once, and says so in a sentence when the server refuses", async () => {
    const refused = () => Promise.reject(new ApiError("The story is full.", 400));
    const { controller, notices } = await opened({ changeNode: refused });
    const marking = controller.mark(4, { starred: true });
    expect(controller.see().state.tree.nodes.get(4)?.starred).toBe(true);
    await marking;
    expect(notices).toEqual(["The story is full."]);
  });

  it("puts an edit onto the frames of the way that is looked at, then looks at the last of them", async () => {
    const made = [
      { ...NODES[7], id: 9, parent: 1 },
      { ...NODES[8], id: 10, parent: 9 },
    ] as Story["nodes"];
    const { controller, net } = await opened({ editNode: vi.fn(() => Promise.resolve(made)) });
    controller.choose(2);
    await controller.edit("aGVsbG8=", 1);
    expect(net.editNode).toHaveBeenCalledWith("s", 2, { overlay: "aGVsbG8=", copies: 1, toward: 4 }, null);
    expect(chosen(controller.see().state)).toBe(10);
  });

  it("reads the story again when the line breaks, waiting a little longer each time", async () => {
    const { controller, net, handlers } = await opened();
    handlers()?.onBroken();
    expect(controller.see().line.kind).toBe("lost");
    await vi.advanceTimersByTimeAsync(600);
    expect(controller.see().line.kind).toBe("open");
    expect(net.fetchStory).toHaveBeenCalledTimes(2);
    handlers()?.onEvent("reload", {});
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
      const { controller } = await opened({ fetchStory: () => Promise.reject(new ApiError("No.", status)) });
      expect(controller.see().line.kind).toBe(kind);
      controller.close();
    }
    const { controller, handlers } = await opened();
    handlers()?.onEvent("gone", {});
    expect(controller.see().line.kind).toBe("gone");
  });

  it("hears nothing any more once it is closed, also when the story comes late", async () => {
    const { controller, handlers } = told();
    controller.open();
    controller.close();
    await vi.advanceTimersByTimeAsync(0);
    expect(handlers()).toBeNull();
  });
});
