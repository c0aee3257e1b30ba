/** The three ways to say what is pressed: held, in words, or played at the controller. */
import { useId } from "react";
import type { Wish } from "../../story/order";
import { HoldPad } from "./HoldPad";
import { Perform } from "./Perform";

export interface PartProps {
  wish: Wish;
  change: (changes: Partial<Wish>) => void;
}

const FORCED = [null, 1, 3, 5, 10, 20] as const;

export function Hold({ wish, change }: PartProps) {
  const id = useId();
  return (
    <div className="how">
      <HoldPad
        held={wish.held}
        onHeld={(held) => {
          change({ held });
        }}
      />
      <div className="field inline">
        <label htmlFor={id}>For</label>
        <select
          id={id}
          value={wish.forced ?? ""}
          onChange={(event) => {
            change({ forced: event.target.value === "" ? null : Number(event.target.value) });
          }}
        >
          {FORCED.map((frames) => (
            <option key={frames} value={frames ?? ""}>
              {frames === null
                ? "all frames"
                : frames === 1
                  ? "the next frame, then the model presses"
                  : `${frames} frames, then the model presses`}
            </option>
          ))}
        </select>
      </div>
    </div>
  );
}

const EXAMPLES = ["forward for 2s; turn_left", "turn_right=0.6 for 1s; forward + fire", "back for 5; jump; rest"];

export function Script({ wish, change }: PartProps) {
  const id = useId();
  return (
    <div className="how">
      <div className="field">
        <label htmlFor={id}>Inputs</label>
        <textarea
          id={id}
          rows={2}
          spellCheck={false}
          autoCapitalize="off"
          placeholder={EXAMPLES[0]}
          value={wish.script}
          onChange={(event) => {
            change({ script: event.target.value });
          }}
        />
      </div>
      <ul className="chips" aria-label="Examples">
        {EXAMPLES.map((example) => (
          <li key={example}>
            <button
              type="button"
              onClick={() => {
                change({ script: example });
              }}
            >
              {example}
            </button>
          </li>
        ))}
      </ul>
      <ThenModel wish={wish} change={change} />
    </div>
  );
}

export function Recorded({ wish, change }: PartProps) {
  return (
    <div className="how">
      <Perform
        frames={wish.frames}
        performed={wish.performed}
        onPerformed={(performed) => {
          change({ performed });
        }}
      />
      <ThenModel wish={wish} change={change} />
    </div>
  );
}

function ThenModel({ wish, change }: PartProps) {
  return (
    <label className="check">
      <input
        type="checkbox"
        checked={wish.thenModel}
        onChange={(event) => {
          change({ thenModel: event.target.checked });
        }}
      />
      After that the model presses
    </label>
  );
}
