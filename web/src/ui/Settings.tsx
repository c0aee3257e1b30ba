/** Who plays, how boldly tokens are drawn, and which seed: the same three fields before and during play. */
import { useId, useState } from "react";
import { CONTROLLERS, type Controller } from "../net/messages";
import { Icon } from "./Icon";

const NAMES: Readonly<Record<Controller, string>> = { person: "You", model: "Model", both: "Both" };
const MEANING: Readonly<Record<Controller, string>> = {
  person: "Your inputs only.",
  model: "The model chooses every input.",
  both: "Your inputs while you give any; the model's otherwise.",
};

export function ControllerChoice({
  controller,
  onController,
  disabled = false,
}: {
  controller: Controller;
  onController: (controller: Controller) => void;
  disabled?: boolean;
}) {
  const name = useId();
  return (
    <fieldset className="who" disabled={disabled}>
      <legend>Controller</legend>
      <div className="segments">
        {CONTROLLERS.map((choice) => (
          <label key={choice} data-controller={choice}>
            <input
              type="radio"
              name={name}
              value={choice}
              checked={controller === choice}
              onChange={() => {
                onController(choice);
              }}
            />
            <span>{NAMES[choice]}</span>
          </label>
        ))}
      </div>
      <p className="hint">{MEANING[controller]}</p>
    </fieldset>
  );
}

interface TemperatureProps {
  value: number | null;
  /** The model's own, where the thumb stands until it is moved; null: not known. */
  own?: number | null;
  onValue: (value: number) => void;
  disabled?: boolean;
}

/** 0 is the likeliest token every time. Moves at once here; is sent when let go. */
export function Temperature({ value, own = null, onValue, disabled = false }: TemperatureProps) {
  const id = useId();
  const [moving, setMoving] = useState<number | null>(null);
  const shown = moving ?? value;
  const words = shown?.toFixed(2) ?? (own === null ? "model’s own" : `model’s own, ${own.toFixed(2)}`);
  const settle = (): void => {
    if (moving !== null) onValue(moving);
    setMoving(null);
  };
  return (
    <div className="field temperature">
      <label htmlFor={id}>Temperature</label>
      <output htmlFor={id}>{words}</output>
      <input
        id={id}
        type="range"
        min={0}
        max={1.5}
        step={0.05}
        disabled={disabled}
        value={shown ?? own ?? 0.9}
        aria-valuetext={words}
        onChange={(event) => {
          setMoving(event.target.valueAsNumber);
        }}
        onPointerUp={settle}
        onKeyUp={settle}
        onBlur={settle}
      />
    </div>
  );
}

export const SEEDS = 2 ** 31;

/** A whole number from 0 to 2³¹ − 1, or null. */
export function seedIn(text: string): number | null {
  const number = /^\d{1,10}$/.test(text.trim()) ? Number(text) : NaN;
  return number < SEEDS ? number : null;
}

interface SeedProps {
  /** The seed being played; null: none yet, the server will draw one. */
  seed: number | null;
  onSeed: (seed: number) => void;
  /** The field was emptied: one will be drawn. */
  onNone?: () => void;
  disabled?: boolean;
}

/** Enter, or leaving the field, takes the number; the button draws a new one. */
export function Seed({ seed, onSeed, onNone, disabled = false }: SeedProps) {
  const id = useId();
  const [draft, setDraft] = useState<string | null>(null);
  const wrong = draft !== null && draft.trim() !== "" && seedIn(draft) === null;
  const take = (): void => {
    const found = draft === null ? null : seedIn(draft);
    if (!wrong) setDraft(null);
    if (found !== null && found !== seed) onSeed(found);
    if (draft?.trim() === "") onNone?.();
  };
  return (
    <div className="field seed">
      <label htmlFor={id}>Seed</label>
      <span className="with-button">
        <input
          id={id}
          inputMode="numeric"
          autoComplete="off"
          placeholder="drawn at the start"
          disabled={disabled}
          value={draft ?? seed ?? ""}
          aria-invalid={wrong}
          aria-describedby={wrong ? `${id}-wrong` : undefined}
          onChange={(event) => {
            setDraft(event.target.value);
          }}
          onKeyDown={(event) => {
            if (event.key === "Enter") take();
          }}
          onBlur={take}
        />
        <button
          type="button"
          disabled={disabled}
          title="Draw a new seed"
          onClick={() => {
            setDraft(null);
            onSeed(Math.floor(Math.random() * SEEDS));
          }}
        >
          <Icon name="dice" />
          <span>New</span>
        </button>
      </span>
      {wrong ? (
        <p className="wrong" id={`${id}-wrong`}>
          A seed is a whole number from 0 to {SEEDS - 1}.
        </p>
      ) : null}
    </div>
  );
}
