/** A frame as it travels: 96 bytes of header, little-endian, then the picture. */
import { type Action, CONTROLS } from "../control/controls";

export const HEADER_BYTES = 96;
const MAGIC = 0x31464c50; // "PLF1", read little-endian
const BITMAP = 3; // of a frame made in this browser
const FORMATS: Readonly<Record<number, string>> = { 1: "image/jpeg", 2: "image/webp", [BITMAP]: "image/bmp" };
const AT = { sequence: 4, dream: 8, time: 12, keyToFrame: 20, cost: 24, given: 28, format: 29, action: 32 } as const;

export interface Frame {
  sequence: number;
  /** How often the dream was started over before this frame. */
  dream: number;
  /** Seconds of the session when the frame was in hand. */
  time: number;
  /** Seconds from the server's hearing of the press to this frame, the first made with it; null for the others. */
  keyToFrame: number | null;
  /** Seconds it took to dream. */
  cost: number;
  /** Whether a person's input was used, not one the model dreamed. */
  given: boolean;
  action: Action;
  mime: string;
  picture: Uint8Array<ArrayBuffer>;
}

/**
 * Reads one binary message.
 *
 * @throws Error with a sentence when these bytes are not such a frame.
 */
export function parseFrame(message: ArrayBuffer): Frame {
  if (message.byteLength <= HEADER_BYTES) {
    throw new Error(`The server sent a frame of ${message.byteLength} bytes; a header alone has ${HEADER_BYTES}.`);
  }
  const view = new DataView(message);
  if (view.getUint32(0, true) !== MAGIC) throw new Error("This page cannot read the server's frames; reload the page.");
  const mime = FORMATS[view.getUint8(AT.format)];
  if (mime === undefined) throw new Error(`The server sent a picture of unknown format ${view.getUint8(AT.format)}.`);
  const keyToFrame = view.getFloat32(AT.keyToFrame, true);
  return {
    sequence: view.getUint32(AT.sequence, true),
    dream: view.getUint32(AT.dream, true),
    time: view.getFloat64(AT.time, true),
    keyToFrame: Number.isNaN(keyToFrame) ? null : keyToFrame,
    cost: view.getFloat32(AT.cost, true),
    given: view.getUint8(AT.given) === 1,
    action: CONTROLS.map((_, index) => view.getFloat32(AT.action + 4 * index, true)),
    mime,
    picture: new Uint8Array(message, HEADER_BYTES),
  };
}

/** An action as it travels: sixteen float32, little-endian. */
export function packAction(action: Action): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(4 * CONTROLS.length));
  CONTROLS.forEach((_, index) => {
    view.setFloat32(4 * index, action[index] ?? 0, true);
  });
  return view.buffer;
}

/** The inverse of `packAction`. */
export function parseAction(message: ArrayBuffer): Action {
  const view = new DataView(message);
  return CONTROLS.map((_, index) => view.getFloat32(4 * index, true));
}

const BITMAP_HEAD = 54;

/** The inverse of `parseFrame`, for RGB pixels: the picture is a bitmap, which takes no time to encode. */
export function packFrame(
  frame: Omit<Frame, "mime" | "picture">,
  pixels: Uint8Array,
  width: number,
  height: number,
): ArrayBuffer {
  const row = 4 * Math.ceil((3 * width) / 4);
  const size = BITMAP_HEAD + row * height;
  const message = new ArrayBuffer(HEADER_BYTES + size);
  const view = new DataView(message);
  view.setUint32(0, MAGIC, true);
  view.setUint32(AT.sequence, frame.sequence, true);
  view.setUint32(AT.dream, frame.dream, true);
  view.setFloat64(AT.time, frame.time, true);
  view.setFloat32(AT.keyToFrame, frame.keyToFrame ?? Number.NaN, true);
  view.setFloat32(AT.cost, frame.cost, true);
  view.setUint8(AT.given, frame.given ? 1 : 0);
  view.setUint8(AT.format, BITMAP);
  new Uint8Array(message, AT.action, 4 * CONTROLS.length).set(new Uint8Array(packAction(frame.action)));
  const head = new DataView(message, HEADER_BYTES);
  head.setUint16(0, 0x4d42, true);
  head.setUint32(2, size, true);
  head.setUint32(10, BITMAP_HEAD, true);
  head.setUint32(14, BITMAP_HEAD - 14, true);
  head.setInt32(18, width, true);
  head.setInt32(22, -height, true); // the first row is the top one
  head.setUint16(26, 1, true);
  head.setUint16(28, 24, true);
  const out = new Uint8Array(message, HEADER_BYTES + BITMAP_HEAD);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let channel = 0; channel < 3; channel++)
        // blue comes first
        out[y * row + 3 * x + channel] = pixels[3 * (y * width + x) + 2 - channel] ?? 0;
  return message;
}
