/** The panel that asks for branches: how many, how long, who presses what, and how it is drawn. */
import { useId } from "react";
import { HOW, type How, MOST_BRANCHES, MOST_FRAMES, seconds, type BranchForm } from "../../story/order";
import { Icon } from "../Icon";
import { Seed, Temperature } from "../Settings";
import { Hold, type PartProps, Recorded, Script } from "./Inputs";

interface Props {
  form: BranchForm;
  onForm: (form: BranchForm) => void;
  context: number;
  ownTemperature: number | null;
  busy: boolean;
  /** How many frames lie before the one that is dreamed on from. */
  place: number;
  onOrder: () => void;
}

const NAMES: Readonly<Record<How, string>> = { model: "Model", hold: "Hold", script: "Script", perform: "Record" };
const MEANING: Readonly<Record<How, string>> = {
  model: "The model chooses the inputs; every branch differs.",
  hold: "The same inputs in every frame.",
  script: "Inputs written as text, in order.",
  perform: "Record your own inputs; every branch uses them.",
};

export function DreamOn({ form, onForm, context, ownTemperature, busy, place, onOrder }: Props) {
  const change = (changes: Partial<BranchForm>): void => {
    onForm({ ...form, ...changes });
  };
  return (
    <form
      className="dream-on"
      aria-labelledby="dream-on"
      onSubmit={(event) => {
        event.preventDefault();
        onOrder();
      }}
    >
      <h2 id="dream-on">Continue from frame {place + 1}</h2>
      <div className="how-much">
        <Amount
          label="Branches"
          value={form.count}
          most={MOST_BRANCHES}
          onValue={(count) => {
            change({ count });
          }}
        />
        <Amount
          label="Frames each"
          value={form.frames}
          most={MOST_FRAMES}
          by={10}
          words={seconds(form.frames)}
          onValue={(frames) => {
            change({ frames });
          }}
        />
      </div>
      <WhoPresses
        how={form.how}
        onHow={(how) => {
          change({ how });
        }}
      />
      {form.how === "hold" ? <Hold form={form} change={change} /> : null}
      {form.how === "script" ? <Script form={form} change={change} /> : null}
      {form.how === "perform" ? <Recorded form={form} change={change} /> : null}
      <button type="submit" className="strong order" disabled={busy} data-do="order" onClick={onlyOnce}>
        <Icon name="branch" />
        <span>
          {form.count === 1 ? "Generate" : `Generate ${form.count} branches`}, {seconds(form.frames)}
        </span>
        <kbd>B</kbd>
      </button>
      <Details form={form} change={change} context={context} own={ownTemperature} />
    </form>
  );
}

/** The second click of a double click asks for nothing: it would dream on from where the first one led. */
const onlyOnce = (event: React.MouseEvent): void => {
  if (event.detail > 1) event.preventDefault();
};

interface AmountProps {
  label: string;
  value: number;
  most: number;
  by?: number;
  words?: string;
  onValue: (value: number) => void;
}

/** A whole number from 1, by buttons or written. */
function Amount({ label, value, most, by = 1, words, onValue }: AmountProps) {
  const id = useId();
  const set = (wanted: number): void => {
    onValue(Math.max(1, Math.min(most, Math.round(wanted) || 1)));
  };
  const less = value % by === 0 ? value - by : value - (value % by);
  return (
    <div className="field amount">
      <label htmlFor={id}>
        {label}
        {words ? <small>{words}</small> : null}
      </label>
      <span className="with-button">
        <button
          type="button"
          aria-label={`${label}: less`}
          disabled={value <= 1}
          onClick={() => {
            set(less);
          }}
        >
          <Icon name="minus" />
        </button>
        <input
          id={id}
          type="number"
          inputMode="numeric"
          min={1}
          max={most}
          value={value}
          onChange={(event) => {
            set(event.target.valueAsNumber);
          }}
        />
        <button
          type="button"
          aria-label={`${label}: more`}
          disabled={value >= most}
          onClick={() => {
            set(value === 1 && by > 1 ? by : value - (value % by) + by);
          }}
        >
          <Icon name="plus" />
        </button>
      </span>
    </div>
  );
}

function WhoPresses({ how, onHow }: { how: How; onHow: (how: How) => void }) {
  const name = useId();
  return (
    <fieldset className="who">
      <legend>Inputs</legend>
      <div className="segments four">
        {HOW.map((choice) => (
          <label key={choice} data-controller={choice === "model" ? "model" : "person"}>
            <input
              type="radio"
              name={name}
              value={choice}
              checked={how === choice}
              onChange={() => {
                onHow(choice);
              }}
            />
            <span>{NAMES[choice]}</span>
          </label>
        ))}
      </div>
      <p className="hint">{MEANING[how]}</p>
    </fieldset>
  );
}

function Details({ form, change, context, own }: PartProps & { context: number; own: number | null }) {
  const id = useId();
  const steps = Math.min(form.context ?? context, context);
  return (
    <details className="more">
      <summary>Sampling</summary>
      <div className="more-body">
        <Temperature
          value={form.temperature}
          own={own}
          onValue={(temperature) => {
            change({ temperature });
          }}
        />
        <Seed
          seed={form.seed}
          onSeed={(seed) => {
            change({ seed });
          }}
          onNone={() => {
            change({ seed: null });
          }}
        />
        <div className="field temperature">
          <label htmlFor={id}>Context</label>
          <output htmlFor={id}>{steps === 1 ? "this frame only" : `the last ${steps} frames`}</output>
          <input
            id={id}
            type="range"
            min={1}
            max={context}
            value={steps}
            aria-valuetext={`${steps} frames`}
            onChange={(event) => {
              change({ context: event.target.valueAsNumber });
            }}
          />
        </div>
      </div>
    </details>
  );
}
