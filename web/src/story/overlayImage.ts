/** A picture brought to be laid onto frames: read from a file, and written as an overlay of the frame's size. */
import { removeBackground, hasPlainCorners, hasTransparency } from "./removeBackground";
import { draw, type Overlay } from "./overlay";

const LONGEST_SIDE = 1024;

export interface OverlayImage {
  name: string;
  /** As it came, and without its background; the second is null where it has transparency already. */
  whole: HTMLCanvasElement;
  cut: HTMLCanvasElement | null;
  /** Whether a background is likely. */
  plain: boolean;
}

/**
 * Reads a file as a picture to lay onto a frame.
 *
 * @throws Error with a sentence when the browser cannot read it as one.
 */
export async function overlayImageOf(file: File): Promise<OverlayImage> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not a picture this browser can read; a PNG with transparency is best.`);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const [whole, context] = canvasOf(bitmap.width * scale, bitmap.height * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, whole.width, whole.height);
  bitmap.close();
  const pixels = context.getImageData(0, 0, whole.width, whole.height);
  if (hasTransparency(pixels)) return { name: file.name, whole, cut: null, plain: false };
  const plain = hasPlainCorners(pixels);
  removeBackground(pixels);
  const [cut, second] = canvasOf(whole.width, whole.height);
  second.putImageData(pixels, 0, 0);
  return { name: file.name, whole, cut, plain };
}

/** The overlay as a PNG of the frame's size, base64. */
export function overlayPng(
  picture: HTMLCanvasElement,
  overlay: Overlay,
  frame: { width: number; height: number },
): string {
  const [canvas, context] = canvasOf(frame.width, frame.height);
  draw(context, picture, overlay);
  const url = canvas.toDataURL("image/png");
  return url.slice(url.indexOf(",") + 1);
}

function canvasOf(width: number, height: number): [HTMLCanvasElement, CanvasRenderingContext2D] {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser gives no canvas to read the picture with.");
  return [canvas, context];
}
