/**
 * One person at one session: joins line, input, screen and figures, and keeps what the page shows.
 *
 * The one object behind the page. React reads `snapshot`, which changes some ten times a second at most while playing.
 */
import { type Action, REST } from "../control/controls";
import { ControlInput } from "../control/useControls";
import { Sender } from "../control/sender";
import { endSession, socketUrl } from "../net/api";
import { Connection, type Line, type Listener, type Socket } from "../net/connection";
import type { Frame } from "../net/header";
import type { Opening, SessionState, Controller } from "../net/messages";
import { KeyToPicture, Rate, Recent } from "./latency";
import { History } from "./history";
import { Screen } from "./screen";
import { Timeline } from "./timeline";

export interface Figures {
  framesPerSecond: number;
  /** Milliseconds, medians of the last presses; null before the first. */
  keyToPicture: number | null;
  keyToPictureWorst: number | null;
  keyToFrame: number | null;
  presses: number;
  cost: number | null;
}

export interface Snapshot {
  line: Line;
  session: SessionState | null;
  /** The bundled prompt that is played, or about to be. */
  prompt: string | null;
  /** The person's own picture instead, as a data address. */
  own: string | null;
  /** A frame of this dream has been drawn. */
  seen: boolean;
  /** The number of the frame that is on the canvas. */
  frame: number;
  held: Action;
  /** What the last frame was made with, and by whom. */
  used: Action;
  given: boolean;
  figures: Figures;
  notice: { text: string; id: number } | null;
}

const NO_FIGURES: Figures = {
  framesPerSecond: 0,
  keyToPicture: null,
  keyToPictureWorst: null,
  keyToFrame: null,
  presses: 0,
  cost: null,
};
export const NEW_OPENING: Opening = { prompt: null, image: null, controller: "person", seed: null, temperature: null };
const FIGURES_EVERY_MS = 500;
/** Frames of which nothing is concluded yet: the first ones cost more. */
const FEW = 3;

const addressOf = (image: string): string => `data:image/jpeg;base64,${image}`;

/** What is seen of an opening before its first frame. */
function beginning({ prompt, image }: Opening): Pick<Snapshot, "prompt" | "own"> {
  return { prompt, own: image === null ? null : addressOf(image) };
}

export class Player implements Listener {
  readonly timeline = new Timeline();
  readonly input = new ControlInput((action, at) => {
    this.held(action, at);
  });
  readonly screen = new Screen((frame, at) => {
    this.drawn(frame, at);
  });
  private snapshot: Snapshot = {
    line: { kind: "idle" },
    session: null,
    prompt: null,
    own: null,
    seen: false,
    frame: 0,
    held: REST,
    used: REST,
    given: true,
    figures: NO_FIGURES,
    notice: null,
  };
  /** The model runs in this browser. */
  readonly isLocal: boolean;
  private readonly history: History;
  private readonly connection: Connection;
  private readonly sender: Sender;
  private readonly latency = new KeyToPicture();
  private readonly rate = new Rate();
  private readonly cost = new Recent();
  private readonly watchers = new Set<() => void>();
  private ticker: ReturnType<typeof setInterval> | null = null;

  /** `local`: makes sockets to a model in this browser; none: the page has a server. */
  constructor(history: History, local?: () => Socket) {
    this.history = history;
    this.isLocal = local !== undefined;
    this.connection = local
      ? new Connection(this, local, null)
      : new Connection(this, (token) => new WebSocket(socketUrl(token)));
    this.sender = new Sender((action) => {
      this.connection.act(action);
    });
  }

  readonly watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  readonly look = (): Snapshot => this.snapshot;

  get key(): string | null {
    return this.connection.key;
  }

  /** The key of a server that wants one; from the next hello on. */
  useKey(key: string | null): void {
    this.connection.key = key;
  }

  /** Go on with the session this tab had, if it had one. */
  comeBack(): boolean {
    const kept = this.history.load();
    if (kept) {
      this.change(beginning(kept.opening));
      this.connection.start(kept.opening, kept.token);
    }
    return kept !== null;
  }

  start(opening: Opening): void {
    this.timeline.clear();
    this.change({ ...beginning(opening), session: null, seen: false, used: REST, notice: null });
    this.history.save({ opening, token: null });
    this.connection.start(opening);
  }

  leave(): void {
    this.history.forget();
    const { line, session } = this.snapshot;
    if (line.kind === "open" && session && !this.isLocal) endSession(session.token, this.key);
    this.connection.stop();
    this.timeline.clear();
    this.change({ session: null, seen: false, notice: null });
  }

  tryNow(): void {
    this.connection.tryNow();
  }

  togglePause(): void {
    this.connection.say({ type: this.snapshot.session?.paused ? "resume" : "pause" });
  }

  step(): void {
    if (this.snapshot.session?.paused) this.connection.say({ type: "step" });
  }

  /** Start over: with the same seed and prompt, or with what is named. */
  reset(change: { seed?: number; prompt?: string; image?: string } = {}): void {
    if (!this.connection.say({ type: "reset", ...change })) return;
    const from: Partial<Opening> = {};
    if (change.prompt !== undefined) Object.assign(from, { prompt: change.prompt, image: null });
    if (change.image !== undefined) Object.assign(from, { prompt: null, image: change.image });
    if (change.seed !== undefined) from.seed = change.seed;
    this.remember(from);
    if (change.image !== undefined) this.change({ own: addressOf(change.image) });
    if (this.snapshot.session?.paused) this.change({ seen: false }); // nothing of the new dream comes before a step
  }

  /** Play from another prompt: in this session while there is one, else in a new one. */
  begin(prompt: string): void {
    if (this.snapshot.line.kind === "open") this.reset({ prompt });
    else this.start({ ...(this.history.load()?.opening ?? NEW_OPENING), prompt, image: null });
  }

  setController(value: Controller): void {
    if (this.connection.say({ type: "controller", value })) this.expect({ controller: value });
  }

  setTemperature(value: number): void {
    if (this.connection.say({ type: "temperature", value })) this.expect({ temperature: value });
  }

  notify(text: string | null): void {
    this.change({ notice: text === null ? null : { text, id: (this.snapshot.notice?.id ?? 0) + 1 } });
  }

  onLine(line: Line): void {
    if (line.kind !== "open") {
      this.sender.stop();
      this.latency.forget();
      this.stopTicking();
    }
    if (line.kind === "refused") this.history.forget();
    this.change({ line });
  }

  onReady(session: SessionState, fresh: boolean): void {
    if (fresh) {
      this.timeline.clear();
      this.cost.clear();
    }
    this.change({ session, prompt: session.prompt, seen: this.snapshot.seen && !fresh });
    this.remember({ seed: session.seed });
    this.history.keepToken(session.token);
    this.sender.start();
    this.startTicking();
  }

  onState(session: SessionState): void {
    this.change({ session, prompt: session.prompt });
  }

  onFrame(frame: Frame): void {
    this.rate.add(performance.now());
    this.cost.add(1000 * frame.cost);
    this.latency.receive(frame);
    this.timeline.add(frame);
    this.screen.put(frame);
  }

  onNotice(sentence: string): void {
    this.notify(sentence);
  }

  private held(action: Action, at: number): void {
    this.latency.press(action, at);
    this.sender.offer(action);
    this.change({ held: action });
  }

  private drawn(frame: Frame, at: number): void {
    this.latency.drawn(at);
    this.change({ seen: true, frame: frame.sequence, used: frame.action, given: frame.given });
  }

  /** Shown at once; the server's next word on it counts. */
  private expect(changes: { controller: Controller } | { temperature: number }): void {
    const session = this.snapshot.session;
    if (session) this.change({ session: { ...session, ...changes } });
    this.remember(changes);
  }

  private remember(changes: Partial<Opening>): void {
    this.connection.remember(changes);
    this.history.change(changes);
  }

  private startTicking(): void {
    this.stopTicking();
    this.ticker = setInterval(() => {
      this.change({ figures: this.figures() });
    }, FIGURES_EVERY_MS);
  }

  private stopTicking(): void {
    if (this.ticker !== null) clearInterval(this.ticker);
    this.ticker = null;
  }

  private figures(): Figures {
    return {
      framesPerSecond: this.rate.at(performance.now()),
      keyToPicture: this.latency.times.median,
      keyToPictureWorst: this.latency.times.worst,
      keyToFrame: this.latency.serverTimes.median,
      presses: this.latency.times.count,
      cost: this.cost.count < FEW ? null : this.cost.median,
    };
  }

  private change(changes: Partial<Snapshot>): void {
    this.snapshot = { ...this.snapshot, ...changes };
    for (const watcher of this.watchers) watcher();
  }
}
