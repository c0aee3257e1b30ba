/** Inputs by playing them: keys and gamepads are heard from "Record" until so many frames are there. */
import { useEffect, useEffectEvent, useState } from "react";
import { type Action, REST } from "../../control/controls";
import { ControlInput } from "../../control/useControls";
import { listen } from "../../control/listen";
import { rowsOf } from "../../play/timeline";
import { seconds } from "../../story/order";
import { Performance } from "../../story/perform";
import { Icon } from "../Icon";
import { Pad } from "../Pad";

const TICK_MS = 100;

interface Props {
  frames: number;
  performed: readonly Action[];
  onPerformed: (actions: readonly Action[]) => void;
}

export function Perform({ frames, performed, onPerformed }: Props) {
  const [recording, setRecording] = useState(false);
  const [live, setLive] = useState<readonly Action[]>([]);
  const [held, setHeld] = useState<Action>(REST);
  const [input] = useState(() => new ControlInput(setHeld));
  const end = (made: readonly Action[]): void => {
    if (made.length) onPerformed(made);
    setLive([]);
    setRecording(false);
  };
  const ended = useEffectEvent(end);
  useEffect(() => {
    if (!recording) return undefined;
    document.body.dataset.recording = "true"; // keys are for the controller now, not for the page
    const performance = new Performance(frames);
    const unsubscribe = listen(input, { onCommand: () => undefined, onPads: () => undefined });
    const timer = setInterval(() => {
      performance.tick(input.action);
      setLive([...performance.made]);
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
      unsubscribe();
    };
  }, [recording, frames, input]);
  const shown = recording ? live : performed;
  return (
    <div className="perform">
      <button
        type="button"
        data-do="record"
        aria-pressed={recording}
        onClick={(event) => {
          event.currentTarget.blur(); // or the space bar, which fires, would press it again
          if (recording) end(live);
          else setRecording(true);
        }}
      >
        <Icon name="record" />
        <span>{recording ? "Stop" : performed.length ? "Record again" : `Record ${seconds(frames)}`}</span>
      </button>
      <p className="hint" role="status">
        {recording
          ? live.length
            ? `${live.length} of ${frames} frames`
            : "Recording starts with your first input: keys, a gamepad, or the pad below. Esc stops."
          : performed.length
            ? `${performed.length} frames recorded${performed.length < frames ? "; the last input is repeated" : ""}.`
            : "Keys as in play (W A S D, arrows, Space …), a gamepad, or touch."}
      </p>
      {recording ? <Pad input={input} held={held} used={held} given hint="" /> : null}
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
