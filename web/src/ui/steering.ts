/** Joins keys and gamepads to a player while the page of play is shown, and keeps the focus where keys steer. */
import { type RefObject, useEffect, useState } from "react";
import type { Command } from "../control/keyboard";
import { listen } from "../control/listen";
import type { Player } from "../play/player";

export interface Pads {
  usable: number;
  unusable: number;
}

/** One sentence on gamepads. */
export function aboutPads({ usable, unusable }: Pads): string {
  if (usable > 0) return usable === 1 ? "A gamepad is connected." : `${usable} gamepads are connected.`;
  if (unusable > 0) return "A gamepad is connected, but the browser does not know its layout, so it cannot be used.";
  return "Keys as shown, a gamepad (press any button on it), or touch.";
}

/** Keyboard and gamepads steer while this page is shown. */
export function useControls(player: Player): Pads {
  const [pads, setPads] = useState<Pads>({ usable: 0, unusable: 0 });
  useEffect(() => {
    const commands: Record<Command, () => void> = {
      pause: () => {
        player.togglePause();
      },
      step: () => {
        player.step();
      },
      reset: () => {
        player.reset();
      },
    };
    return listen(player.input, {
      onCommand: (command) => {
        commands[command]();
      },
      onPads: (usable, unusable) => {
        setPads({ usable, unusable });
      },
    });
  }, [player]);
  return pads;
}

/** After a button was clicked with a pointer the keys steer again; who walks with Tab keeps their place. */
export function useFocusOnStage(stage: RefObject<HTMLDivElement | null>): void {
  useEffect(() => {
    const focus = (): void => {
      stage.current?.focus({ preventScroll: true });
    };
    const refocus = (event: MouseEvent): void => {
      if (event.detail === 0) return; // pressed with a key
      setTimeout(() => {
        const at = document.activeElement;
        if (at?.closest("[data-keeps-focus]")) return;
        const slides = at instanceof HTMLInputElement && /^(radio|range)$/.test(at.type);
        if (slides || at instanceof HTMLButtonElement) focus();
      });
    };
    focus();
    document.addEventListener("click", refocus);
    return () => {
      document.removeEventListener("click", refocus);
    };
  }, [stage]);
}
