/** The frames of a story as a tree: paths, lines, and the lanes in which it is drawn. Knows nothing of the page. */
import { type Branch, isRunning, type Origin, type StoryNode } from "./model";

/** A run of frames drawn in one row: those given, those of one branch, or one chain of edits. */
export interface Lane {
  /** Its place from the top. */
  row: number;
  /** Its frames, one after the other; none while a branch waits for its first. */
  nodes: readonly number[];
  /** How many frames lie before its first one. */
  start: number;
  /** The frame it leaves from; null for a beginning. */
  from: number | null;
  /** The row of that frame. */
  fromRow: number | null;
  origin: Origin;
  branch: Branch | null;
  /** Frames asked for that are still to come. */
  coming: number;
}

interface Draft {
  nodes: number[];
  from: number | null;
  origin: Origin;
  branch: Branch | null;
}

export class Tree {
  readonly nodes: ReadonlyMap<number, StoryNode>;
  readonly branches: ReadonlyMap<number, Branch>;
  readonly roots: readonly number[];
  readonly lanes: readonly Lane[];
  /** Steps of the longest way, those still to come included. */
  readonly length: number;
  private readonly children = new Map<number, number[]>();
  private readonly depths = new Map<number, number>();
  private readonly laneOfNode = new Map<number, Lane>();

  constructor(nodes: Iterable<StoryNode>, branches: Iterable<Branch>) {
    const sorted = [...nodes].sort((a, b) => a.id - b.id);
    this.nodes = new Map(sorted.map((node) => [node.id, node]));
    this.branches = new Map([...branches].sort((a, b) => a.id - b.id).map((branch) => [branch.id, branch]));
    const roots: number[] = [];
    for (const { id, parent } of sorted) {
      const known = parent !== null && this.nodes.has(parent);
      if (known) this.childrenOf(parent, true).push(id);
      else roots.push(id);
      this.depths.set(id, known ? this.depth(parent) + 1 : 0);
    }
    this.roots = roots;
    this.lanes = this.lay(this.drafts());
    for (const lane of this.lanes) for (const id of lane.nodes) this.laneOfNode.set(id, lane);
    this.length = Math.max(0, ...this.lanes.map(({ start, nodes: run, coming }) => start + run.length + coming));
  }

  /** How many frames lie before this one. */
  depth(id: number): number {
    return this.depths.get(id) ?? 0;
  }

  childrenOf(id: number, make = false): number[] {
    const found = this.children.get(id) ?? [];
    if (make) this.children.set(id, found);
    return found;
  }

  laneOf(id: number): Lane | null {
    return this.laneOfNode.get(id) ?? null;
  }

  laneOfBranch(id: number): Lane | null {
    return this.lanes.find(({ branch }) => branch?.id === id) ?? null;
  }

  /** From the start to this frame, both included. */
  pathTo(id: number): number[] {
    const path: number[] = [];
    let at: number | null = this.nodes.has(id) ? id : null;
    while (at !== null) {
      path.push(at);
      const parent: number | null = this.nodes.get(at)?.parent ?? null;
      at = parent !== null && this.nodes.has(parent) ? parent : null;
    }
    return path.reverse();
  }

  /** The path to this frame, and on to the end: along its own lane, then by first children. */
  lineThrough(id: number): number[] {
    const line = this.pathTo(id);
    let next = line.length ? this.after(id) : null;
    while (next !== null) {
      line.push(next);
      next = this.after(next);
    }
    return line;
  }

  /** This frame and everything that comes after it. */
  withDescendants(id: number): number[] {
    const found = this.nodes.has(id) ? [id] : [];
    for (const at of found) found.push(...this.childrenOf(at));
    return found;
  }

  /** Branches that are dreaming, or wait to, at one of these frames or from them. */
  runningAt(ids: readonly number[]): Branch[] {
    const among = new Set(ids);
    return [...this.branches.values()].filter(
      (branch) => isRunning(branch) && (among.has(branch.from) || (branch.last !== null && among.has(branch.last))),
    );
  }

  private after(id: number): number | null {
    const children = this.childrenOf(id);
    const lane = this.laneOf(id);
    return children.find((child) => this.laneOf(child) === lane) ?? children[0] ?? null;
  }

  /** Frames gathered into runs. */
  private drafts(): Draft[] {
    const drafts: Draft[] = [];
    const of = new Map<number, Draft>();
    for (const node of this.nodes.values()) {
      const parent = node.parent === null ? undefined : this.nodes.get(node.parent);
      const before = parent ? of.get(parent.id) : undefined;
      const goesOn =
        before !== undefined &&
        before.nodes.at(-1) === parent?.id &&
        before.origin === node.origin &&
        (before.branch?.id ?? null) === node.branch;
      const branch = node.branch === null ? null : (this.branches.get(node.branch) ?? null);
      const draft = goesOn ? before : { nodes: [], from: parent?.id ?? null, origin: node.origin, branch };
      if (!goesOn) drafts.push(draft);
      draft.nodes.push(node.id);
      of.set(node.id, draft);
    }
    for (const branch of this.branches.values()) {
      const shown = isRunning(branch) || branch.state === "failed";
      if (branch.first === null && shown && this.nodes.has(branch.from))
        drafts.push({ nodes: [], from: branch.from, origin: "dreamed", branch });
    }
    // Branches by their number, so that rows stay where they are whichever frame comes first.
    return drafts.sort((a, b) => (a.branch?.id ?? -1) - (b.branch?.id ?? -1));
  }

  /**
   * Drafts in rows: those that leave a lane later come nearer below it, so that no connection crosses a lane.
   */
  private lay(drafts: readonly Draft[]): Lane[] {
    const lanes: Lane[] = [];
    const leaving = new Map<number | null, Draft[]>();
    for (const draft of drafts) leaving.set(draft.from, [...(leaving.get(draft.from) ?? []), draft]);
    const place = (draft: Draft, fromRow: number | null): void => {
      const { nodes, from, origin, branch } = draft;
      const row = lanes.length;
      const coming = branch && isRunning(branch) ? Math.max(0, branch.frames - nodes.length) : 0;
      lanes.push({
        row,
        nodes,
        start: from === null ? 0 : this.depth(from) + 1,
        from,
        fromRow,
        origin,
        branch,
        coming,
      });
      for (const id of [...nodes].reverse()) for (const next of leaving.get(id) ?? []) place(next, row);
    };
    for (const root of leaving.get(null) ?? []) place(root, null);
    return lanes;
  }
}

export const EMPTY = new Tree([], []);
