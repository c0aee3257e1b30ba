/** What the panel asks for, before it is an order: how many, how long, and who presses what. Pure. */
import { type Action, isRest, REST, sameAction } from "../control/controls";
import { inWords } from "../play/timeline";
import type { Order } from "./api";
import type { StoryNode } from "./model";

export const HOW = ["model", "hold", "script", "perform"] as const;
/** The model presses; or one holds something, writes a script, or plays it at the controller. */
export type How = (typeof HOW)[number];

export interface BranchForm {
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

export const DEFAULT_BRANCH_FORM: BranchForm = {
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

/** The order of a form, or the sentence that says what is missing. */
export function orderOf(form: BranchForm, from: number, context: number): Order | string {
  const order: Order = {
    from,
    count: form.count,
    frames: form.frames,
    context: Math.min(form.context ?? context, context),
    controlled_by: form.how === "model" ? "model" : "player",
  };
  if (form.temperature !== null) order.temperature = form.temperature;
  if (form.seed !== null) order.seed = form.seed;
  if (form.how === "hold" && form.forced === null) return { ...order, action: form.held };
  if (form.how === "hold") {
    return { ...order, controlled_by: "model", actions: Array.from({ length: form.forced ?? 1 }, () => form.held) };
  }
  if (form.thenModel && form.how !== "model") order.controlled_by = "model";
  if (form.how === "script") {
    return form.script.trim() ? { ...order, script: form.script.trim() } : "Write the inputs first.";
  }
  if (form.how === "perform") {
    const actions = form.performed.slice(0, form.frames);
    return actions.length ? { ...order, actions } : "Record the inputs first.";
  }
  return order;
}

export const seconds = (frames: number, fps = 10): string => `${(frames / fps).toFixed(1)} s`;

/** What was pressed over these frames, in a few words. */
export function pressedIn(nodes: readonly StoryNode[]): string {
  const first = nodes[0];
  if (!first) return "";
  if (first.actionSource === "model") return "model inputs";
  const kinds: Action[] = [];
  for (const { action } of nodes) {
    if (action && !kinds.some((known) => sameAction(known, action))) kinds.push(action);
  }
  const [one = REST] = kinds;
  const words = isRest(one) ? "no input" : inWords(one);
  return kinds.length > 1 ? `${words}, …` : words;
}
