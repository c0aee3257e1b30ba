/** What this tab remembers over a reload: where the dream began, and the token to go on with it. */
import type { Opening } from "../net/messages";

export interface Kept {
  opening: Opening;
  token: string | null;
}

const NAME = "playloom.session";

export class History {
  private readonly storage: Pick<Storage, "getItem" | "setItem" | "removeItem">;

  constructor(storage: Pick<Storage, "getItem" | "setItem" | "removeItem">) {
    this.storage = storage;
  }

  load(): Kept | null {
    try {
      return JSON.parse(this.storage.getItem(NAME) ?? "null") as Kept | null;
    } catch {
      return null;
    }
  }

  save(kept: Kept): void {
    try {
      this.storage.setItem(NAME, JSON.stringify(kept));
    } catch {
      this.forget(); // storage is full or forbidden: a reload then starts from the choice of prompts
    }
  }

  change(changes: Partial<Opening>): void {
    const kept = this.load();
    if (kept) this.save({ ...kept, opening: { ...kept.opening, ...changes } });
  }

  keepToken(token: string): void {
    const kept = this.load();
    if (kept) this.save({ ...kept, token });
  }

  forget(): void {
    try {
      this.storage.removeItem(NAME);
    } catch {
      // nothing was kept
    }
  }
}
