/** Inputs played at the controller: begins with the first press, then one action each tenth of a second, to the end. */
import { type Action, isRest } from "../control/controls";

export class Performance {
  private readonly actions: Action[] = [];
  private readonly frames: number;

  constructor(frames: number) {
    this.frames = frames;
  }

  get made(): readonly Action[] {
    return this.actions;
  }

  get begun(): boolean {
    return this.actions.length > 0;
  }

  get done(): boolean {
    return this.actions.length >= this.frames;
  }

  /** What is held at this tick. */
  tick(held: Action): void {
    if (this.done || (!this.begun && isRest(held))) return;
    this.actions.push(held);
  }
}
