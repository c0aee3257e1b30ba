/** What is printed on a key: by the browser's own map of the keyboard where it has one, else as on a US keyboard. */
import { useEffect, useState } from "react";

const NAMED: Readonly<Record<string, string>> = {
  ArrowUp: "↑",
  ArrowDown: "↓",
  ArrowLeft: "←",
  ArrowRight: "→",
  Space: "Space",
  ShiftLeft: "Shift",
  Backspace: "⌫",
};

interface LayoutMap {
  get(code: string): string | undefined;
}

type WithKeyboard = Navigator & { keyboard?: { getLayoutMap?: () => Promise<LayoutMap> } };

/** The label of a physical key; `layout` is null while (or where) nothing is known of it. */
export function labelOf(code: string, layout: LayoutMap | null): string {
  const named = NAMED[code];
  if (named !== undefined) return named;
  return layout?.get(code)?.toUpperCase() ?? code.replace(/^(Key|Digit)/, "");
}

/** A function from key to label that knows this person's keyboard. */
export function useKeyLabels(): (code: string) => string {
  const [layout, setLayout] = useState<LayoutMap | null>(null);
  useEffect(() => {
    const asked = (navigator as WithKeyboard).keyboard?.getLayoutMap?.();
    asked?.then(setLayout).catch(() => {
      setLayout(null); // the browser will not tell
    });
  }, []);
  return (code) => labelOf(code, layout);
}
