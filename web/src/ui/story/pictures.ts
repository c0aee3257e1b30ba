/** Pictures that will be shown next are fetched before, so that frames follow one another without a gap. */
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { pictureUrl } from "../../story/api";
import * as look from "../../story/selection";
import type { View } from "../../story/controller";

const AHEAD = 24;
const KEPT = 600;

/** Fetches the pictures around and after the place that is looked at. */
export function useAhead(view: View): void {
  const kept = useRef(new Map<string, HTMLImageElement>());
  const { state, id } = view;
  useEffect(() => {
    const ids = state.side ? besideAhead(state) : state.way.slice(Math.max(0, state.at - 2), state.at + AHEAD);
    for (const url of ids.map((node) => pictureUrl(id, node))) {
      if (kept.current.has(url)) continue;
      const picture = new Image();
      picture.fetchPriority = "low";
      picture.onerror = () => {
        kept.current.delete(url);
      };
      picture.src = url;
      kept.current.set(url, picture);
    }
    for (const url of [...kept.current.keys()].slice(0, Math.max(0, kept.current.size - KEPT)))
      kept.current.delete(url);
  }, [state, id]);
}

function besideAhead({ tree, side }: look.ViewState): number[] {
  if (!side) return [];
  return side.branches.flatMap((id) => tree.laneOfBranch(id)?.nodes.slice(side.at, side.at + AHEAD / 2) ?? []);
}

/** A function that measures an element, and its width in pixels; 0 until it is known. */
export function useWidth(): [(element: HTMLElement | null) => void, number] {
  const [width, setWidth] = useState(0);
  const [element, setElement] = useState<HTMLElement | null>(null);
  useEffect(() => {
    if (!element) return undefined;
    const observer = new ResizeObserver(([entry]) => {
      if (entry) setWidth(entry.contentRect.width);
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
    };
  }, [element]);
  return [setElement, width];
}

/** The height of the window in pixels, at least that of a small screen. */
export function useTall(): number {
  return useSyncExternalStore(watchSize, () => Math.max(LOW, window.innerHeight));
}

const LOW = 800;

function watchSize(watcher: () => void): () => void {
  window.addEventListener("resize", watcher);
  return () => {
    window.removeEventListener("resize", watcher);
  };
}
