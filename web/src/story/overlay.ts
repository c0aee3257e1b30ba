/** A transparent picture laid onto a frame: where it lies, how it moves, how it is drawn. Units: frame pixels. */

export interface Overlay {
  /** Its middle. */
  x: number;
  y: number;
  width: number;
  /** Height over width. */
  aspect: number;
  /** Degrees, clockwise. */
  turn: number;
  /** 0 to 1. */
  opacity: number;
  flipped: boolean;
}

export interface Point {
  x: number;
  y: number;
}

const SMALLEST = 4;
const LARGEST = 4; // times the frame's width
const FIRST_SHARE = 0.4;

/** In the middle of the frame, as large as it is, at most two fifths of the frame. */
export function placed(picture: { width: number; height: number }, frame: { width: number; height: number }): Overlay {
  const scale = Math.min(
    1,
    (FIRST_SHARE * frame.width) / picture.width,
    (1.5 * FIRST_SHARE * frame.height) / picture.height,
  );
  return {
    x: frame.width / 2,
    y: frame.height / 2,
    width: Math.max(SMALLEST, picture.width * scale),
    aspect: picture.height / picture.width,
    turn: 0,
    opacity: 1,
    flipped: false,
  };
}

/** Moved; its middle stays on the frame. */
export function moved(overlay: Overlay, dx: number, dy: number, frame: { width: number; height: number }): Overlay {
  return { ...overlay, x: within(overlay.x + dx, 0, frame.width), y: within(overlay.y + dy, 0, frame.height) };
}

export function scaled(overlay: Overlay, factor: number, frame: { width: number }): Overlay {
  return { ...overlay, width: within(overlay.width * factor, SMALLEST, LARGEST * frame.width) };
}

/** Turned by so many degrees; always from -180 up to 180. */
export function turned(overlay: Overlay, degrees: number): Overlay {
  const turn = (((overlay.turn + degrees + 180) % 360) + 360) % 360;
  return { ...overlay, turn: turn - 180 };
}

/** A handle was dragged from one point to another: the picture grows and turns about its middle. */
export function pulled(overlay: Overlay, from: Point, to: Point, frame: { width: number }): Overlay {
  const [a, b] = [polar(overlay, from), polar(overlay, to)];
  return scaled(overlay, a.length > 0 ? b.length / a.length : 1, frame);
}

/** The handle for turning was dragged from one point to another. */
export function spun(overlay: Overlay, from: Point, to: Point): Overlay {
  return turned(overlay, polar(overlay, to).angle - polar(overlay, from).angle);
}

/** Two fingers went from one pair of points to another. */
export function pinched(
  overlay: Overlay,
  from: readonly [Point, Point],
  to: readonly [Point, Point],
  frame: { width: number; height: number },
): Overlay {
  const [a, b] = [between(...from), between(...to)];
  const grown = scaled(overlay, a.length > 0 ? b.length / a.length : 1, frame);
  return moved(turned(grown, b.angle - a.angle), b.x - a.x, b.y - a.y, frame);
}

/** Draws it as it lies, into a context whose units are frame pixels. */
export function draw(context: CanvasRenderingContext2D, picture: CanvasImageSource, overlay: Overlay): void {
  const height = overlay.width * overlay.aspect;
  context.save();
  context.imageSmoothingQuality = "high";
  context.globalAlpha = overlay.opacity;
  context.translate(overlay.x, overlay.y);
  context.rotate((overlay.turn * Math.PI) / 180);
  context.scale(overlay.flipped ? -1 : 1, 1);
  context.drawImage(picture, -overlay.width / 2, -height / 2, overlay.width, height);
  context.restore();
}

const within = (value: number, least: number, most: number): number => Math.max(least, Math.min(most, value));

function polar({ x, y }: Overlay, point: Point): { length: number; angle: number } {
  const [dx, dy] = [point.x - x, point.y - y];
  return { length: Math.hypot(dx, dy), angle: degrees(dx, dy) };
}

function between(one: Point, other: Point): { x: number; y: number; length: number; angle: number } {
  const [dx, dy] = [other.x - one.x, other.y - one.y];
  return { x: one.x + dx / 2, y: one.y + dy / 2, length: Math.hypot(dx, dy), angle: degrees(dx, dy) };
}

const degrees = (dx: number, dy: number): number => (Math.atan2(dy, dx) * 180) / Math.PI;
