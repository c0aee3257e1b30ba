/** The fingers (or the mouse) that are down on something, and how each of them moves. */
import type { Point } from "./overlay";

export interface Drag {
  from: Point;
  to: Point;
  /** Another finger that is down. */
  other: Point | null;
}

export class Pointers {
  private readonly points = new Map<number, Point>();

  down(id: number, point: Point): void {
    this.points.set(id, point);
  }

  /** Null for one that is not down. */
  move(id: number, to: Point): Drag | null {
    const from = this.points.get(id);
    if (!from) return null;
    this.points.set(id, to);
    const other = [...this.points].find(([finger]) => finger !== id)?.[1] ?? null;
    return { from, to, other };
  }

  up(id: number): void {
    this.points.delete(id);
  }
}
