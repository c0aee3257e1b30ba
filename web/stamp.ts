/** Which sources a build was made of: one hash over all that shapes it. A test of the package does the same sum. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative, sep } from "node:path";

/** What shapes the build, relative to this folder. */
export const SOURCES = [
  "index.html",
  "package.json",
  "package-lock.json",
  "vite.config.ts",
  "stamp.ts",
  "public",
  "src",
];

/** SHA-256 over path, length and content of every source, in the order of their paths. */
export function hashOfSources(root: string): string {
  const files = SOURCES.flatMap((name) => filesUnder(join(root, name)))
    .map((path) => [relative(root, path).split(sep).join("/"), path] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const hash = createHash("sha256");
  for (const [name, path] of files) {
    const content = readFileSync(path);
    hash.update(`${name}\n${content.length}\n`);
    hash.update(content);
  }
  return hash.digest("hex");
}

function filesUnder(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => filesUnder(join(path, name)));
}
