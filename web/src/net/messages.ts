/** The text messages of the live socket, both ways. What comes in is checked, not believed. */

export type Controller = "person" | "model" | "both";
export const CONTROLLERS: readonly Controller[] = ["person", "model", "both"];

/** Where and how a dream begins. */
export interface Opening {
  prompt: string | null;
  /** A picture as base64; then `prompt` is null. */
  image: string | null;
  controller: Controller;
  seed: number | null;
  temperature: number | null;
}

export type ClientMessage =
  | ({ type: "hello"; key: string | null; resume: string | null; format: "jpeg" | "webp" } & Opening)
  | { type: "pause" }
  | { type: "resume" }
  | { type: "step" }
  | { type: "reset"; seed?: number; prompt?: string; image?: string }
  | { type: "controller"; value: Controller }
  | { type: "temperature"; value: number };

/** What the server last said of the session. */
export interface SessionState {
  token: string;
  model: string;
  width: number;
  height: number;
  fps: number;
  prompt: string | null;
  seed: number;
  controller: Controller;
  temperature: number;
  paused: boolean;
  late: number;
  skipped: number;
}

/** How far the opening of a session is, in steps of its prompt or megabytes of the model; null before that is known. */
export interface Progress {
  seen: number | null;
  steps: number | null;
  /** The model is loaded first, into this browser. */
  loading: boolean;
}

export type ServerMessage =
  | { type: "ready" | "state"; changes: Partial<SessionState> }
  | ({ type: "opening" } & Progress)
  | { type: "error"; message: string };

const NO_REASON = "The server refused the request and gave no reason.";

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
    const loading = message.loading === true;
    return { type: "opening", seen: countIn(message.seen), steps: countIn(message.steps), loading };
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
  for (const name of ["width", "height", "fps", "seed", "temperature", "late", "skipped"] as const) {
    const value = message[name];
    if (typeof value === "number" && Number.isFinite(value)) found[name] = value;
  }
  if (typeof message.prompt === "string" || message.prompt === null) found.prompt = message.prompt;
  if (typeof message.paused === "boolean") found.paused = message.paused;
  const controller = CONTROLLERS.find((known) => known === message.controller);
  if (controller) found.controller = controller;
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
