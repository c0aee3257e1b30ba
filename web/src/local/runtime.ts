/**
 * onnxruntime's WebAssembly module, called without its JavaScript: that copies every input and output of a run, here
 * tensors lie in the module's memory, and an array that is input and output is written in place.
 */

export type Kind = "float32" | "int64" | "uint8";
export type Signature = Readonly<Record<string, readonly [Kind, ...(number | string)[]]>>;

/** The part of the module that is used: Emscripten's functions, and the C functions of `onnxruntime-web` 1.30. */
interface Module {
  readonly HEAPU8: Uint8Array<ArrayBuffer>;
  _malloc(bytes: number): number;
  _free(pointer: number): void;
  stackSave(): number;
  stackAlloc(bytes: number): number;
  stackRestore(stack: number): void;
  setValue(pointer: number, value: number, type: "i32" | "*"): void;
  getValue(pointer: number, type: "*"): number;
  UTF8ToString(pointer: number): string;
  stringToUTF8(text: string, pointer: number, most: number): void;
  mountExternalData(name: string, content: Uint8Array): void;
  unmountExternalData(): void;
  _OrtInit(threads: number, logLevel: number): number;
  _OrtGetLastError(code: number, message: number): number;
  _OrtCreateSessionOptions(...options: (number | boolean)[]): number;
  _OrtReleaseSessionOptions(options: number): number;
  _OrtCreateSession(graph: number, bytes: number, options: number): Promise<number> | number;
  _OrtCreateTensor(kind: number, data: number, bytes: number, shape: number, axes: number, place: number): number;
  _OrtReleaseTensor(tensor: number): number;
  _OrtRun(session: number, ...rest: number[]): Promise<number> | number;
}

export type Factory = (options: {
  numThreads: number;
  wasmBinary: ArrayBuffer;
  locateFile: (name: string) => string;
}) => Promise<Module>;

const KINDS = { float32: [1, 4], uint8: [2, 1], int64: [7, 8] } as const;
const POINTER = 4;
const LOG_ERRORS = 3;
const ALL_OPTIMISATIONS = 99;
const ON_CPU = 1;

/** An array of zeros in the module's memory. Take a view anew for each use: the memory may grow. */
export class Tensor {
  readonly handle: number;
  readonly pointer: number;
  readonly length: number;
  private readonly module: Module;

  /** @throws RangeError when there is no memory for it. */
  constructor(module: Module, kind: Kind, shape: readonly number[]) {
    const [code, size] = KINDS[kind];
    this.module = module;
    this.length = shape.reduce((product, axis) => product * axis, 1);
    this.pointer = module._malloc(Math.max(size, this.length * size));
    if (!this.pointer) throw new RangeError("out of memory");
    module.HEAPU8.fill(0, this.pointer, this.pointer + this.length * size);
    const stack = module.stackSave();
    const axes = module.stackAlloc(POINTER * Math.max(1, shape.length));
    shape.forEach((axis, index) => {
      module.setValue(axes + POINTER * index, axis, "i32");
    });
    const bytes = this.length * size;
    this.handle = module._OrtCreateTensor(code, this.pointer, bytes, axes, shape.length, ON_CPU);
    module.stackRestore(stack);
  }

  get floats(): Float32Array {
    return new Float32Array(this.module.HEAPU8.buffer, this.pointer, this.length);
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.module.HEAPU8.buffer, this.pointer, this.length);
  }

  /** Sets an array of int64. */
  setIntegers(values: Iterable<number>): this {
    const view = new BigInt64Array(this.module.HEAPU8.buffer, this.pointer, this.length);
    let index = 0;
    for (const value of values) view[index++] = BigInt(value);
    return this;
  }

  get integers(): number[] {
    return Array.from(new BigInt64Array(this.module.HEAPU8.buffer, this.pointer, this.length), Number);
  }
}

export type Tensors = Readonly<Record<string, Tensor>>;

/** A loaded graph. */
export class Graph {
  private readonly module: Module;
  private readonly session: number;
  private readonly inputs: readonly string[];
  private readonly outputs: readonly string[];
  private readonly names: readonly number[];

  constructor(module: Module, session: number, inputs: Signature, outputs: Signature) {
    this.module = module;
    this.session = session;
    this.inputs = Object.keys(inputs);
    this.outputs = Object.keys(outputs);
    this.names = [...this.inputs, ...this.outputs].map((name) => {
      const pointer = module._malloc(name.length + 1);
      module.stringToUTF8(name, pointer, name.length + 1);
      return pointer;
    });
  }

  /**
   * Runs the graph on tensors by name: all its inputs and all its outputs.
   *
   * @throws Error when onnxruntime refuses.
   */
  async run(tensors: Tensors): Promise<void> {
    const { module, inputs, outputs } = this;
    const all = [...inputs, ...outputs];
    const stack = module.stackSave();
    const table = module.stackAlloc(2 * POINTER * all.length);
    all.forEach((name, index) => {
      const tensor = tensors[name];
      if (!tensor) throw new Error(`The graph has an input or output that this page does not know: ${name}.`);
      module.setValue(table + POINTER * index, this.names[index] ?? 0, "*");
      module.setValue(table + POINTER * (all.length + index), tensor.handle, "*");
    });
    const handles = table + POINTER * all.length;
    const [ins, outs] = [inputs.length, outputs.length];
    const names = table + POINTER * ins;
    const failed = await module._OrtRun(this.session, table, handles, ins, names, outs, handles + POINTER * ins, 0);
    module.stackRestore(stack);
    if (failed) throw new Error(lastError(module));
  }
}

/** The runtime, in one or more threads. */
export class Runtime {
  private readonly module: Module;

  private constructor(module: Module) {
    this.module = module;
  }

  static async start(factory: Factory, wasmBinary: ArrayBuffer, threads: number): Promise<Runtime> {
    const module = await factory({ numThreads: threads, wasmBinary, locateFile: (name) => name });
    if (module._OrtInit(threads, LOG_ERRORS)) throw new Error(lastError(module));
    return new Runtime(module);
  }

  tensor(kind: Kind, shape: readonly number[]): Tensor {
    return new Tensor(this.module, kind, shape);
  }

  /** Loads a graph whose weights lie in files. */
  async load(
    graph: Uint8Array,
    weights: ReadonlyMap<string, Uint8Array>,
    signature: { inputs: Signature; outputs: Signature },
  ): Promise<Graph> {
    const module = this.module;
    const pointer = module._malloc(graph.length);
    module.HEAPU8.set(graph, pointer);
    for (const [name, content] of weights) module.mountExternalData(name, content);
    const options = module._OrtCreateSessionOptions(ALL_OPTIMISATIONS, true, true, 0, false, 0, 0, LOG_ERRORS, 0, 0);
    const session = await module._OrtCreateSession(pointer, graph.length, options);
    module._OrtReleaseSessionOptions(options);
    module.unmountExternalData();
    module._free(pointer);
    if (!session) throw new Error(lastError(module));
    return new Graph(module, session, signature.inputs, signature.outputs);
  }
}

function lastError(module: Module): string {
  const stack = module.stackSave();
  const found = module.stackAlloc(2 * POINTER);
  module._OrtGetLastError(found, found + POINTER);
  const text = module.UTF8ToString(module.getValue(found + POINTER, "*"));
  module.stackRestore(stack);
  return `onnxruntime: ${text}`;
}
