/**
 * One person in one story: hears what happens in it, asks for changes, and keeps what the page shows.
 *
 * The one object behind the view of a story. React reads the snapshot, which changes some fifteen times a second at
 * most while frames come in. A broken line is tried again, and the story read anew, until it is there.
 */
import { ApiError } from "../net/api";
import { backOff } from "../net/backoff";
import { asSentence } from "../net/messages";
import * as api from "./api";
import * as look from "./selection";
import { type EventHandlers, listen } from "./listen";
import { isRecord, type Story } from "./model";
import { NodeCache } from "./nodeCache";

export type StoryLine =
  | { kind: "opening" }
  | { kind: "open" }
  | { kind: "lost"; reason: string; until: number }
  | { kind: "gone"; reason: string }
  | { kind: "locked"; wrong: boolean };

export interface View {
  line: StoryLine;
  id: string;
  name: string;
  width: number;
  height: number;
  context: number;
  state: look.ViewState;
  playing: boolean;
  loop: boolean;
  /** Something was asked for and is not answered yet. */
  busy: boolean;
}

/** What the server can be asked; the tests bring their own. */
export type Net = Pick<
  typeof api,
  "fetchStory" | "renameStory" | "orderBranches" | "cancelBranch" | "removeNode" | "changeNode" | "editNode"
> & { listen: (id: string, after: number, handlers: EventHandlers) => () => void };

const SHOW_EVERY_MS = 60;
const GONE = "The server does not answer.";

export class StoryController {
  private view: View = {
    line: { kind: "opening" },
    id: "",
    name: "",
    width: 5,
    height: 3,
    context: 1,
    state: look.NOWHERE,
    playing: false,
    loop: false,
    busy: false,
  };
  private readonly cache = new NodeCache();
  private fps = 10;
  private attempt = 0;
  private ordering = false;
  private reading = 0;
  private unsubscribe: (() => void) | null = null;
  private pending: ReturnType<typeof setTimeout> | null = null;
  private retry: ReturnType<typeof setTimeout> | null = null;
  private ticker: ReturnType<typeof setInterval> | null = null;
  private readonly watchers = new Set<() => void>();
  private readonly key: string | null;
  private readonly net: Net;
  private readonly notify: (sentence: string) => void;

  constructor(id: string, key: string | null, notify: (sentence: string) => void, net: Net = { ...api, listen }) {
    this.view.id = id;
    this.key = key;
    this.notify = notify;
    this.net = net;
  }

  readonly watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  readonly see = (): View => this.view;

  /** Read the story, then hear what happens in it. */
  open(): void {
    void this.read();
  }

  close(): void {
    this.reading += 1;
    this.unsubscribe?.();
    this.unsubscribe = null;
    for (const timer of [this.pending, this.retry]) if (timer !== null) clearTimeout(timer);
    this.pending = this.retry = null;
    this.pause();
  }

  tryNow(): void {
    if (this.view.line.kind === "lost") void this.read();
  }

  // Looking.

  choose(id: number): void {
    this.pause();
    this.look(look.choose(this.view.state, id));
  }

  goTo(at: number): void {
    this.pause();
    this.look(look.goTo(this.view.state, at));
  }

  step(by: number): void {
    this.goTo(look.placeOf(this.view.state) + by);
  }

  otherLane(by: 1 | -1): void {
    this.pause();
    this.look(look.otherLane(this.view.state, by));
  }

  nextStar(): void {
    this.pause();
    this.look(look.nextStar(this.view.state));
  }

  compare(branches: readonly number[] | null = null): void {
    const { state } = this.view;
    this.look(look.beside(state, branches ?? look.siblings(state)));
  }

  /** One more branch beside the others, or one less. */
  toggleBeside(branch: number): void {
    const now = this.view.state.side?.branches ?? [];
    this.compare(now.includes(branch) ? now.filter((id) => id !== branch) : [...now, branch]);
  }

  pick(at: number): void {
    this.look(look.pick(this.view.state, at));
  }

  /** From side by side to the picked one alone. */
  keepPicked(): void {
    this.look(look.keepPicked(this.view.state));
  }

  leaveSide(): void {
    this.look({ ...this.view.state, side: null });
  }

  togglePlay(): void {
    if (this.view.playing) this.pause();
    else this.play();
  }

  toggleLoop(): void {
    this.change({ loop: !this.view.loop });
  }

  // Asking.

  /** Dream on. Several branches are laid side by side as they come in. */
  async order(order: api.Order): Promise<boolean> {
    if (this.ordering) return false;
    this.ordering = true;
    const answer = await this.asking(() => this.net.orderBranches(this.view.id, order, this.key));
    this.ordering = false;
    if (!answer) return false;
    const { branches, notes } = answer;
    if (notes.length) this.notify(notes.map(asSentence).join(" "));
    this.cache.expect(branches);
    this.pause();
    this.show();
    const ids = branches.map(({ id }) => id);
    const state = look.beside({ ...this.view.state, side: null }, ids.length > 1 ? ids : []);
    this.look({ ...state, follow: state.side ? true : (ids[0] ?? null) });
    this.show(); // its first frames may have been heard of before the answer
    return true;
  }

  async cancel(branches: readonly number[]): Promise<void> {
    await this.asking(() => Promise.all(branches.map((id) => this.net.cancelBranch(this.view.id, id, this.key))));
  }

  async remove(node: number): Promise<void> {
    await this.asking(() => this.net.removeNode(this.view.id, node, this.key));
  }

  async mark(node: number, changes: { starred?: boolean; note?: string }): Promise<void> {
    const known = this.cache.nodes.get(node);
    if (known) this.cache.nodes.set(node, { ...known, ...changes });
    this.show();
    await this.asking(() => this.net.changeNode(this.view.id, node, changes, this.key));
  }

  /** Put an overlay onto the chosen frame, and onto the next ones of the way; then look at the last one made. */
  async edit(overlay: string, copies: number): Promise<boolean> {
    const { state } = this.view;
    const [node, toward] = [look.chosen(state), state.way.at(-1)];
    if (node === null) return false;
    const edit = { overlay, copies, ...(copies > 0 && toward !== undefined ? { toward } : {}) };
    const made = await this.asking(() => this.net.editNode(this.view.id, node, edit, this.key));
    if (!made) return false;
    for (const one of made) this.cache.nodes.set(one.id, one);
    this.show();
    const last = made.at(-1);
    if (last) this.choose(last.id);
    return true;
  }

  async rename(name: string): Promise<void> {
    this.change({ name });
    await this.asking(() => this.net.renameStory(this.view.id, name, this.key));
  }

  // Hearing.

  private async read(): Promise<void> {
    this.close();
    const reading = this.reading;
    if (this.attempt === 0) this.change({ line: { kind: "opening" } });
    try {
      const story = await this.net.fetchStory(this.view.id, this.key);
      if (reading === this.reading) this.begin(story);
    } catch (error) {
      if (reading === this.reading) this.failed(error);
    }
  }

  private begin(story: Story): void {
    this.attempt = 0;
    this.cache.fill(story);
    this.fps = story.fps;
    const { name, width, height, context } = story;
    const fresh = this.view.state.way.length === 0;
    this.change({ name, width, height, context, line: { kind: "open" } });
    this.show();
    if (fresh) this.look(look.goTo(this.view.state, Infinity));
    this.unsubscribe = this.net.listen(story.id, story.event, {
      onEvent: (kind, data) => {
        this.hear(kind, data);
      },
      onBroken: () => {
        this.lost(GONE);
      },
    });
  }

  private failed(error: unknown): void {
    const status = error instanceof ApiError ? error.status : 0;
    const reason = error instanceof Error ? error.message : GONE;
    if (status === 401) this.change({ line: { kind: "locked", wrong: this.key !== null } });
    else if (status === 404) this.change({ line: { kind: "gone", reason } });
    else this.lost(reason);
  }

  private lost(reason: string): void {
    this.close();
    const delay = backOff(this.attempt);
    this.attempt += 1;
    this.change({ line: { kind: "lost", reason, until: Date.now() + delay } });
    this.retry = setTimeout(() => void this.read(), delay);
  }

  private hear(kind: string, data: unknown): void {
    try {
      const { known, error } = this.cache.hear(kind, data);
      if (error) this.notify(error);
      if (known) this.soon();
      else if (kind === "story" && isRecord(data) && typeof data.name === "string") this.change({ name: data.name });
      else if (kind === "reload") void this.read();
      else if (kind === "gone") this.gone();
    } catch (error) {
      this.notify(error instanceof Error ? error.message : String(error));
    }
  }

  private gone(): void {
    this.close();
    this.change({ line: { kind: "gone", reason: "This story was deleted." } });
  }

  /** Frames may come in faster than anybody sees: they are shown together. */
  private soon(): void {
    this.pending ??= setTimeout(() => {
      this.show();
    }, SHOW_EVERY_MS);
  }

  private show(): void {
    if (this.pending !== null) clearTimeout(this.pending);
    this.pending = null;
    this.look(look.withTree(this.view.state, this.cache.tree()));
  }

  private look(state: look.ViewState): void {
    this.change({ state });
  }

  private play(): void {
    const { state } = this.view;
    if (look.tick(state) === null) this.look(look.goTo(state, 0));
    this.change({ playing: true });
    this.ticker = setInterval(() => {
      const next = look.tick(this.view.state);
      if (next) this.look(next);
      else if (this.view.loop) this.look(look.goTo(this.view.state, 0));
      else this.pause();
    }, 1000 / this.fps);
  }

  private pause(): void {
    if (this.ticker !== null) clearInterval(this.ticker);
    this.ticker = null;
    if (this.view.playing) this.change({ playing: false });
  }

  /** Ask; null and a sentence to the person where the server refuses. */
  private async asking<T>(request: () => Promise<T>): Promise<T | null> {
    this.change({ busy: true });
    try {
      return await request();
    } catch (error) {
      this.notify(error instanceof Error ? error.message : "The server does not answer.");
      return null;
    } finally {
      this.change({ busy: false });
    }
  }

  private change(changes: Partial<View>): void {
    this.view = { ...this.view, ...changes };
    for (const watcher of this.watchers) watcher();
  }
}
