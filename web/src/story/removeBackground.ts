/** Takes a plain background away from a picture without transparency: what is like its edge, reached from the edge. */

const CHANNELS = 4;
/** How far a colour may lie from the corner's and still be background; the sum over red, green, blue. */
const TOLERANCE = 48;

/** Pixels as RGBA, row after row. */
export interface Pixels {
  width: number;
  height: number;
  data: Uint8ClampedArray;
}

export function hasTransparency({ data }: Pixels): boolean {
  for (let at = 3; at < data.length; at += CHANNELS) if ((data[at] ?? 0) < 250) return true;
  return false;
}

/** Whether all four corners are of one colour, so that a background is likely. */
export function hasPlainCorners(pixels: Pixels): boolean {
  const { width, height } = pixels;
  const corners = [0, width - 1, (height - 1) * width, height * width - 1];
  return corners.every((corner) => distance(pixels, corner, 0) <= TOLERANCE);
}

/** Makes the background transparent, in place. */
export function removeBackground(pixels: Pixels): void {
  const { width, height, data } = pixels;
  const seen = new Uint8Array(width * height);
  const stack: number[] = [];
  const reach = (at: number): void => {
    if (seen[at] || distance(pixels, at, 0) > TOLERANCE) return;
    seen[at] = 1;
    stack.push(at);
  };
  for (let x = 0; x < width; x += 1) [x, (height - 1) * width + x].forEach(reach);
  for (let y = 0; y < height; y += 1) [y * width, y * width + width - 1].forEach(reach);
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    if (at % width > 0) reach(at - 1);
    if (at % width < width - 1) reach(at + 1);
    if (at >= width) reach(at - width);
    if (at < width * (height - 1)) reach(at + width);
  }
  const corner = [data[0], data[1], data[2]];
  seen.forEach((background, at) => {
    if (background) data.set([corner[0] ?? 0, corner[1] ?? 0, corner[2] ?? 0, 0], at * CHANNELS);
  });
}

function distance({ data }: Pixels, one: number, other: number): number {
  let sum = 0;
  for (let channel = 0; channel < 3; channel += 1) {
    sum += Math.abs((data[one * CHANNELS + channel] ?? 0) - (data[other * CHANNELS + channel] ?? 0));
  }
  return sum;
}
