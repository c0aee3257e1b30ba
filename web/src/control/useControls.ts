/** What a person holds, over all of keyboard, gamepad and the pad on the screen. Owns one action and its changes. */
import { type Action, REST, sameAction, toBins, together } from "./controls";

export type Source = "keys" | "gamepad" | "touch";
export type OnHeld = (action: Action, at: number) => void;

export class ControlInput {
  private readonly sources = new Map<Source, Action>();
  private held: Action = REST;

  private readonly onHeld: OnHeld;

  constructor(onHeld: OnHeld) {
    this.onHeld = onHeld;
  }

  get action(): Action {
    return this.held;
  }

  /** One source holds this from `at` on (ms of `performance.now`); heard only when the model would see a difference. */
  hold(source: Source, action: Action, at: number): void {
    this.sources.set(source, action);
    this.settle(at);
  }

  /** Everything is let go of. */
  release(at: number): void {
    this.sources.clear();
    this.settle(at);
  }

  private settle(at: number): void {
    const action = toBins(together([...this.sources.values()]));
    if (sameAction(action, this.held)) return;
    this.held = action;
    this.onHeld(action, at);
  }
}
