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

export interface ViewState {
  tree: Tree;
  /** Frames from a beginning to an end. */
  way: readonly number[];
  /** The place of the chosen frame on it. */
  at: number;
  /** The branch whose newest frame is watched as it comes in; `true`: all that are side by side. */
  follow: number | true | null;
  side: SideBySide | null;
}

export const NOWHERE: ViewState = { tree: EMPTY, way: [], at: 0, follow: null, side: null };
export const MOST_BESIDE = 8;

const clamp = (value: number, most: number): number => Math.max(0, Math.min(most, value));

export const chosen = ({ way, at }: ViewState): number | null => way[at] ?? null;

/** Look at this frame; the way stays if the frame lies on it. */
export function choose(state: ViewState, id: number): ViewState {
  if (!state.tree.nodes.has(id)) return state;
  const on = state.way.indexOf(id);
  const way = on >= 0 ? state.way : state.tree.lineThrough(id);
  return { ...state, way, at: way.indexOf(id), follow: null };
}

/** Look at the frame at this place of the way, or of all branches that are side by side. */
export function goTo(state: ViewState, at: number): ViewState {
  if (state.side) return { ...state, follow: null, side: { ...state.side, at: clamp(at, longest(state)) } };
  return { ...state, follow: null, at: clamp(at, state.way.length - 1) };
}

export const placeOf = (state: ViewState): number => (state.side ? state.side.at : state.at);
export const lastPlace = (state: ViewState): number =>
  state.side ? longest(state) : Math.max(0, state.way.length - 1);

/** The lane above or below, at the same instant as far as it has one; or the next picture side by side. */
export function otherLane(state: ViewState, by: 1 | -1): ViewState {
  if (state.side) return pick(state, state.side.pick + by);
  const id = chosen(state);
  const lane = id === null ? null : state.tree.laneOf(id);
  if (id === null || !lane) return state;
  const lanes = state.tree.lanes.filter(({ nodes }) => nodes.length > 0);
  const next = lanes[lanes.indexOf(lane) + by];
  if (!next) return state;
  const at = clamp(state.tree.depth(id) - next.start, next.nodes.length - 1);
  return choose(state, next.nodes[at] ?? id);
}

/** The tree has changed: the way goes on where it was, and grows. */
export function withTree(before: ViewState, tree: Tree): ViewState {
  const state = { ...before, tree };
  const alive = before.way.filter((id) => tree.nodes.has(id));
  const followed = typeof before.follow === "number" ? (tree.branches.get(before.follow) ?? null) : null;
  const anchor = followed?.last ?? alive.at(-1) ?? tree.roots[0];
  const way = anchor === undefined || !tree.nodes.has(anchor) ? [] : tree.lineThrough(anchor);
  const id = chosen(before);
  const stayed = id === null ? -1 : way.indexOf(id);
  const survivor = clamp(before.at, Math.max(0, alive.length - 1));
  state.way = way;
  state.at = followed && followed.last !== null ? way.indexOf(followed.last) : stayed >= 0 ? stayed : survivor;
  state.side = sideWith(before, tree);
  if (state.side && before.follow === true) state.side.at = longest(state);
  const running = typeof before.follow === "number" ? followed !== null && isRunning(followed) : someRun(state);
  return { ...state, follow: running ? before.follow : null };
}

/** Put branches beside each other; none: look at one way again. */
export function beside(state: ViewState, branches: readonly number[]): ViewState {
  const known = branches.filter((id) => state.tree.branches.has(id)).slice(0, MOST_BESIDE);
  if (!known.length) return { ...state, side: null };
  const next = { ...state, side: { branches: known, at: 0, pick: clamp(state.side?.pick ?? 0, known.length - 1) } };
  const at = state.side ? state.side.at : longest(next);
  return { ...next, side: { ...next.side, at: clamp(at, longest(next)) } };
}

/** The branches that one would lay beside each other here: those that leave the same frame as the one looked at. */
export function siblings(state: ViewState): number[] {
  const id = chosen(state);
  if (id === null) return [];
  const froms = [...state.way.slice(0, state.at + 1)].reverse();
  const leaving = (from: number): number[] =>
    [...state.tree.branches.values()]
      .filter((branch) => branch.from === from && (branch.first !== null || isRunning(branch)))
      .map((branch) => branch.id);
  const own = state.tree.laneOf(id)?.from ?? null;
  const places = own === null ? froms : [own, ...froms];
  return (
    places.map(leaving).find((found) => found.length > 1) ?? places.map(leaving).find(({ length }) => length) ?? []
  );
}

export function pick(state: ViewState, at: number): ViewState {
  if (!state.side) return state;
  return { ...state, side: { ...state.side, pick: clamp(at, state.side.branches.length - 1) } };
}

/** The frame that a branch shows side by side: its newest where it is shorter than the others. */
export function shownOf({ tree, side }: ViewState, branch: number): number | null {
  const found = tree.branches.get(branch);
  if (!found || !side) return null;
  if (side.at === 0) return found.from;
  const nodes = tree.laneOfBranch(branch)?.nodes ?? [];
  return nodes[Math.min(side.at, nodes.length) - 1] ?? found.from;
}

/** Look at the picked one alone, at the frame it shows. */
export function keepPicked(state: ViewState): ViewState {
  const branch = state.side?.branches[state.side.pick];
  const id = branch === undefined ? null : shownOf(state, branch);
  const lane = branch === undefined ? null : state.tree.laneOfBranch(branch);
  const alone: ViewState = { ...state, side: null, follow: null };
  const last = lane?.nodes.at(-1);
  if (id === null || last === undefined) return alone;
  const way = state.tree.lineThrough(last);
  return { ...alone, way, at: Math.max(0, way.indexOf(id)) };
}

/** Frame after frame: one on, or null at the end. While more is coming it waits there. */
export function tick(state: ViewState): ViewState | null {
  const at = placeOf(state);
  if (at < lastPlace(state)) return { ...goTo(state, at + 1), follow: state.follow };
  return someRun(state) ? state : null;
}

/** Whether frames are still coming at what is looked at. */
function someRun(state: ViewState): boolean {
  const ids = state.side ? state.side.branches : [state.tree.laneOf(state.way.at(-1) ?? -1)?.branch?.id ?? -1];
  return ids.some((id) => {
    const branch = state.tree.branches.get(id);
    return branch !== undefined && isRunning(branch);
  });
}

function longest({ tree, side }: ViewState): number {
  return Math.max(0, ...(side?.branches ?? []).map((id) => tree.laneOfBranch(id)?.nodes.length ?? 0));
}

function sideWith({ side }: ViewState, tree: Tree): SideBySide | null {
  const branches = side?.branches.filter((id) => tree.branches.has(id)) ?? [];
  return side && branches.length ? { ...side, branches, pick: clamp(side.pick, branches.length - 1) } : null;
}

/** Frames with a star, in the order in which they were made. */
export const starred = ({ tree }: ViewState): number[] =>
  [...tree.nodes.values()].filter((node) => node.starred).map(({ id }) => id);

/** Look at the next frame with a star, after the last one at the first again. */
export function nextStar(state: ViewState): ViewState {
  const stars = starred(state);
  const id = chosen(state) ?? -1;
  const next = stars.find((star) => star > id) ?? stars[0];
  return next === undefined ? state : { ...choose(state, next), side: null };
}

/** How many frames follow the chosen one on its way. */
export const copiesAt = ({ way, at }: ViewState): number => Math.max(0, way.length - 1 - at);

/** Branches that are being dreamed where one looks; where none is, all of them. */
export function runningHere({ tree, side, way }: ViewState): number[] {
  const running = [...tree.branches.values()].filter(isRunning).map(({ id }) => id);
  const seen = side ? [...side.branches] : way.map((id) => tree.nodes.get(id)?.branch ?? -1);
  const here = running.filter((id) => seen.includes(id));
  return here.length ? here : running;
}
