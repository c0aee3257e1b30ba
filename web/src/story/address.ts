/** Which story is open is in the address (`#story=ID`), so that a reload and a shared link come back to it. */

/** The story of an address' fragment; null where it names none. */
export const storyIn = (fragment: string): string | null => /^#story=([\w.-]+)$/.exec(fragment)?.[1] ?? null;

export const storyHere = (): string | null => storyIn(location.hash);

/** Open a story, or none. */
export function openStory(id: string | null): void {
  location.hash = id === null ? "" : `story=${id}`;
}

/** A name for a new story that none of these has: with the next number after it where it is taken. */
export function freeName(wanted: string, taken: readonly string[]): string {
  let name = wanted;
  for (let number = 2; taken.includes(name); number += 1) name = `${wanted} ${number}`;
  return name;
}

export function watchAddress(watcher: () => void): () => void {
  window.addEventListener("hashchange", watcher);
  return () => {
    window.removeEventListener("hashchange", watcher);
  };
}
