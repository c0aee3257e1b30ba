/** The colours of both themes, as written in tokens.css, are told apart as WCAG 2.2 AA wants it. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

const css = readFileSync(new URL("../src/styles/tokens.css", import.meta.url), "utf8");
const [dark = "", light = ""] = css.split("@media (prefers-color-scheme: light)");

function colours(text: string): Map<string, string> {
  return new Map([...text.matchAll(/--([\w-]+): (#[0-9a-f]{6});/g)].map(([, name = "", value = ""]) => [name, value]));
}

function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const part = parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const TEXT = 4.5;
const SHAPE = 3;
const PAIRS: readonly (readonly [string, string, number])[] = [
  ["ink", "ground", 7],
  ["ink", "raised", 7],
  ["quiet", "ground", TEXT],
  ["quiet", "raised", TEXT],
  ["quiet", "sunk", TEXT],
  ["person", "ground", TEXT],
  ["model", "ground", TEXT],
  ["bad", "ground", TEXT],
  ["on-person", "person-fill", TEXT],
  ["on-model", "model", TEXT],
  ["on-person", "model-fill", TEXT],
  ["ink", "sunk", 7],
  ["bad", "sunk", TEXT],
  ["person", "raised", TEXT],
  ["edge", "sunk", SHAPE],
  ["person", "sunk", SHAPE],
  ["model", "sunk", SHAPE],
  ["edge", "ground", SHAPE],
  ["edge", "raised", SHAPE],
];

describe.each([
  ["dark", colours(dark)],
  ["light", colours(light)],
])("%s", (_, found) => {
  it.each(PAIRS)("%s on %s is at least %d", (one, other, least) => {
    const [a, b] = [found.get(one), found.get(other)];
    if (!a || !b) throw new Error(`tokens.css does not name ${one} and ${other}`);
    expect(contrast(a, b)).toBeGreaterThanOrEqual(least);
  });
});
