/** The three ways to say what is actionSource: held, in words, or played at the controller. */
import { useId } from "react";
import type { BranchForm } from "../../story/order";
import { HoldPad } from "./HoldPad";
import { Perform } from "./Perform";

export interface PartProps {
  form: BranchForm;
  change: (changes: Partial<BranchForm>) => void;
}

const FORCED = [null, 1, 3, 5, 10, 20] as const;

export function Hold({ form, change }: PartProps) {
  const id = useId();
  return (
    <div className="how">
      <HoldPad
        held={form.held}
        onHeld={(held) => {
          change({ held });
        }}
      />
      <div className="field inline">
        <label htmlFor={id}>For</label>
        <select
          id={id}
          value={form.forced ?? ""}
          onChange={(event) => {
            change({ forced: event.target.value === "" ? null : Number(event.target.value) });
          }}
        >
          {FORCED.map((frames) => (
            <option key={frames} value={frames ?? ""}>
              {frames === null
                ? "all frames"
                : frames === 1
                  ? "the next frame, then the model"
                  : `${frames} frames, then the model`}
            </option>
          ))}
        </select>
      </div>
    </div>
  );
}

const EXAMPLES = ["forward for 2s; turn_left", "turn_right=0.6 for 1s; forward + fire", "back for 5; jump; rest"];

export function Script({ form, change }: PartProps) {
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
          value={form.script}
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
      <ThenModel form={form} change={change} />
    </div>
  );
}

export function Recorded({ form, change }: PartProps) {
  return (
    <div className="how">
      <Perform
        frames={form.frames}
        performed={form.performed}
        onPerformed={(performed) => {
          change({ performed });
        }}
      />
      <ThenModel form={form} change={change} />
    </div>
  );
}

function ThenModel({ form, change }: PartProps) {
  return (
    <label className="check">
      <input
        type="checkbox"
        checked={form.thenModel}
        onChange={(event) => {
          change({ thenModel: event.target.checked });
        }}
      />
      Then the model
    </label>
  );
}
