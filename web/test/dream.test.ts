/** The bundled model in the page's runtime: the tokens that onnxruntime makes on a CPU; see `test_browser_dream.py`. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, it } from "vitest";
import factory from "onnxruntime-web/ort-wasm-simd-threaded.mjs";
import { Dream } from "../src/local/dream";
import { type Factory, type Graph, Runtime } from "../src/local/runtime";
import { Source } from "../src/local/sampling";
import { type Description, Transformer } from "../src/local/transformer";
import vectors from "./dream.json";

const MODEL = join(import.meta.dirname, "../../src/playloom/assets/models/arena-live");
const WASM = join(import.meta.dirname, "../node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm");
const SLOW_MS = 120_000;

let runtime: Runtime;
let transformer: Transformer;
let decoder: Graph;

beforeAll(async () => {
  runtime = await Runtime.start(factory as unknown as Factory, new Uint8Array(readFileSync(WASM)).buffer, 1);
  const described = JSON.parse(readFileSync(join(MODEL, "onnx.json"), "utf8")) as Description;
  const load = (name: string, weights: string): Promise<Graph> => {
    const graph = described.graphs[name];
    if (!graph) throw new Error(name);
    const content = new Map([[weights, new Uint8Array(readFileSync(join(MODEL, weights)))]]);
    return runtime.load(new Uint8Array(readFileSync(join(MODEL, graph.file))), content, graph);
  };
  const step = await load("step", "transformer.safetensors");
  transformer = new Transformer(runtime, described, {
    step,
    transformer: await load("transformer", "transformer.safetensors"),
    risk: await load("risk", "tokenizer.safetensors"),
  });
  decoder = await load("decoder", "tokenizer.safetensors");
}, SLOW_MS);

it(
  "dreams the same tokens from the same noise",
  async () => {
    const { prompt, given, actions, codes, temperature, action_temperature, risk_weight } = vectors;
    const dream = new Dream(transformer, new Source(vectors.seed));
    for (const [index, frame] of prompt.codes.entries()) {
      await dream.giveFrame(frame);
      const action = prompt.actions[index];
      if (action) await dream.giveAction(action);
    }
    const sampling = { temperature, actionTemperature: action_temperature, riskWeight: risk_weight };
    for (const [index, action] of actions.entries()) {
      if (given[index]) await dream.giveAction(action);
      else expect(await dream.dreamAction(sampling)).toEqual(action);
      expect(await dream.dreamFrame(sampling)).toEqual(codes[index]);
    }
    const [height, width] = transformer.description.frame;
    const frame = runtime.tensor("uint8", [1, height, width, 3]);
    const last = runtime.tensor("int64", [1, codes[0]?.length ?? 0]).setIntegers(codes.at(-1) ?? []);
    await decoder.run({ codes: last, frames: frame });
    const pixels = vectors.pixels.map((_, index) => {
      const at = 3 * (width * 30 * Math.floor(index / 10) + 30 * (index % 10));
      return [...frame.bytes.subarray(at, at + 3)];
    });
    pixels.flat().forEach((value, index) => {
      expect(Math.abs(value - (vectors.pixels.flat()[index] ?? 0))).toBeLessThanOrEqual(1);
    });
  },
  SLOW_MS,
);
