/** Frames and branches for the tests of stories, as the server would tell of them. */
import type { Branch, StoryNode } from "../src/story/model";

export function node(id: number, parent: number | null, changes: Partial<StoryNode> = {}): StoryNode {
  return {
    id,
    parent,
    origin: "given",
    action: parent === null ? null : Array.from({ length: 16 }, () => 0),
    actionSource: parent === null ? null : "player",
    branch: null,
    starred: false,
    note: "",
    editOf: null,
    ...changes,
  };
}

export function branch(id: number, from: number, changes: Partial<Branch> = {}): Branch {
  return {
    id,
    from,
    frames: 2,
    framesDone: 0,
    state: "waiting",
    error: null,
    seed: 7,
    controlledBy: "model",
    first: null,
    last: null,
    ...changes,
  };
}

export const dreamed = (id: number, parent: number, of: number): StoryNode =>
  node(id, parent, { origin: "dreamed", branch: of, actionSource: "model" });

/**
 * 0 1 2 given; branch 0 from 2 (frames 3, 4), branch 1 from 2 (frame 5, one still to come), branch 2 from 1 (frame 6),
 * an edit of 1 and 2 (frames 7, 8).
 */
export const NODES: readonly StoryNode[] = [
  node(0, null),
  node(1, 0),
  node(2, 1),
  dreamed(3, 2, 0),
  dreamed(4, 3, 0),
  dreamed(5, 2, 1),
  dreamed(6, 1, 2),
  node(7, 0, { origin: "edited", editOf: 1 }),
  node(8, 7, { origin: "edited", editOf: 2 }),
];

export const BRANCHES: readonly Branch[] = [
  branch(0, 2, { framesDone: 2, state: "done", first: 3, last: 4 }),
  branch(1, 2, { framesDone: 1, state: "dreaming", first: 5, last: 5 }),
  branch(2, 1, { frames: 1, framesDone: 1, state: "done", first: 6, last: 6, controlledBy: "player" }),
];
