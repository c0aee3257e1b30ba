/** The panel of a picture that is laid onto frames: size, turn, opacity, and on how many of them. */
import { useId } from "react";
import type { View } from "../../story/controller";
import { Icon } from "../Icon";
import type { Placement } from "./placement";

interface PanelProps {
  placement: Placement;
  view: View;
  busy: boolean;
  onPut: () => void;
  /** Look at an earlier frame, so many before this one. */
  onEarlier: (frames: number) => void;
}

const GOOD_COPIES = 4;

export function Placing({ placement, view, busy, onPut, onEarlier }: PanelProps) {
  const { overlay, image, copies, most } = placement;
  if (!overlay || !image) return null;
  const earlier = Math.min(GOOD_COPIES - most, view.state.at);
  const percent = Math.round((100 * overlay.width) / view.width);
  return (
    <form
      className="placing"
      aria-labelledby="placing"
      onSubmit={(event) => {
        event.preventDefault();
        onPut();
      }}
    >
      <h2 id="placing">A picture onto frame {view.state.at + 1}</h2>
      <p className="hint">Drag to move, pull a corner to resize, use the round handle to rotate.</p>
      <Slider
        label="Size"
        words={`${percent} %`}
        value={overlay.width}
        least={4}
        most={view.width * 1.5}
        step={1}
        onValue={(width) => {
          placement.change((now) => ({ ...now, width }));
        }}
      />
      <Slider
        label="Rotation"
        words={`${Math.round(overlay.turn)}°`}
        value={overlay.turn}
        least={-180}
        most={180}
        step={1}
        onValue={(turn) => {
          placement.change((now) => ({ ...now, turn }));
        }}
      />
      <Slider
        label="Opacity"
        words={`${Math.round(100 * overlay.opacity)} %`}
        value={overlay.opacity}
        least={0.1}
        most={1}
        step={0.05}
        onValue={(opacity) => {
          placement.change((now) => ({ ...now, opacity }));
        }}
      />
      <div className="buttons wrap">
        <button
          type="button"
          aria-pressed={overlay.flipped}
          onClick={() => {
            placement.change((now) => ({ ...now, flipped: !now.flipped }));
          }}
        >
          <Icon name="flip" />
          <span>Mirror</span>
        </button>
        {image.cut ? (
          <label className="check">
            <input
              type="checkbox"
              checked={placement.cut}
              onChange={(event) => {
                placement.setCut(event.target.checked);
              }}
            />
            Remove background
          </label>
        ) : null}
      </div>
      <Slider
        label="Also on the next frames"
        words={most === 0 ? "there are none" : copies === 0 ? "only this one" : `${copies} more`}
        value={copies}
        least={0}
        most={Math.max(1, most)}
        step={1}
        off={most === 0}
        onValue={placement.setCopies}
      />
      <p className="hint">
        The model easily forgets a single edited frame: edit several, then continue from the last.
        {most === 0 ? " No frame follows this one." : null}
      </p>
      {earlier > 0 ? (
        <button
          type="button"
          data-do="earlier"
          onClick={() => {
            onEarlier(earlier);
          }}
        >
          <Icon name="back" />
          <span>Start {earlier === 1 ? "a frame" : `${earlier} frames`} earlier</span>
        </button>
      ) : null}
      <div className="buttons">
        <button type="submit" className="strong" disabled={busy} data-do="put">
          <Icon name="check" />
          <span>{copies === 0 ? "Apply" : `Apply to ${copies + 1} frames`}</span>
          <kbd>↵</kbd>
        </button>
        <button type="button" onClick={placement.drop} data-do="drop">
          Cancel <kbd>Esc</kbd>
        </button>
      </div>
    </form>
  );
}

interface SliderProps {
  label: string;
  words: string;
  value: number;
  least: number;
  most: number;
  step: number;
  off?: boolean;
  onValue: (value: number) => void;
}

function Slider({ label, words, value, least, most, step, off = false, onValue }: SliderProps) {
  const id = useId();
  return (
    <div className="field temperature">
      <label htmlFor={id}>{label}</label>
      <output htmlFor={id}>{words}</output>
      <input
        id={id}
        type="range"
        min={least}
        max={most}
        step={step}
        value={value}
        disabled={off}
        aria-valuetext={words}
        onChange={(event) => {
          onValue(event.target.valueAsNumber);
        }}
      />
    </div>
  );
}
