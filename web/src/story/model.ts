/** A story as the server tells it: frames, branches, and how they are read. What comes in is checked, not believed. */
import { type Action, CONTROLS } from "../control/controls";

export type Origin = "given" | "dreamed" | "edited";
export type ActionSource = "player" | "model";
export type BranchState = "waiting" | "dreaming" | "done" | "cancelled" | "failed";

/** One frame. */
export interface StoryNode {
  id: number;
  /** The frame before; null for the first. */
  parent: number | null;
  origin: Origin;
  /** What led to it, sixteen numbers in the order of `CONTROLS`; null for the first. */
  action: Action | null;
  actionSource: ActionSource | null;
  /** The order to dream on that made it. */
  branch: number | null;
  starred: boolean;
  note: string;
  /** The frame that this one is an edit of. */
  editOf: number | null;
}

/** One order to dream on. */
export interface Branch {
  id: number;
  from: number;
  /** How many frames were asked for, and how many there are. */
  frames: number;
  framesDone: number;
  state: BranchState;
  error: string | null;
  seed: number;
  controlledBy: ActionSource;
  first: number | null;
  last: number | null;
}

export interface Story {
  id: string;
  name: string;
  /** Of its frames, in pixels. */
  height: number;
  width: number;
  /** Most steps the model sees. */
  context: number;
  fps: number;
  nodes: StoryNode[];
  branches: Branch[];
  /** The newest event in it. */
  event: number;
}

/** One line of the list of stories. */
export interface StoryEntry {
  id: string;
  name: string;
  created: string;
  frames: number;
  branches: number;
  picture: string | null;
  /** Why it cannot be opened; null: it can. */
  error: string | null;
}

/** Whose input led to a frame; that of the frames given is the recording's. */
export const actionSourceOf = ({ origin, actionSource }: StoryNode): ActionSource | "real" =>
  origin === "given" ? "real" : (actionSource ?? "player");

export const isRunning = ({ state }: Branch): boolean => state === "waiting" || state === "dreaming";

const UNKNOWN = "This page cannot read the server's story data; reload the page.";
const LEVELS = [-1, -0.85, -0.625, -0.375, -0.15, 0, 0.15, 0.375, 0.625, 0.85, 1];
const SLOTS = { leftX: 12, leftY: 13, rightX: 14, rightY: 15, buttons: 12 } as const;

/** Bins as they are kept (twelve buttons, four sticks, +y forward) as an action of `CONTROLS` (-1 is forward). */
export function fromBins(bins: readonly number[]): Action {
  const stick = (slot: number): number => LEVELS[bins[slot] ?? 5] ?? 0;
  return [
    stick(SLOTS.leftX),
    0 - stick(SLOTS.leftY),
    stick(SLOTS.rightX),
    0 - stick(SLOTS.rightY),
    ...CONTROLS.slice(4).map((_, slot) => (bins[slot] ? 1 : 0)),
  ];
}

type Raw = Readonly<Record<string, unknown>>;

export const isRecord = (value: unknown): value is Raw =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const text = (value: unknown): string => (typeof value === "string" ? value : "");
const whole = (value: unknown): number | null => (Number.isSafeInteger(value) ? (value as number) : null);
const oneOf = <T extends string>(choices: readonly T[], value: unknown): T | null =>
  choices.find((choice) => choice === value) ?? null;
const list = (value: unknown): unknown[] => (Array.isArray(value) ? (value as unknown[]) : []);

/** @throws Error with a sentence when it is no node. */
export function nodeIn(raw: unknown): StoryNode {
  const id = isRecord(raw) ? whole(raw.id) : null;
  if (!isRecord(raw) || id === null) throw new Error(UNKNOWN);
  return {
    id,
    parent: whole(raw.parent),
    origin: oneOf(["given", "dreamed", "edited"], raw.origin) ?? "dreamed",
    action: Array.isArray(raw.action) ? fromBins(raw.action as number[]) : null,
    actionSource: oneOf(["player", "model"], raw.action_source),
    branch: whole(raw.branch),
    starred: raw.starred === true,
    note: text(raw.note),
    editOf: whole(raw.edit_of),
  };
}

/** @throws Error with a sentence when it is no branch. */
export function branchIn(raw: unknown): Branch {
  const [id, from] = isRecord(raw) ? [whole(raw.id), whole(raw.from)] : [null, null];
  if (!isRecord(raw) || id === null || from === null) throw new Error(UNKNOWN);
  return {
    id,
    from,
    frames: whole(raw.frames) ?? 0,
    framesDone: whole(raw.frames_done) ?? 0,
    state: oneOf(["waiting", "dreaming", "done", "cancelled", "failed"], raw.state) ?? "done",
    error: text(raw.error) || null,
    seed: whole(raw.seed) ?? 0,
    controlledBy: oneOf(["player", "model"], raw.controlled_by) ?? "player",
    first: whole(raw.first),
    last: whole(raw.last),
  };
}

/** @throws Error with a sentence when it is no story. */
export function storyIn(raw: unknown): Story {
  if (!isRecord(raw) || typeof raw.id !== "string" || !Array.isArray(raw.nodes)) throw new Error(UNKNOWN);
  const [height, width] = list(raw.size);
  return {
    id: raw.id,
    name: text(raw.name),
    height: whole(height) ?? 3,
    width: whole(width) ?? 5,
    context: whole(raw.context) ?? 1,
    fps: typeof raw.fps === "number" && raw.fps > 0 ? raw.fps : 10,
    nodes: raw.nodes.map(nodeIn),
    branches: list(raw.branches).map(branchIn),
    event: whole(raw.revision) ?? 0,
  };
}

/** The entries of the list of stories; what is none of them is left out. */
export function entriesIn(raw: unknown): StoryEntry[] {
  return list(isRecord(raw) ? raw.stories : null).flatMap((entry) => {
    if (!isRecord(entry) || typeof entry.id !== "string") return [];
    return [
      {
        id: entry.id,
        name: text(entry.name),
        created: text(entry.created),
        frames: whole(entry.frames) ?? 0,
        branches: whole(entry.branches) ?? 0,
        picture: text(entry.picture) || null,
        error: text(entry.error) || null,
      },
    ];
  });
}

/** Ids that a `removed` event names: `{nodes: [...], branches: [...]}`, or one `{node}` with all after it. */
export function removedIn(raw: unknown): { nodes: number[]; branches: number[]; from: number | null } {
  const ids = (value: unknown): number[] => list(value).flatMap((id) => whole(id) ?? []);
  if (!isRecord(raw)) return { nodes: [], branches: [], from: null };
  return { nodes: ids(raw.nodes), branches: ids(raw.branches), from: whole(raw.node) };
}
