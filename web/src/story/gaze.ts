/** Where one looks in a story: a way through the tree, a frame on it, or several branches side by side. Pure. */
import { isRunning } from "./model";
import { EMPTY, type Tree } from "./tree";

/** Branches beside each other, all at the same number of frames after the one they left. */
export interface SideBySide {
  branches: readonly number[];
  /** 0 is the frame that a branch left from. */
  at: number;
  /** The place of the one that is picked. */
  pick: number;
}

export interface Gaze {
  tree: Tree;
  /** Frames from a beginning to an end. */
  way: readonly number[];
  /** The place of the chosen frame on it. */
  at: number;
  /** The branch whose newest frame is watched as it comes in; `true`: all that are side by side. */
  follow: number | true | null;
  side: SideBySide | null;
}

export const NOWHERE: Gaze = { tree: EMPTY, way: [], at: 0, follow: null, side: null };
export const MOST_BESIDE = 8;

const clamp = (value: number, most: number): number => Math.max(0, Math.min(most, value));

export const chosen = ({ way, at }: Gaze): number | null => way[at] ?? null;

/** Look at this frame; the way stays if the frame lies on it. */
export function choose(gaze: Gaze, id: number): Gaze {
  if (!gaze.tree.nodes.has(id)) return gaze;
  const on = gaze.way.indexOf(id);
  const way = on >= 0 ? gaze.way : gaze.tree.lineThrough(id);
  return { ...gaze, way, at: way.indexOf(id), follow: null };
}

/** Look at the frame at this place of the way, or of all branches that are side by side. */
export function goTo(gaze: Gaze, at: number): Gaze {
  if (gaze.side) return { ...gaze, follow: null, side: { ...gaze.side, at: clamp(at, longest(gaze)) } };
  return { ...gaze, follow: null, at: clamp(at, gaze.way.length - 1) };
}

export const placeOf = (gaze: Gaze): number => (gaze.side ? gaze.side.at : gaze.at);
export const lastPlace = (gaze: Gaze): number => (gaze.side ? longest(gaze) : Math.max(0, gaze.way.length - 1));

/** The lane above or below, at the same moment as far as it has one; or the next picture side by side. */
export function otherLane(gaze: Gaze, by: 1 | -1): Gaze {
  if (gaze.side) return pick(gaze, gaze.side.pick + by);
  const id = chosen(gaze);
  const lane = id === null ? null : gaze.tree.laneOf(id);
  if (id === null || !lane) return gaze;
  const lanes = gaze.tree.lanes.filter(({ nodes }) => nodes.length > 0);
  const next = lanes[lanes.indexOf(lane) + by];
  if (!next) return gaze;
  const at = clamp(gaze.tree.depth(id) - next.start, next.nodes.length - 1);
  return choose(gaze, next.nodes[at] ?? id);
}

/** The tree has changed: the way goes on where it was, and grows. */
export function withTree(before: Gaze, tree: Tree): Gaze {
  const gaze = { ...before, tree };
  const alive = before.way.filter((id) => tree.nodes.has(id));
  const followed = typeof before.follow === "number" ? (tree.branches.get(before.follow) ?? null) : null;
  const anchor = followed?.last ?? alive.at(-1) ?? tree.roots[0];
  const way = anchor === undefined || !tree.nodes.has(anchor) ? [] : tree.lineThrough(anchor);
  const id = chosen(before);
  const stayed = id === null ? -1 : way.indexOf(id);
  const survivor = clamp(before.at, Math.max(0, alive.length - 1));
  gaze.way = way;
  gaze.at = followed && followed.last !== null ? way.indexOf(followed.last) : stayed >= 0 ? stayed : survivor;
  gaze.side = sideWith(before, tree);
  if (gaze.side && before.follow === true) gaze.side.at = longest(gaze);
  const running = typeof before.follow === "number" ? followed !== null && isRunning(followed) : someRun(gaze);
  return { ...gaze, follow: running ? before.follow : null };
}

/** Put branches beside each other; none: look at one way again. */
export function beside(gaze: Gaze, branches: readonly number[]): Gaze {
  const known = branches.filter((id) => gaze.tree.branches.has(id)).slice(0, MOST_BESIDE);
  if (!known.length) return { ...gaze, side: null };
  const next = { ...gaze, side: { branches: known, at: 0, pick: clamp(gaze.side?.pick ?? 0, known.length - 1) } };
  const at = gaze.side ? gaze.side.at : longest(next);
  return { ...next, side: { ...next.side, at: clamp(at, longest(next)) } };
}

/** The branches that one would lay beside each other here: those that leave the same frame as the one looked at. */
export function siblings(gaze: Gaze): number[] {
  const id = chosen(gaze);
  if (id === null) return [];
  const froms = [...gaze.way.slice(0, gaze.at + 1)].reverse();
  const leaving = (from: number): number[] =>
    [...gaze.tree.branches.values()]
      .filter((branch) => branch.from === from && (branch.first !== null || isRunning(branch)))
      .map((branch) => branch.id);
  const own = gaze.tree.laneOf(id)?.from ?? null;
  const places = own === null ? froms : [own, ...froms];
  return (
    places.map(leaving).find((found) => found.length > 1) ?? places.map(leaving).find(({ length }) => length) ?? []
  );
}

export function pick(gaze: Gaze, at: number): Gaze {
  if (!gaze.side) return gaze;
  return { ...gaze, side: { ...gaze.side, pick: clamp(at, gaze.side.branches.length - 1) } };
}

/** The frame that a branch shows side by side: its newest where it is shorter than the others. */
export function shownOf({ tree, side }: Gaze, branch: number): number | null {
  const found = tree.branches.get(branch);
  if (!found || !side) return null;
  if (side.at === 0) return found.from;
  const nodes = tree.laneOfBranch(branch)?.nodes ?? [];
  return nodes[Math.min(side.at, nodes.length) - 1] ?? found.from;
}

/** Look at the picked one alone, at the frame it shows. */
export function keepPicked(gaze: Gaze): Gaze {
  const branch = gaze.side?.branches[gaze.side.pick];
  const id = branch === undefined ? null : shownOf(gaze, branch);
  const lane = branch === undefined ? null : gaze.tree.laneOfBranch(branch);
  const alone: Gaze = { ...gaze, side: null, follow: null };
  const last = lane?.nodes.at(-1);
  if (id === null || last === undefined) return alone;
  const way = gaze.tree.lineThrough(last);
  return { ...alone, way, at: Math.max(0, way.indexOf(id)) };
}

/** Frame after frame: one on, or null at the end. While more is coming it waits there. */
export function tick(gaze: Gaze): Gaze | null {
  const at = placeOf(gaze);
  if (at < lastPlace(gaze)) return { ...goTo(gaze, at + 1), follow: gaze.follow };
  return someRun(gaze) ? gaze : null;
}

/** Whether frames are still coming at what is looked at. */
function someRun(gaze: Gaze): boolean {
  const ids = gaze.side ? gaze.side.branches : [gaze.tree.laneOf(gaze.way.at(-1) ?? -1)?.branch?.id ?? -1];
  return ids.some((id) => {
    const branch = gaze.tree.branches.get(id);
    return branch !== undefined && isRunning(branch);
  });
}

function longest({ tree, side }: Gaze): number {
  return Math.max(0, ...(side?.branches ?? []).map((id) => tree.laneOfBranch(id)?.nodes.length ?? 0));
}

function sideWith({ side }: Gaze, tree: Tree): SideBySide | null {
  const branches = side?.branches.filter((id) => tree.branches.has(id)) ?? [];
  return side && branches.length ? { ...side, branches, pick: clamp(side.pick, branches.length - 1) } : null;
}

/** Frames with a star, in the order in which they were made. */
export const starred = ({ tree }: Gaze): number[] =>
  [...tree.nodes.values()].filter((node) => node.starred).map(({ id }) => id);

/** Look at the next frame with a star, after the last one at the first again. */
export function nextStar(gaze: Gaze): Gaze {
  const stars = starred(gaze);
  const id = chosen(gaze) ?? -1;
  const next = stars.find((star) => star > id) ?? stars[0];
  return next === undefined ? gaze : { ...choose(gaze, next), side: null };
}

/** How many frames follow the chosen one on its way. */
export const copiesAt = ({ way, at }: Gaze): number => Math.max(0, way.length - 1 - at);

/** Branches that are being dreamed where one looks; where none is, all of them. */
export function runningHere({ tree, side, way }: Gaze): number[] {
  const running = [...tree.branches.values()].filter(isRunning).map(({ id }) => id);
  const seen = side ? [...side.branches] : way.map((id) => tree.nodes.get(id)?.branch ?? -1);
  const here = running.filter((id) => seen.includes(id));
  return here.length ? here : running;
}
