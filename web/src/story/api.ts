/** What is asked of the server about stories, over HTTP. Errors come out as sentences (`ApiError`). */
import type { Action } from "../control/controls";
import { ask, urlOf } from "../net/api";
import {
  type Branch,
  branchIn,
  entriesIn,
  isRecord,
  type ActionSource,
  type Story,
  type StoryEntry,
  storyIn,
} from "./model";
import { nodeIn, type StoryNode } from "./model";

/** Where a story begins. */
export type Beginning = ({ prompt: string } | { images: string[] } | { session: string }) & { name?: string };

/** Branches to dream. */
export interface Order {
  from: number;
  count: number;
  frames: number;
  context: number;
  controlled_by: ActionSource;
  /** One of these when the player presses; none: at rest. */
  actions?: readonly Action[];
  script?: string;
  action?: Action;
  temperature?: number;
  seed?: number;
}

export const EXPORTS = ["mp4", "gif", "csv", "npz", "zip"] as const;
export type Export = (typeof EXPORTS)[number];

const path = (id: string, rest = ""): string => `v1/stories/${encodeURIComponent(id)}${rest}`;

/** The small picture of a frame; it never changes, and needs no key. */
export const pictureUrl = (id: string, node: number): string => urlOf(path(id, `/nodes/${node}.webp`));
export const eventsUrl = (id: string, after: number): string => urlOf(path(id, `/events?after=${after}`));
export const framePath = (id: string, node: number): string => path(id, `/nodes/${node}.png`);
export const exportPath = (id: string, node: number, kind: Export): string => path(id, `/nodes/${node}/path.${kind}`);
export const allPath = (id: string): string => path(id, "/story.zip");

export async function listStories(key: string | null): Promise<StoryEntry[]> {
  return entriesIn(await (await ask("GET", "v1/stories", key)).json());
}

export async function beginStory(beginning: Beginning, key: string | null): Promise<Story> {
  return storyIn(await (await ask("POST", "v1/stories", key, beginning)).json());
}

export async function fetchStory(id: string, key: string | null): Promise<Story> {
  return storyIn(await (await ask("GET", path(id), key)).json());
}

export async function renameStory(id: string, name: string, key: string | null): Promise<void> {
  await ask("PATCH", path(id), key, { name });
}

export async function deleteStory(id: string, key: string | null): Promise<void> {
  await ask("DELETE", path(id), key);
}

/** The branches that were ordered, and what the server says of it (that a script was cut, for example). */
export async function orderBranches(
  id: string,
  order: Order,
  key: string | null,
): Promise<{ branches: Branch[]; notes: string[] }> {
  const answer: unknown = await (await ask("POST", path(id, "/branches"), key, order)).json();
  const [branches, notes] = isRecord(answer) ? [answer.branches, answer.notes] : [];
  return {
    branches: Array.isArray(branches) ? branches.map(branchIn) : [],
    notes: Array.isArray(notes) ? notes.filter((note): note is string => typeof note === "string") : [],
  };
}

export async function cancelBranch(id: string, branch: number, key: string | null): Promise<void> {
  await ask("DELETE", path(id, `/branches/${branch}`), key);
}

export async function removeNode(id: string, node: number, key: string | null): Promise<void> {
  await ask("DELETE", path(id, `/nodes/${node}`), key);
}

/** Marks a frame or writes to it. */
export async function changeNode(
  id: string,
  node: number,
  changes: { starred?: boolean; note?: string },
  key: string | null,
): Promise<void> {
  await ask("PATCH", path(id, `/nodes/${node}`), key, changes);
}

/** An overlay (base64 PNG of the frame's size) put onto a frame, and onto the next ones towards `toward`. */
export async function editNode(
  id: string,
  node: number,
  edit: { overlay: string; copies: number; toward?: number },
  key: string | null,
): Promise<StoryNode[]> {
  const answer: unknown = await (await ask("POST", path(id, `/nodes/${node}/edit`), key, edit)).json();
  return isRecord(answer) && Array.isArray(answer.nodes) ? answer.nodes.map(nodeIn) : [];
}
