/**
 * The line to the server: says hello, hears frames and state, and when it breaks comes back by itself with its token.
 *
 * Owns when to try again and when not. Knows nothing of pictures, keys or what is on the screen.
 */
import type { Action } from "../control/controls";
import { backOff } from "./backoff";
import { type Frame, packAction, parseFrame } from "./header";
import { type ClientMessage, type Opening, parseMessage, type Progress, type SessionState } from "./messages";

export type Line =
  | { kind: "idle" }
  /** `progress`: what the server said of it; null before its first word. `since`: when this try began. */
  | { kind: "opening"; again: boolean; since: number; progress: Progress | null }
  | { kind: "open" }
  | { kind: "waiting"; reason: string; until: number }
  | { kind: "refused"; reason: string };

export interface Listener {
  onLine(line: Line): void;
  /** `fresh`: this dream is not the one that was played before. */
  onReady(state: SessionState, fresh: boolean): void;
  onState(state: SessionState): void;
  onFrame(frame: Frame): void;
  /** One sentence for the person. */
  onNotice(sentence: string): void;
}

/** The little of a `WebSocket` that is used; the tests bring their own. */
export type Socket = Pick<WebSocket, "send" | "close" | "readyState" | "binaryType"> & {
  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
};

/** The server says something every second, also while a session opens. After this long without a word it is gone. */
export const SILENCE_MS = 6_000;
const POLICY_VIOLATION = 1008;
const OPEN = 1;
const GONE = "The server does not answer.";
const FORGOTTEN = "The server closed this session, so the dream starts over.";

const NEW_SESSION: SessionState = {
  token: "",
  model: "",
  width: 0,
  height: 0,
  fps: 10,
  prompt: null,
  seed: 0,
  controller: "person",
  temperature: 1,
  paused: false,
  late: 0,
  skipped: 0,
};

export class Connection {
  key: string | null = null;
  private opening: Opening | null = null;
  private token: string | null = null;
  private socket: Socket | null = null;
  private state: SessionState = NEW_SESSION;
  private attempt = 0;
  private said: string | null = null;
  private retry: ReturnType<typeof setTimeout> | null = null;
  private silence: ReturnType<typeof setTimeout> | null = null;
  private line: Line = { kind: "idle" };
  private readonly listener: Listener;
  private readonly makeSocket: (token: string | null) => Socket;
  private readonly silenceMs: number | null;

  /** `silenceMs`: how long the other end may say nothing; null: for ever. */
  constructor(listener: Listener, makeSocket: (token: string | null) => Socket, silenceMs: number | null = SILENCE_MS) {
    this.listener = listener;
    this.makeSocket = makeSocket;
    this.silenceMs = silenceMs;
  }

  /** Open a session; with a token, go on with that one if the server still has it. */
  start(opening: Opening, token: string | null = null): void {
    this.stop();
    this.opening = opening;
    this.token = token;
    this.attempt = 0;
    this.connect();
  }

  /** Leave; nothing is tried again. */
  stop(): void {
    this.drop();
    if (this.retry !== null) clearTimeout(this.retry);
    this.retry = null;
    this.set({ kind: "idle" });
  }

  /** Do not wait for the back-off. */
  tryNow(): void {
    if (this.line.kind === "waiting") this.connect();
  }

  /** Says it if the line is open; what is said into a broken line is lost. */
  say(message: ClientMessage): boolean {
    if (this.line.kind !== "open") return false;
    this.socket?.send(JSON.stringify(message));
    return true;
  }

  act(action: Action): void {
    if (this.line.kind === "open" && this.socket?.readyState === OPEN) this.socket.send(packAction(action));
  }

  /** Where the dream starts when the server has forgotten it. */
  remember(changes: Partial<Opening>): void {
    if (this.opening) this.opening = { ...this.opening, ...changes };
  }

  private connect(): void {
    this.drop();
    if (this.retry !== null) clearTimeout(this.retry);
    this.retry = null;
    this.said = null;
    this.set({ kind: "opening", again: this.token !== null, since: Date.now(), progress: null });
    const socket = this.makeSocket(this.token);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.listen();
      this.hello(socket);
    };
    socket.onmessage = (event: MessageEvent<unknown>) => {
      this.hear(event.data);
    };
    socket.onclose = (event) => {
      this.closed(event.code);
    };
    this.listen();
  }

  private hello(socket: Socket): void {
    if (!this.opening) return;
    const hello: ClientMessage = { type: "hello", key: this.key, resume: this.token, format: "jpeg", ...this.opening };
    socket.send(JSON.stringify(hello));
  }

  private hear(data: unknown): void {
    this.listen();
    if (data instanceof ArrayBuffer) this.hearFrame(data);
    else if (typeof data === "string") this.hearText(data);
  }

  private hearFrame(data: ArrayBuffer): void {
    let frame: Frame;
    try {
      frame = parseFrame(data);
    } catch (error) {
      this.refuse(error instanceof Error ? error.message : String(error));
      return;
    }
    this.listener.onFrame(frame);
  }

  private hearText(text: string): void {
    const message = parseMessage(text);
    if (message?.type === "error") {
      this.said = message.message;
      if (this.line.kind === "open") this.listener.onNotice(message.message);
    } else if (message?.type === "ready") {
      this.ready(message.changes);
    } else if (message?.type === "opening") {
      if (this.line.kind === "opening")
        this.set({ ...this.line, progress: { seen: message.seen, steps: message.steps, loading: message.loading } });
    } else if (message) {
      this.state = { ...this.state, ...message.changes };
      this.listener.onState(this.state);
    }
  }

  private ready(changes: Partial<SessionState>): void {
    const fresh = changes.token !== this.token;
    if (fresh && this.token !== null) this.listener.onNotice(FORGOTTEN);
    this.state = { ...NEW_SESSION, ...changes };
    this.token = this.state.token;
    this.attempt = 0;
    this.set({ kind: "open" });
    this.listener.onReady(this.state, fresh);
  }

  private closed(code: number): void {
    const opening = this.line.kind === "opening";
    const said = this.said;
    this.drop();
    if (opening && this.token !== null && said !== null) {
      this.token = null; // the server has no such session (any more): begin again where this one began
      this.listener.onNotice(FORGOTTEN);
      this.connect();
    } else if (code === POLICY_VIOLATION) {
      this.refuse(said ?? "The server refused the connection and gave no reason.");
    } else {
      this.wait(said ?? GONE);
    }
  }

  private refuse(reason: string): void {
    this.drop();
    this.token = null;
    this.set({ kind: "refused", reason });
  }

  private wait(reason: string): void {
    const delay = backOff(this.attempt);
    this.attempt += 1;
    this.set({ kind: "waiting", reason, until: Date.now() + delay });
    this.retry = setTimeout(() => {
      this.connect();
    }, delay);
  }

  /** Something was heard: the line lives for another while. */
  private listen(): void {
    if (this.silence !== null) clearTimeout(this.silence);
    if (this.silenceMs === null) return;
    this.silence = setTimeout(() => {
      this.drop();
      this.wait(GONE);
    }, this.silenceMs);
  }

  private drop(): void {
    if (this.silence !== null) clearTimeout(this.silence);
    this.silence = null;
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  private set(line: Line): void {
    this.line = line;
    this.listener.onLine(line);
  }
}
