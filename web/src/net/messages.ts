/** The text messages of the live socket, both ways. What comes in is checked, not believed. */

export type Who = "person" | "model" | "both";
export const WHO: readonly Who[] = ["person", "model", "both"];

/** Where and how a dream begins. */
export interface Opening {
  moment: string | null;
  /** A picture as base64; then `moment` is null. */
  image: string | null;
  who: Who;
  seed: number | null;
  temperature: number | null;
}

export type ClientMessage =
  | ({ type: "hello"; key: string | null; resume: string | null; format: "jpeg" | "webp" } & Opening)
  | { type: "pause" }
  | { type: "resume" }
  | { type: "step" }
  | { type: "reset"; seed?: number; moment?: string; image?: string }
  | { type: "who"; value: Who }
  | { type: "temperature"; value: number };

/** What the server last said of the session. */
export interface SessionState {
  token: string;
  model: string;
  width: number;
  height: number;
  hertz: number;
  moment: string | null;
  seed: number;
  who: Who;
  temperature: number;
  paused: boolean;
  late: number;
  skipped: number;
}

/** How far the opening of a session is, in steps of its prompt; null before that is known. */
export interface Progress {
  seen: number | null;
  steps: number | null;
}

export type ServerMessage =
  | { type: "ready" | "state"; changes: Partial<SessionState> }
  | ({ type: "opening" } & Progress)
  | { type: "error"; message: string };

const NO_REASON = "The server said no, and not why.";

/** What a server said, with a capital and a full stop. */
export function asSentence(text: string): string {
  const said = text.trim();
  return `${said.charAt(0).toUpperCase()}${said.slice(1)}${/[.!?…]$/.test(said) ? "" : "."}`;
}

/** Reads one text message; null for one of a type this page does not know. */
export function parseMessage(text: string): ServerMessage | null {
  const message = asObject(text);
  if (!message) return null;
  if (message.type === "error") {
    const said = message.message;
    return { type: "error", message: typeof said === "string" && said ? asSentence(said) : NO_REASON };
  }
  if (message.type === "opening") {
    return { type: "opening", seen: countIn(message.seen), steps: countIn(message.steps) };
  }
  if (message.type !== "ready" && message.type !== "state") return null;
  return { type: message.type, changes: changesIn(message) };
}

const countIn = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) ? value : null);

function changesIn(message: Record<string, unknown>): Partial<SessionState> {
  const found: Partial<SessionState> = {};
  for (const name of ["token", "model"] as const) {
    const value = message[name];
    if (typeof value === "string") found[name] = value;
  }
  for (const name of ["width", "height", "hertz", "seed", "temperature", "late", "skipped"] as const) {
    const value = message[name];
    if (typeof value === "number" && Number.isFinite(value)) found[name] = value;
  }
  if (typeof message.moment === "string" || message.moment === null) found.moment = message.moment;
  if (typeof message.paused === "boolean") found.paused = message.paused;
  const who = WHO.find((known) => known === message.who);
  if (who) found.who = who;
  return found;
}

function asObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
