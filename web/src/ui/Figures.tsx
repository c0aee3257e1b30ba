/** The figures of play: frame rate, and the time from a key to its picture, as measured here and by the server. */
import type { SessionState } from "../net/messages";
import type { Figures as Values } from "../play/player";

const HERE =
  "From the key event in this browser until the first picture made with it is drawn on the canvas. " +
  "The screen itself takes a little longer.";
const THERE =
  "From the server's hearing of the press until its frame was made: the wait for the tick, and the dreaming.";

const milliseconds = (value: number | null): string => (value === null ? "–" : Math.round(value).toString());

interface Props {
  values: Values;
  session: SessionState;
  isLocal: boolean;
}

export function Figures({ values, session, isLocal }: Props) {
  const presses = values.presses === 1 ? "1 press" : `${values.presses} presses`;
  return (
    <dl className="figures" aria-label="Figures">
      <div title="Frames per second over the last two seconds.">
        <dt>Frames per second</dt>
        <dd data-figure="rate">
          {session.paused ? "–" : values.framesPerSecond.toFixed(1)}
          <small> {session.paused ? "paused" : `of ${session.fps}`}</small>
        </dd>
        <dd className="note">{misses(session)}</dd>
      </div>
      <div title={HERE}>
        <dt>Key to picture</dt>
        <dd data-figure="key-to-picture">
          {milliseconds(values.keyToPicture)}
          <small> ms</small>
        </dd>
        <dd className="note">
          {values.presses
            ? `in this browser; median of ${presses}, worst ${milliseconds(values.keyToPictureWorst)}`
            : "press a key to measure"}
        </dd>
      </div>
      <div title={THERE}>
        <dt>Key to frame</dt>
        <dd data-figure="key-to-frame">
          {milliseconds(values.keyToFrame)}
          <small> ms</small>
        </dd>
        <dd className="note">
          {isLocal ? "" : "on the server; "}
          {milliseconds(values.cost)} ms per frame
        </dd>
      </div>
    </dl>
  );
}

function misses({ late, skipped }: SessionState): string {
  return late || skipped ? `${late} late, ${skipped} skipped` : "none late";
}
