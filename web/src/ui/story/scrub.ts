/** Dragging along something to go through frames. A finger that scrolls the page goes through none. */
import type { PointerEvent } from "react";

type Handle = (event: PointerEvent<HTMLElement>) => void;

/**
 * Handlers for an element that is dragged along.
 *
 * @param point is told of every place; `begin`, if there is one, of the first, and may refuse it by false.
 */
export function scrubbing(
  point: Handle,
  begin: (event: PointerEvent<HTMLElement>) => boolean = () => true,
): Record<"onPointerDown" | "onPointerMove" | "onPointerUp", Handle> {
  const held = (event: PointerEvent<HTMLElement>): boolean => event.currentTarget.hasPointerCapture(event.pointerId);
  return {
    onPointerDown: (event) => {
      if (event.button !== 0 || !begin(event)) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      if (event.pointerType !== "touch") point(event); // a finger may be about to scroll
    },
    onPointerMove: (event) => {
      if (held(event)) point(event);
    },
    onPointerUp: (event) => {
      if (event.pointerType === "touch" && held(event)) point(event);
    },
  };
}
