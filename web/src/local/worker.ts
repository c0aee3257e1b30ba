/** The worker of a static page: loads the model, then plays. The page's messages are those to a server. */
import type { Action } from "../control/controls";
import type { ClientMessage } from "../net/messages";
import { Live, type Said } from "./live";
import { Model, type Read, type Site } from "./model";
import type { Factory } from "./runtime";

/** From the page; `at` is in seconds since 1970. */
export type ToWorker =
  | { kind: "message"; message: ClientMessage }
  | { kind: "action"; action: Action; at: number }
  | { kind: "hidden"; hidden: boolean }
  | { kind: "leave" };

/** To the page: a frame, a message as JSON, or a sentence why there is nothing to play. */
export type FromWorker = ArrayBuffer | string | { failure: string };

const MEGABYTE = 1e6;
const MOST_THREADS = 4;
const PROGRESS_EVERY_MS = 100;
/** A function with one instruction on vectors of 128 bits. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11];

const page = self as unknown as {
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
};
const say = (message: Said): void => {
  page.postMessage(JSON.stringify(message));
};
const now = (): number => (performance.timeOrigin + performance.now()) / 1000;
/** The site's folder: the worker's script lies in its `assets`. */
const urlOf = (path: string): string => new URL(`../${path}`, self.location.href).href;

const waiting: ToWorker[] = [];
page.onmessage = ({ data }) => {
  waiting.push(data);
};
async function play(): Promise<never> {
  if (!("DecompressionStream" in self && "WebAssembly" in self && WebAssembly.validate(new Uint8Array(SIMD))))
    throw new Error("This browser is too old to run the model: it lacks WebAssembly SIMD or DecompressionStream.");
  const live = new Live(await load(), {
    say,
    show: (frame) => {
      page.postMessage(frame, [frame]);
    },
    now,
    pixels,
  });
  const hear = (data: ToWorker): void => {
    if (data.kind === "message") live.hear(data.message);
    else if (data.kind === "action") live.act(data.action, data.at);
    else if (data.kind === "hidden") live.hide(data.hidden);
    else live.leave();
  };
  page.onmessage = ({ data }) => {
    hear(data);
  };
  waiting.forEach(hear);
  return live.run();
}

async function load(): Promise<Model> {
  const site = JSON.parse(new TextDecoder().decode(await read("model/site.json", () => undefined))) as Site;
  const address = urlOf("assets/ort-wasm-simd-threaded.mjs");
  const { default: factory } = (await import(/* @vite-ignore */ address)) as { default: Factory };
  const threads = self.crossOriginIsolated
    ? Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency >> 1))
    : 1;
  let told = 0;
  return Model.load(site, read, factory, threads, (bytes, of) => {
    if (bytes < of && performance.now() - told < PROGRESS_EVERY_MS) return;
    told = performance.now();
    const megabytes = (count: number): number => Math.round(count / MEGABYTE);
    say({ type: "opening", seen: megabytes(bytes), steps: megabytes(of), loading: true });
  });
}

const read: Read = async (path, onBytes) => {
  let response: Response;
  try {
    response = await fetch(urlOf(path));
  } catch {
    throw new Error(`The model could not be loaded: ${path} cannot be reached.`);
  }
  if (!response.ok || !response.body) throw new Error(`The model could not be loaded: ${path} (${response.status}).`);
  const parts: Uint8Array<ArrayBuffer>[] = [];
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
};

/** The middle of a picture in the wanted shape, as RGB. */
async function pixels(image: string, width: number, height: number): Promise<Uint8Array> {
  const bytes = Uint8Array.from(atob(image), (char) => char.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes]));
  const scale = Math.min(picture.width / width, picture.height / height);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  if (!context) throw new Error("This browser gives no canvas to read the picture with.");
  context.imageSmoothingQuality = "high";
  const [across, down] = [scale * width, scale * height];
  const [left, top] = [(picture.width - across) / 2, (picture.height - down) / 2];
  context.drawImage(picture, left, top, across, down, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data.filter((_, index) => index % 4 !== 3) as unknown as Uint8Array;
}

function sentenceOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof RangeError || /memory|OOM/i.test(text))
    return "This device has too little free memory for the model; close other pages and reload this one.";
  return text;
}

play().catch((error: unknown) => {
  page.postMessage({ failure: sentenceOf(error) });
});
