/** The picture, and over it what stands between the person and the next one: opening, paused, server gone, refused. */
import { type RefObject, useEffect, useState } from "react";
import type { Line } from "../net/connection";
import type { SessionState } from "../net/messages";
import type { Screen } from "../play/screen";

interface Props {
  stage: RefObject<HTMLDivElement | null>;
  screen: Screen;
  line: Line;
  session: SessionState | null;
  seen: boolean;
  frame: number;
  /** Shown, dimmed, until the first frame is there. */
  poster: string | null;
  onTryNow: () => void;
  onLeave: () => void;
}

export function Stage({ stage, screen, line, session, seen, frame, poster, onTryNow, onLeave }: Props) {
  const shape = session?.width ? `${session.width} / ${session.height}` : undefined;
  return (
    <div
      ref={stage}
      className="stage"
      tabIndex={0}
      role="group"
      aria-label="The dream. Keys steer it while it, or no text field, has the focus."
      data-live={line.kind === "open" && seen}
      data-frame={frame}
      style={shape ? { aspectRatio: shape } : undefined}
    >
      {poster && !seen ? <img className="poster" src={poster} alt="" /> : null}
      <canvas
        ref={(canvas) => {
          screen.show(canvas);
        }}
        hidden={!seen}
        role="img"
        aria-label="The dreamed picture"
      />
      <Curtain line={line} seen={seen || (session?.paused ?? false)} onTryNow={onTryNow} onLeave={onLeave} />
      {line.kind === "open" && session?.paused ? <p className="chip">Paused</p> : null}
    </div>
  );
}

interface CurtainProps {
  line: Line;
  seen: boolean;
  onTryNow: () => void;
  onLeave: () => void;
}

function Curtain({ line, seen, onTryNow, onLeave }: CurtainProps) {
  if (line.kind === "open" && seen) return null;
  return (
    <div className="curtain" data-line={line.kind}>
      <p role="status">
        {sentence(line)}
        {line.kind === "opening" && line.progress?.steps ? (
          <span aria-hidden="true">
            {` ${line.progress.seen ?? 0} of ${line.progress.steps}${line.progress.loading ? " MB" : ""}`}
          </span>
        ) : null}
      </p>
      {line.kind === "opening" ? <Elapsed since={line.since} /> : null}
      {line.kind === "waiting" ? (
        <>
          <Countdown until={line.until} />
          <span className="buttons">
            <button type="button" className="strong" onClick={onTryNow}>
              Try now
            </button>
            <button type="button" onClick={onLeave}>
              Other start
            </button>
          </span>
        </>
      ) : null}
      {line.kind === "refused" ? (
        <button type="button" className="strong" onClick={onLeave}>
          Choose a start
        </button>
      ) : null}
      {line.kind === "opening" || line.kind === "open" ? <span className="thread" aria-hidden="true" /> : null}
    </div>
  );
}

function sentence(line: Line): string {
  switch (line.kind) {
    case "opening":
      if (line.progress) return line.progress.loading ? "Loading the model…" : "Opening …";
      return line.again ? "Finding the way back…" : "Connecting…";
    case "open":
      return "Making the first frame…";
    case "waiting":
    case "refused":
      return line.reason;
    case "idle":
      return "";
  }
}

function useNow(): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => {
      setNow(Date.now());
    }, 250);
    return () => {
      clearInterval(timer);
    };
  }, []);
  return now;
}

/** Seconds from the second one on; not spoken, as the countdown is not. */
function Elapsed({ since }: { since: number }) {
  const seconds = Math.floor((useNow() - since) / 1000);
  return (
    <p className="hint" aria-hidden="true">
      {seconds >= 2 ? `${seconds} s` : "\u00a0"}
    </p>
  );
}

/** Not spoken: a screen reader would count along. */
export function Countdown({ until }: { until: number }) {
  const seconds = Math.max(0, Math.ceil((until - useNow()) / 1000));
  return (
    <p className="hint" aria-hidden="true">
      {seconds > 0 ? `Trying again by itself in ${seconds} s.` : "Trying again…"}
    </p>
  );
}
