/** What the panel asks for, before it is an order: how many, how long, and who presses what. Pure. */
import { type Action, isRest, REST, sameAction } from "../control/controls";
import { inWords } from "../play/weave";
import type { Order } from "./api";
import type { StoryNode } from "./model";

export const HOW = ["model", "hold", "script", "perform"] as const;
/** The model presses; or one holds something, writes a script, or plays it at the controller. */
export type How = (typeof HOW)[number];

export interface Wish {
  count: number;
  frames: number;
  how: How;
  held: Action;
  script: string;
  performed: readonly Action[];
  /** Of what is held: for so many frames, then the model presses; null: for all of them. */
  forced: number | null;
  /** After a script or what was recorded: the model presses on. */
  thenModel: boolean;
  temperature: number | null;
  seed: number | null;
  /** Null: as many steps as the model sees. */
  context: number | null;
}

export const MOST_BRANCHES = 8;
export const MOST_FRAMES = 100;

export const FIRST_WISH: Wish = {
  count: 4,
  frames: 30,
  how: "model",
  held: REST,
  script: "",
  performed: [],
  forced: null,
  thenModel: false,
  temperature: null,
  seed: null,
  context: null,
};

/** The order of a wish, or the sentence that says what is missing. */
export function orderOf(wish: Wish, from: number, context: number): Order | string {
  const order: Order = {
    from,
    count: wish.count,
    frames: wish.frames,
    context: Math.min(wish.context ?? context, context),
    presses: wish.how === "model" ? "model" : "player",
  };
  if (wish.temperature !== null) order.temperature = wish.temperature;
  if (wish.seed !== null) order.seed = wish.seed;
  if (wish.how === "hold" && wish.forced === null) return { ...order, held: wish.held };
  if (wish.how === "hold") {
    return { ...order, presses: "model", actions: Array.from({ length: wish.forced ?? 1 }, () => wish.held) };
  }
  if (wish.thenModel && wish.how !== "model") order.presses = "model";
  if (wish.how === "script") {
    return wish.script.trim() ? { ...order, script: wish.script.trim() } : "Write the inputs first.";
  }
  if (wish.how === "perform") {
    const actions = wish.performed.slice(0, wish.frames);
    return actions.length ? { ...order, actions } : "Record the inputs first.";
  }
  return order;
}

export const seconds = (frames: number, hertz = 10): string => `${(frames / hertz).toFixed(1)} s`;

/** What was pressed over these frames, in a few words. */
export function pressedIn(nodes: readonly StoryNode[]): string {
  const first = nodes[0];
  if (!first) return "";
  if (first.pressed === "model") return "the model presses";
  const kinds: Action[] = [];
  for (const { action } of nodes) {
    if (action && !kinds.some((known) => sameAction(known, action))) kinds.push(action);
  }
  const [one = REST] = kinds;
  const words = isRest(one) ? "nothing pressed" : inWords(one);
  return kinds.length > 1 ? `${words}, …` : words;
}
