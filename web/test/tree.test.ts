/** The tree of a story, and where one looks in it. */
import { describe, expect, it } from "vitest";
import * as look from "../src/story/selection";
import { Tree } from "../src/story/tree";
import { branch, BRANCHES, dreamed, NODES } from "./stories";

const TREE = new Tree(NODES, BRANCHES);
const at = (id: number): look.ViewState => look.choose(look.withTree(look.NOWHERE, TREE), id);

describe("the tree", () => {
  it("knows the path to a frame, and the line on from it", () => {
    expect(TREE.pathTo(6)).toEqual([0, 1, 6]);
    expect(TREE.lineThrough(1)).toEqual([0, 1, 2, 3, 4]);
    expect(TREE.lineThrough(5)).toEqual([0, 1, 2, 5]);
    expect(TREE.lineThrough(7)).toEqual([0, 7, 8]);
    expect(TREE.pathTo(99)).toEqual([]);
  });

  it("stays in a lane as far as it goes, also past frames where others leave", () => {
    const more = [...NODES, dreamed(9, 3, 3), dreamed(10, 4, 0)];
    expect(new Tree(more, [...BRANCHES, branch(3, 3)]).lineThrough(3)).toEqual([0, 1, 2, 3, 4, 10]);
  });

  it("lays out lanes so that no connection crosses one: what leaves later lies nearer", () => {
    const lanes = TREE.lanes.map(({ nodes, start, fromRow, branch: of }) => [nodes, start, fromRow, of?.id ?? null]);
    expect(lanes).toEqual([
      [[0, 1, 2], 0, null, null],
      [[3, 4], 3, 0, 0],
      [[5], 3, 0, 1],
      [[6], 2, 0, 2],
      [[7, 8], 1, 0, null],
    ]);
  });

  it("counts what is still to come, and draws a branch before its first frame", () => {
    const tree = new Tree(NODES, [...BRANCHES, branch(3, 4, { frames: 5 })]);
    expect(tree.laneOfBranch(1)?.coming).toBe(1);
    expect(tree.laneOfBranch(3)).toMatchObject({ nodes: [], start: 5, coming: 5, fromRow: 1 });
    expect(tree.length).toBe(10);
  });

  it("keeps rows where they are whichever branch brings its first frame first", () => {
    const order = (tree: Tree): (number | undefined)[] => tree.lanes.map(({ branch: of }) => of?.id);
    const waiting = [branch(0, 2), branch(1, 2), branch(2, 2)];
    const given = NODES.slice(0, 3);
    const before = order(new Tree(given, waiting));
    const after = order(
      new Tree(
        [...given, dreamed(3, 2, 2)],
        waiting.map((one) => (one.id === 2 ? { ...one, first: 3, last: 3 } : one)),
      ),
    );
    expect(after).toEqual(before);
  });

  it("does not draw a branch that was stopped before its first frame", () => {
    expect(new Tree(NODES, [branch(9, 2, { state: "cancelled" })]).laneOfBranch(9)).toBeNull();
    expect(new Tree(NODES, [branch(9, 2, { state: "failed" })]).laneOfBranch(9)).not.toBeNull();
  });

  it("knows what comes after a frame", () => {
    expect(TREE.withDescendants(2).sort()).toEqual([2, 3, 4, 5]);
    expect(TREE.withDescendants(99)).toEqual([]);
  });

  it("takes a frame whose parent is not known for a beginning", () => {
    expect(new Tree([dreamed(5, 4, 0)], []).roots).toEqual([5]);
  });
});

describe("where one looks", () => {
  it("begins at the first way, and stays on a way while it can", () => {
    const state = at(1);
    expect([state.way, state.at]).toEqual([[0, 1, 2, 3, 4], 1]);
    expect(look.choose(state, 3).way).toEqual(state.way);
    expect(look.choose(state, 5).way).toEqual([0, 1, 2, 5]);
    expect(look.choose(state, 99)).toBe(state);
  });

  it("goes no further than either end", () => {
    expect(look.goTo(at(1), -5).at).toBe(0);
    expect(look.goTo(at(1), Infinity).at).toBe(4);
  });

  it("goes to the lane below at the same instant, and not beyond the last", () => {
    expect(look.chosen(look.otherLane(at(4), 1))).toBe(5);
    expect(look.chosen(look.otherLane(at(5), -1))).toBe(3);
    expect(look.chosen(look.otherLane(at(8), 1))).toBe(8);
  });

  it("grows with its branch, and shows the newest frame of the one that is followed", () => {
    const followed = { ...at(5), follow: 1 };
    const nodes = [...NODES, dreamed(9, 5, 1)];
    const branches = BRANCHES.map((one) =>
      one.id === 1 ? { ...one, framesDone: 2, last: 9, state: "done" as const } : one,
    );
    const grown = look.withTree(followed, new Tree(nodes, branches));
    expect([look.chosen(grown), grown.way, grown.follow]).toEqual([9, [0, 1, 2, 5, 9], null]);
    expect(look.chosen(look.withTree(at(5), new Tree(nodes, branches)))).toBe(5);
  });

  it("falls back to what is left when its frame is removed", () => {
    const left = NODES.filter(({ id }) => id !== 3 && id !== 4);
    const state = look.withTree(at(4), new Tree(left, BRANCHES.slice(1)));
    expect(look.chosen(state)).toBe(2);
    expect(look.chosen(look.withTree(state, new Tree([], [])))).toBeNull();
  });

  it("lays beside each other the branches that leave the same frame", () => {
    expect(look.siblings(at(3))).toEqual([0, 1]);
    expect(look.siblings(at(6))).toEqual([2]);
    expect(look.siblings(at(2))).toEqual([0, 1]);
  });

  it("shows branches at the same instant, the shorter at its end, and opens the picked one there", () => {
    const state = look.beside(at(2), [0, 1]);
    expect(state.side).toEqual({ branches: [0, 1], at: 2, pick: 0 });
    expect([look.shownOf(state, 0), look.shownOf(state, 1)]).toEqual([4, 5]);
    const start = look.goTo(state, 0);
    expect([look.shownOf(start, 0), look.shownOf(start, 1)]).toEqual([2, 2]);
    const kept = look.keepPicked(look.pick(state, 1));
    expect([kept.side, look.chosen(kept), kept.way]).toEqual([null, 5, [0, 1, 2, 5]]);
    expect(look.beside(state, []).side).toBeNull();
  });

  it("plays to the end, and waits there while more is coming", () => {
    expect(look.tick(at(3))?.at).toBe(4);
    expect(look.tick(at(4))).toBeNull();
    expect(look.tick(at(5))?.at).toBe(3);
  });

  it("goes from star to star, and round", () => {
    const nodes = NODES.map((one) => ({ ...one, starred: [3, 6].includes(one.id) }));
    const state = look.choose(look.withTree(look.NOWHERE, new Tree(nodes, BRANCHES)), 4);
    expect(look.starred(state)).toEqual([3, 6]);
    const next = look.nextStar(look.beside(state, [0]));
    expect([look.chosen(next), next.side]).toEqual([6, null]);
    expect(look.chosen(look.nextStar(next))).toBe(3);
    expect(look.nextStar(at(4))).toEqual(at(4));
  });

  it("knows what is dreamed here, else anywhere", () => {
    expect(look.runningHere(at(5))).toEqual([1]);
    expect(look.runningHere(at(6))).toEqual([1]);
  });
});
