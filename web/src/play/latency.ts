/**
 * From the key to the picture, as the person at this screen has it: key event until the frame made with it is drawn.
 *
 * The server marks the first frame of every new press; which press that was is told by its action.
 */
import { type Action, sameAction } from "../control/controls";
import type { Frame } from "../net/header";

const KEPT = 30;
const STALE_MS = 5_000;

interface Press {
  action: Action;
  at: number;
}

/** The last few of a figure. */
export class Recent {
  private readonly values: number[] = [];

  add(value: number): void {
    this.values.push(value);
    if (this.values.length > KEPT) this.values.shift();
  }

  get count(): number {
    return this.values.length;
  }

  /** The middle one; null while there is none. */
  get median(): number | null {
    const sorted = [...this.values].sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? null;
  }

  get worst(): number | null {
    return this.values.length ? Math.max(...this.values) : null;
  }

  clear(): void {
    this.values.length = 0;
  }
}

export class KeyToPicture {
  readonly times = new Recent();
  /** Of the same presses, what the server says it took there. */
  readonly serverTimes = new Recent();
  private pressed: Press[] = [];
  private arrived: { at: number; server: number }[] = [];

  /** A new action is held since `at` (ms, the time of the key event). */
  press(action: Action, at: number): void {
    this.pressed = this.pressed.filter((press) => at - press.at < STALE_MS);
    this.pressed.push({ action, at });
  }

  /** A frame came in; the press it was made with, and every older one, waits no more. */
  receive(frame: Frame): void {
    const server = frame.keyToFrame;
    if (server === null || !frame.given) return;
    const index = this.pressed.findLastIndex((press) => sameAction(press.action, frame.action));
    const press = this.pressed[index];
    if (!press) return;
    this.pressed = this.pressed.slice(index + 1);
    this.arrived.push({ at: press.at, server: 1000 * server });
  }

  /** The newest frame is on the canvas, and with it every press that came in before. */
  drawn(at: number): void {
    for (const press of this.arrived) {
      this.times.add(at - press.at);
      this.serverTimes.add(press.server);
    }
    this.arrived = [];
  }

  /** Forget what waits: the line broke, or nobody looks. */
  forget(): void {
    this.pressed = [];
    this.arrived = [];
  }
}

const ENOUGH = 0.6; // of the frames a second that should be made

/**
 * A sentence where too few frames are made; null where enough are, or nothing is known.
 *
 * @param cost milliseconds that a frame takes.
 * @param fps frames a second that there should be.
 * @param isLocal they are made in this browser, not by a server.
 */
export function slownessOf(cost: number | null, fps: number, isLocal = false): string | null {
  const made = 1000 / (cost ?? 0);
  if (made >= ENOUGH * fps) return null;
  const rate = made < 1 ? made.toFixed(1) : Math.round(made).toString();
  return isLocal
    ? `This device generates ${rate} of ${fps} frames per second, so the dream runs slower.`
    : `The server generates ${rate} of ${fps} frames per second: its processor is busy.`;
}

const WINDOW_MS = 2_000;

/** Frames a second over the last two seconds. */
export class Rate {
  private times: number[] = [];

  add(at: number): void {
    this.times.push(at);
    this.trim(at);
  }

  /** 0 when nothing came for a while. */
  at(now: number): number {
    this.trim(now);
    const [first] = this.times;
    const last = this.times.at(-1);
    if (first === undefined || last === undefined || last === first) return 0;
    return ((this.times.length - 1) * 1000) / (Math.max(last, now - 300) - first);
  }

  private trim(now: number): void {
    this.times = this.times.filter((time) => now - time < WINDOW_MS);
  }
}
