/** How long to wait before trying again: doubling from half a second to ten, a little at random. */

const FIRST_MS = 500;
const LONGEST_MS = 10_000;

/** Milliseconds to wait after the attempt of this number (from 0) failed; `random` is in 0 to 1. */
export function backOff(attempt: number, random: number = Math.random()): number {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt) * (0.75 + 0.25 * random);
}
