/** Loads a static page's model: its description, the runtime and the graphs, with the bytes so far. */
import { Dream, type Sampling } from "./dream";
import { type Factory, type Graph, Runtime, type Tensor } from "./runtime";
import { Source } from "./sampling";
import { type Description, Transformer } from "./transformer";

/** What `playloom serve --static` writes beside the files of the model. */
export interface Site {
  /** Bytes of the files to load, by path. */
  files: Readonly<Record<string, number>>;
  description: Description;
  prompts: Readonly<Record<string, Context>>;
  sampling: { temperature: number; action_temperature?: number; risk_weight?: number };
  fps: number;
  /** The watermark: RGB pixels in base64, for the lower right corner. */
  mark: { height: number; width: number; pixels: string };
}

/** Frames to continue from, as codes, and the actions between them. */
export interface Context {
  codes: readonly (readonly number[])[];
  actions: readonly (readonly number[])[];
}

/** Reads a file of the site. */
export type Read = (path: string, onBytes: (bytes: number) => void) => Promise<Uint8Array<ArrayBuffer>>;

const RUNTIME = "model/onnxruntime.wasm.gz";

export class Model {
  readonly site: Site;
  readonly mark: { height: number; width: number; pixels: Uint8Array };
  private readonly transformer: Transformer;
  private readonly decoder: Graph;
  private readonly frame: { codes: Tensor; frames: Tensor };
  private readonly encoder: () => Promise<Graph>;
  private encoding: Promise<Graph> | null = null;

  private constructor(
    site: Site,
    runtime: Runtime,
    transformer: Transformer,
    decoder: Graph,
    encoder: () => Promise<Graph>,
  ) {
    this.site = site;
    this.transformer = transformer;
    this.decoder = decoder;
    this.encoder = encoder;
    this.mark = { ...site.mark, pixels: Uint8Array.from(atob(site.mark.pixels), (char) => char.charCodeAt(0)) };
    const { frame, step } = site.description;
    this.frame = {
      codes: runtime.tensor("int64", [1, step.image_slots]),
      frames: runtime.tensor("uint8", [1, ...frame]),
    };
  }

  static async load(
    site: Site,
    read: Read,
    factory: Factory,
    threads: number,
    onProgress: (bytes: number, of: number) => void,
  ): Promise<Model> {
    const total = Object.values(site.files).reduce((sum, bytes) => sum + bytes, 0);
    let seen = 0;
    const paths = Object.keys(site.files);
    const contents = await Promise.all(
      paths.map((path) =>
        read(path, (bytes) => {
          seen += bytes;
          onProgress(Math.min(seen, total), total);
        }),
      ),
    );
    const files = new Map(paths.map((path, index) => [path, contents[index] ?? new Uint8Array()]));
    const content = (path: string): Uint8Array<ArrayBuffer> => {
      const found = files.get(path);
      if (!found) throw new Error(`The page's list of files lacks ${path}.`);
      return found;
    };
    const { description } = site;
    const runtime = await Runtime.start(factory, await unpacked(content(RUNTIME)), threads);
    const weights = new Map(description.weights.map((name) => [name, content(`model/${name}`)]));
    const load = async (name: string): Promise<Graph> => {
      const graph = description.graphs[name];
      if (!graph) throw new Error(`The model has no graph ${name}.`);
      return runtime.load(content(`model/${graph.file}`), weights, graph);
    };
    const risk = site.sampling.risk_weight ? { risk: await load("risk") } : {};
    const graphs = { step: await load("step"), transformer: await load("transformer"), ...risk };
    const transformer = new Transformer(runtime, description, graphs);
    return new Model(site, runtime, transformer, await load("decoder"), () => load("encoder"));
  }

  /** A dream without a step; there is one cache, so an earlier dream must not go on. */
  dream(seed: number): Dream {
    return new Dream(this.transformer, new Source(seed));
  }

  /** The model's sampling, with another temperature if one is given. */
  sampling(temperature: number | null): Sampling {
    const own = this.site.sampling;
    const frames = temperature ?? own.temperature;
    return {
      temperature: frames,
      actionTemperature: own.action_temperature ?? frames,
      riskWeight: own.risk_weight ?? 0,
    };
  }

  /** Codes to RGB pixels, which the next call overwrites. */
  async decode(codes: readonly number[]): Promise<Uint8Array> {
    this.frame.codes.setIntegers(codes);
    await this.decoder.run(this.frame);
    return this.frame.frames.bytes;
  }

  /** Puts the watermark on RGB pixels, in place. */
  marked(pixels: Uint8Array): Uint8Array {
    const [height, width] = this.site.description.frame;
    for (let row = 0; row < this.mark.height; row++) {
      const from = 3 * row * this.mark.width;
      const to = 3 * ((height - this.mark.height + row + 1) * width - this.mark.width);
      pixels.set(this.mark.pixels.subarray(from, from + 3 * this.mark.width), to);
    }
    return pixels;
  }

  /** RGB pixels of the model's size to codes. */
  async encode(pixels: Uint8Array): Promise<number[]> {
    this.encoding ??= this.encoder();
    this.frame.frames.bytes.set(pixels);
    await (await this.encoding).run(this.frame);
    return this.frame.codes.integers;
  }
}

/** Unpacks gzip; some servers have done so already. */
async function unpacked(content: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  if (content[0] !== 0x1f || content[1] !== 0x8b) return content.buffer;
  return new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
