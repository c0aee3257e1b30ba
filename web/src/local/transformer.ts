/**
 * The transformer's graphs and its cache of keys and values. All that depends on their inputs and outputs is here; the
 * description is that of `onnx.json`.
 */
import type { Graph, Kind, Runtime, Signature, Tensor, Tensors } from "./runtime";

interface Pass {
  first: number;
  positions: readonly number[];
  columns: readonly number[];
  rows: readonly number[];
  slots: readonly number[];
}

/** Steps that a layer sees: the newest `steps`, and before them `keyframes` multiples of `every`. */
export interface Window {
  steps: number;
  keyframes: number;
  every: number;
  capacity: number;
}

export interface Description {
  name: string;
  frame: readonly [number, number, number];
  graphs: Readonly<Record<string, { file: string; inputs: Signature; outputs: Signature }>>;
  weights: readonly string[];
  vocabulary: { codes: number; action_offsets: readonly number[]; action_sizes: readonly number[] };
  step: {
    positions: number;
    image_slots: number;
    action_slots: number;
    columns: number;
    image_passes: number;
    passes: readonly Pass[];
  };
  caches: readonly Window[];
  cache_of_layer: readonly number[];
  heads: readonly [number, number, number];
}

export const NO_TOKEN = -1;
/** Upper bounds of attention scores; smaller ones would make numbers that processors are slow with. */
const [VISIBLE, HIDDEN] = [Infinity, -60];

/** Consecutive passes in one run: a single one, or many whose tokens are given. */
export interface Chunk {
  /** Slots that it predicts, in the order of its logits; none where tokens are given. */
  slots: readonly number[];
  /** Columns of the row of tokens that its positions read. */
  columns: readonly number[];
  /** For each row of its masks: how many of the step's positions, in the order of the passes, it sees. */
  seen: readonly number[];
  tensors: Tensors;
}

export class Transformer {
  readonly description: Description;
  /** One pass each: those of the image, then those of the action. */
  readonly passes: readonly Chunk[];
  readonly givenImage: Chunk;
  readonly givenAction: Chunk;
  private readonly stepGraph: Graph;
  private readonly graph: Graph;
  private readonly riskGraph: Graph | null;
  /** Inputs and outputs of the risk's graph, by number of slots. */
  private readonly riskTensors: Readonly<Record<number, Tensors>>;
  /** Inputs and outputs of the step's graph. */
  private readonly step: Tensors;
  /** Inputs and outputs of the transformer's graph that are the same for all chunks. */
  private readonly shared: Tensors;

  constructor(runtime: Runtime, description: Description, graphs: { step: Graph; transformer: Graph; risk?: Graph }) {
    this.description = description;
    this.stepGraph = graphs.step;
    this.graph = graphs.transformer;
    this.riskGraph = graphs.risk ?? null;
    const { step, caches, cache_of_layer } = description;
    const { inputs, outputs } = signaturesOf(description, "transformer");
    const sizes: Record<string, number> = { B: 1, b: 1, P: step.positions };
    caches.forEach(({ capacity }, index) => (sizes[`S${index}`] = (capacity + 1) * step.positions));
    const made = (signature: Signature, more = {}): Tensors => allocate(runtime, signature, { ...sizes, ...more });

    const ofStep = signaturesOf(description, "step");
    const tables = made(ofStep.outputs);
    this.step = { ...made(ofStep.inputs), ...tables };
    this.step.positions?.setIntegers(step.passes.flatMap(({ positions }) => positions));
    const cached = Object.keys(inputs).filter((name) => /^(keys|values)_\d+$/.test(name));
    const arrays = made(only(inputs, (name) => cached.includes(name)));
    this.shared = { ...tables, ...arrays };
    for (const name of cached) this.shared = { ...this.shared, [`new_${name}`]: one(arrays, name) };
    if (cached.length !== 2 * cache_of_layer.length) throw new Error("The graph has another cache than described.");

    const own = only({ ...inputs, ...outputs }, (name) => !(name in this.shared));
    const [heads, groups] = description.heads;
    const chunkOf = (passes: readonly Pass[], given: boolean): Chunk => {
      const last = (pass: Pass): number => pass.first + pass.positions.length;
      const seen = passes.flatMap((pass) => pass.positions.map(() => last(pass)));
      const rows = given ? [] : passes.flatMap((pass) => pass.rows);
      const first = passes[0]?.first ?? 0;
      // Query heads that share keys are more queries.
      const masked = given ? Array.from({ length: heads / groups }, () => seen).flat() : seen.slice(0, 1);
      const tensors = made(own, { Q: seen.length, R: rows.length, q: masked.length });
      one(tensors, "order").setIntegers(seen.map((_, index) => first + index));
      one(tensors, "rows").setIntegers(rows);
      caches.forEach(({ capacity }, index) => {
        one(tensors, `start_${index}`).setIntegers([capacity * step.positions + first]);
      });
      const slots = given ? [] : passes.flatMap((pass) => pass.slots);
      return { slots, columns: passes.flatMap((pass) => pass.columns), seen: masked, tensors };
    };
    this.passes = step.passes.map((pass) => chunkOf([pass], false));
    const rows = new Set(this.passes.slice(0, step.image_passes).map(({ slots }) => slots.length));
    const risk = graphs.risk && signaturesOf(description, "risk");
    this.riskTensors = Object.fromEntries(
      risk ? [...rows].map((R) => [R, made({ ...risk.inputs, ...risk.outputs }, { R })]) : [],
    );
    this.givenImage = chunkOf(step.passes.slice(0, step.image_passes), true);
    this.givenAction = chunkOf(step.passes.slice(step.image_passes), true);
  }

  /** Returns the risks of the codes of a chunk's slots, from its logits; see `playloom.inference.sampling`. */
  async risks(chunk: Chunk, logits: Float32Array): Promise<Float32Array> {
    const tensors = one(this.riskTensors, chunk.slots.length);
    const [input, width] = [one(tensors, "logits").floats, logits.length / chunk.slots.length];
    const { codes } = this.description.vocabulary;
    chunk.slots.forEach((_, row) => {
      input.set(logits.subarray(row * width, row * width + codes), row * codes);
    });
    if (!this.riskGraph) throw new Error("The graph of the risk is not loaded.");
    await this.riskGraph.run(tensors);
    return one(tensors, "risk").floats;
  }

  /** Opens step number `step` (from 0), after the action `previous` in ids. */
  async open(step: number, previous: readonly number[]): Promise<void> {
    this.step.steps?.setIntegers([step]);
    this.step.previous?.setIntegers(previous);
    await this.stepGraph.run(this.step);
  }

  /** Runs a chunk of step `step` on its row of tokens and caches keys and values; returns the logits of its slots. */
  async run(chunk: Chunk, step: number, tokens: Int32Array): Promise<Float32Array> {
    const { caches, step: layout } = this.description;
    one(chunk.tensors, "ids").setIntegers(chunk.columns.map((column) => tokens[column] ?? NO_TOKEN));
    caches.forEach((window, index) => {
      const mask = one(chunk.tensors, `mask_${index}`).floats;
      const length = (window.capacity + 1) * layout.positions;
      const past = window.capacity * layout.positions;
      mask.fill(HIDDEN);
      chunk.seen.forEach((own, row) => {
        mask.fill(VISIBLE, row * length + past - pastCount(window, step) * layout.positions, row * length + past + own);
      });
    });
    await this.graph.run({ ...this.shared, ...chunk.tensors });
    return one(chunk.tensors, "logits").floats;
  }

  /** Copies the complete step over the oldest past one, which may become a keyframe. */
  commit(step: number): void {
    const { caches, cache_of_layer, step: layout, heads } = this.description;
    cache_of_layer.forEach((number, layer) => {
      const { steps, keyframes, every, capacity } = one(caches, number);
      const ring = steps - 1;
      if (ring === 0) return;
      const slot = capacity - 1 - (step % ring);
      const early = step - ring;
      const block = layout.positions * heads[2];
      for (const name of [`keys_${layer}`, `values_${layer}`]) {
        const array = one(this.shared, name).floats;
        for (let group = 0; group < heads[1]; group++) {
          const copy = (from: number, to: number): void => {
            const start = group * (capacity + 1);
            array.copyWithin((start + to) * block, (start + from) * block, (start + from + 1) * block);
          };
          if (keyframes > 0 && early >= 0 && early % every === 0)
            copy(slot, keyframes - 1 - ((early / every) % keyframes));
          copy(capacity, slot);
        }
      }
    });
  }
}

/** How many complete steps step number `step` sees. */
function pastCount({ steps, keyframes, every }: Window, step: number): number {
  const early = Math.ceil(Math.max(0, step - steps + 1) / every);
  return Math.min(keyframes, early) + Math.min(step, steps - 1);
}

/** The value of that name or number. */
function one<T>(values: Readonly<Record<string | number, T>> | readonly T[], name: string | number): T {
  const value = (values as Readonly<Record<string | number, T>>)[name];
  if (value === undefined) throw new Error(`The graphs of this model have no ${name}; export them again.`);
  return value;
}

const signaturesOf = (description: Description, graph: string): { inputs: Signature; outputs: Signature } =>
  one(description.graphs, graph);

const only = (signature: Signature, wanted: (name: string) => boolean): Signature =>
  Object.fromEntries(Object.entries(signature).filter(([name]) => wanted(name)));

function allocate(runtime: Runtime, signature: Signature, sizes: Readonly<Record<string, number>>): Tensors {
  const made: Record<string, Tensor> = {};
  for (const [name, [kind, ...shape]] of Object.entries(signature) as [string, [Kind, ...(number | string)[]]][])
    made[name] = runtime.tensor(
      kind,
      shape.map((axis) => (typeof axis === "number" ? axis : one(sizes, axis))),
    );
  return made;
}
