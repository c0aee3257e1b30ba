/** Sends actions: at most sixty a second, only when they change, and a heartbeat that says the input still hold. */
import { type Action, REST, sameAction } from "./controls";

export const SEND_EVERY_MS = 1000 / 60;
export const HEARTBEAT_MS = 500;

export class Sender {
  private wanted: Action = REST;
  private sent: Action | null = null;
  private sentAt = -Infinity;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private readonly send: (action: Action) => void;
  private readonly now: () => number;

  constructor(send: (action: Action) => void, now: () => number = () => performance.now()) {
    this.send = send;
    this.now = now;
  }

  /** Hold this; sent at once, or as soon as the limit allows. Newest wins. */
  offer(action: Action): void {
    this.wanted = action;
    if (this.sent === null || !sameAction(action, this.sent)) this.sendWhenDue();
  }

  /** A new line: what is held is said again, and the heartbeat starts. */
  start(): void {
    this.stop();
    this.sent = null;
    this.sendWhenDue();
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private sendWhenDue(): void {
    const wait = this.sentAt + SEND_EVERY_MS - this.now();
    if (wait <= 0) this.sendNow();
    else this.schedule(wait);
  }

  private sendNow(): void {
    this.sent = this.wanted;
    this.sentAt = this.now();
    this.send(this.wanted);
    this.schedule(HEARTBEAT_MS);
  }

  private schedule(delay: number): void {
    this.stop();
    this.timer = setTimeout(() => {
      this.sendNow();
    }, delay);
  }
}
