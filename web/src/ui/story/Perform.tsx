/** Inputs by playing them: keys and gamepads are heard from "Record" until so many frames are there. */
import { useEffect, useEffectEvent, useState } from "react";
import type { Action } from "../../control/controls";
import { Hands } from "../../control/hands";
import { listen } from "../../control/listen";
import { inWords, rowsOf } from "../../play/weave";
import { seconds } from "../../story/order";
import { Performance } from "../../story/perform";
import { Icon } from "../Icon";

const TICK_MS = 100;

interface Props {
  frames: number;
  performed: readonly Action[];
  onPerformed: (actions: readonly Action[]) => void;
}

export function Perform({ frames, performed, onPerformed }: Props) {
  const [recording, setRecording] = useState(false);
  const [live, setLive] = useState<{ made: readonly Action[]; held: Action | null }>({ made: [], held: null });
  const end = (made: readonly Action[]): void => {
    if (made.length) onPerformed(made);
    setLive({ made: [], held: null });
    setRecording(false);
  };
  const ended = useEffectEvent(end);
  useEffect(() => {
    if (!recording) return undefined;
    document.body.dataset.recording = "true"; // keys are for the controller now, not for the page
    const performance = new Performance(frames);
    const hands = new Hands(() => undefined);
    const deaf = listen(hands, { onCommand: () => undefined, onPads: () => undefined });
    const timer = setInterval(() => {
      performance.tick(hands.action);
      setLive({ made: [...performance.made], held: hands.action });
      if (performance.done) ended(performance.made);
    }, TICK_MS);
    const escape = (event: KeyboardEvent): void => {
      if (event.key === "Escape") ended(performance.made);
    };
    window.addEventListener("keydown", escape);
    return () => {
      delete document.body.dataset.recording;
      clearInterval(timer);
      window.removeEventListener("keydown", escape);
      deaf();
    };
  }, [recording, frames]);
  const shown = recording ? live.made : performed;
  return (
    <div className="perform">
      <button
        type="button"
        data-do="record"
        aria-pressed={recording}
        onClick={(event) => {
          event.currentTarget.blur(); // or the space bar, which fires, would press it again
          if (recording) end(live.made);
          else setRecording(true);
        }}
      >
        <Icon name="record" />
        <span>{recording ? "Stop" : performed.length ? "Record again" : `Record ${seconds(frames)}`}</span>
      </button>
      <p className="hint" role="status">
        {recording
          ? live.made.length
            ? `${live.made.length} of ${frames}: ${live.held ? inWords(live.held) : ""}`
            : "It begins with your first press: keys as in play, or a gamepad. Esc stops."
          : performed.length
            ? `${performed.length} frames recorded${performed.length < frames ? "; the last is held on" : ""}.`
            : "Keys as in play (W A S D, arrows, Space …), or a gamepad."}
      </p>
      <div className="performed" aria-hidden="true">
        {Array.from({ length: frames }, (_, at) => {
          const action = shown[at];
          const rows = action ? rowsOf(action) : null;
          return (
            <i key={at} data-on={rows !== null} data-pressed={rows ? rows.walk + rows.look + rows.press > 0 : false} />
          );
        })}
      </div>
    </div>
  );
}
