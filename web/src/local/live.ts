/** Live play without a server: answers the messages of the live socket, and makes a frame at every tick. */
import { type Action, fromValues, isRest, REST, sameAction, toValues } from "../control/controls";
import { packFrame } from "../net/header";
import type { ClientMessage, Controller, Opening, Progress, SessionState } from "../net/messages";
import type { Dream } from "./dream";
import type { Context, Model } from "./model";

export type Said =
  | ({ type: "ready" | "state" } & Partial<SessionState>)
  | ({ type: "opening" } & Progress)
  | { type: "error"; message: string };

/** What play needs of the place where it runs. */
export interface Surroundings {
  say(message: Said): void;
  show(frame: ArrayBuffer): void;
  /** Seconds. */
  now(): number;
  /** A picture in base64 as RGB pixels of that size. */
  pixels(image: string, width: number, height: number): Promise<Uint8Array>;
}

type Start = Pick<Opening, "prompt" | "image"> & { seed: number };

const STATE_EVERY = 1;
const SEEDS = 2 ** 31;

export class Live {
  private readonly model: Model;
  private readonly around: Surroundings;
  private start: Start = { prompt: null, image: null, seed: 0 };
  /** A dream to open; `fresh`: for a new session. */
  private pending: { start: Start; fresh: boolean } | null = null;
  private dream: Dream | null = null;
  private controller: Controller = "person";
  private temperature: number | null = null;
  private paused = false;
  private steps = 0;
  private hidden = false;
  /** The newest input, and since when it waits for its frame. */
  private input: { action: Action; at: number | null } = { action: REST, at: null };
  private count = { frames: 0, restarts: 0, late: 0, skipped: 0 };
  private opened = 0;
  private due = 0;
  private told = 0;
  private wake: () => void = () => undefined;

  constructor(model: Model, around: Surroundings) {
    this.model = model;
    this.around = around;
  }

  hear(message: ClientMessage): void {
    if (message.type === "hello") {
      const { prompt, image, controller, temperature } = message;
      Object.assign(this, { controller, temperature, paused: false, input: { action: REST, at: null } });
      this.pending = { start: { prompt, image, seed: message.seed ?? Math.floor(Math.random() * SEEDS) }, fresh: true };
      this.dream = null;
    } else if (message.type === "reset") {
      const { prompt, image, seed = this.start.seed } = message;
      const { start } = this;
      const place = (prompt ?? image) ? { prompt: prompt ?? null, image: image ?? null } : start;
      this.pending = { start: { ...place, seed }, fresh: false };
    } else if (message.type === "controller") this.controller = message.value;
    else if (message.type === "temperature") this.temperature = message.value;
    else if (message.type === "resume") this.resume();
    else {
      this.paused = true;
      if (message.type === "step") this.steps += 1;
    }
    if (message.type !== "hello") this.tell("state");
    this.wake();
  }

  /** Holds an action from second `at` on. */
  act(action: Action, at: number): void {
    if (!sameAction(action, this.input.action)) this.input = { action, at };
  }

  /** Makes no frames while nobody looks. */
  hide(hidden: boolean): void {
    this.hidden = hidden;
    this.due = this.around.now();
    this.wake();
  }

  /** Ends the session. */
  leave(): void {
    this.pending = this.dream = null;
  }

  /** Plays for ever. */
  async run(): Promise<never> {
    for (;;) {
      const wait = this.due - this.around.now();
      if (this.pending) await this.open(this.pending);
      else if (!this.dream || this.hidden || (this.paused && this.steps === 0)) await this.sleep(null);
      else if (this.paused || wait <= 0) await this.frame(this.dream);
      else await this.sleep(wait);
    }
  }

  private resume(): void {
    this.paused = false;
    this.steps = 0;
    this.due = this.around.now();
  }

  private async open(pending: { start: Start; fresh: boolean }): Promise<void> {
    const { start, fresh } = pending;
    const context = await this.contextOf(start);
    const dream = this.model.dream(start.seed);
    for (const [index, codes] of context.codes.entries()) {
      if (fresh) this.around.say({ type: "opening", seen: index, steps: context.codes.length, loading: false });
      await dream.giveFrame(codes);
      const action = context.actions[index];
      if (action) await dream.giveAction(action);
      await this.sleep(0);
      if (this.pending !== pending) return;
    }
    Object.assign(this, { pending: null, start, dream, due: this.around.now() });
    if (!fresh) this.count.restarts += 1;
    else {
      this.count = { frames: 0, restarts: 0, late: 0, skipped: 0 };
      this.opened = this.around.now();
    }
    this.tell(fresh ? "ready" : "state");
  }

  private async contextOf({ prompt, image }: Start): Promise<Context> {
    const { prompts, description } = this.model.site;
    if (image !== null) {
      const [height, width] = description.frame;
      return { codes: [await this.model.encode(await this.around.pixels(image, width, height))], actions: [] };
    }
    const found = prompt === null ? Object.values(prompts)[0] : prompts[prompt];
    if (!found) throw new Error(`There is no starting point ${prompt ?? ""} here.`);
    return found;
  }

  private async frame(dream: Dream): Promise<void> {
    const { fps } = this.model.site;
    const began = this.around.now();
    if (this.paused) this.steps -= 1;
    else {
      const missed = Math.floor((began - this.due) * fps);
      this.count.skipped += missed;
      this.due += (missed + 1) / fps;
    }
    const { action, at } = this.input;
    this.input = { action, at: null };
    const sampling = this.model.sampling(this.temperature);
    const given = this.controller === "person" || (this.controller === "both" && !isRest(action));
    if (given) await dream.giveAction(toValues(action));
    const used = given ? action : fromValues(await dream.dreamAction(sampling));
    const codes = await dream.dreamFrame(sampling);
    const [height, width] = this.model.site.description.frame;
    const pixels = this.model.marked(await this.model.decode(codes));
    const finished = this.around.now();
    const frame = {
      sequence: this.count.frames++,
      dream: this.count.restarts,
      time: finished - this.opened,
      keyToFrame: given && at !== null && !this.paused ? finished - at : null,
      cost: finished - began,
      given,
      action: used,
    };
    this.around.show(packFrame(frame, pixels, width, height));
    if (!this.paused && finished > this.due) this.count.late += 1;
    if (finished - this.told >= STATE_EVERY) this.tell("state");
    await this.sleep(0); // lets messages in
  }

  private tell(type: "ready" | "state"): void {
    const { site } = this.model;
    const [height, width] = site.description.frame;
    const { prompt, image, seed } = this.start;
    const name = image === null ? (prompt ?? Object.keys(site.prompts)[0] ?? null) : null;
    const { late, skipped } = this.count;
    const { controller, paused } = this;
    const { temperature } = this.model.sampling(this.temperature);
    const state = { prompt: name, seed, controller, temperature, paused, late, skipped };
    const fixed = { token: "here", model: site.description.name, width, height, fps: site.fps };
    this.told = this.around.now();
    this.around.say(type === "ready" ? { type, ...fixed, ...state } : { type, ...state });
  }

  /** Waits for seconds, for ever (null), or until `wake`. */
  private sleep(seconds: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = seconds === null ? undefined : setTimeout(resolve, 1000 * seconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
