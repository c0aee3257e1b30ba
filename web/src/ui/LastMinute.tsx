/** The last minute as a woven band of what was pressed, and its download as MP4 and CSV. */
import { useEffect, useRef, useState } from "react";
import { fetchBlob, saveBlob } from "../net/api";
import type { Player } from "../play/player";
import { Icon } from "./Icon";

const DRAW_EVERY_MS = 200;
type Kind = "mp4" | "csv";

export function LastMinute({ player, token, disabled }: { player: Player; token: string; disabled: boolean }) {
  const [busy, setBusy] = useState<Kind | null>(null);
  const save = async (kind: Kind): Promise<void> => {
    setBusy(kind);
    try {
      saveBlob(
        await fetchBlob(`v1/sessions/${encodeURIComponent(token)}/recording.${kind}`, player.key),
        `playloom.${kind}`,
      );
    } catch (error) {
      player.notify(`The recording could not be downloaded. ${error instanceof Error ? error.message : ""}`.trim());
    }
    setBusy(null);
  };
  const button = (kind: Kind) => (
    <button type="button" disabled={disabled || busy !== null} onClick={() => void save(kind)} data-save={kind}>
      <Icon name="save" />
      <span>{busy === kind ? "Preparing…" : kind.toUpperCase()}</span>
    </button>
  );
  return (
    <section className="last-minute" aria-labelledby="last-minute">
      <header>
        <h2 id="last-minute">The last minute</h2>
        <p className="legend">
          <i className="person" /> you <i className="model" /> the model
        </p>
        {player.isLocal ? null : (
          <span className="buttons">
            {button("mp4")}
            {button("csv")}
          </span>
        )}
      </header>
      <Band player={player} />
    </section>
  );
}

function Band({ player }: { player: Player }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const draw = (): void => {
      if (!canvas.current || document.hidden) return;
      const style = getComputedStyle(canvas.current);
      const ink = (name: string): string => style.getPropertyValue(name).trim();
      player.timeline.draw(canvas.current, {
        person: ink("--person"),
        model: ink("--model"),
        rest: ink("--rest"),
        cut: ink("--quiet"),
      });
    };
    draw();
    const timer = setInterval(draw, DRAW_EVERY_MS);
    return () => {
      clearInterval(timer);
    };
  }, [player]);
  return (
    <div className="band">
      <span aria-hidden="true">walk</span>
      <span aria-hidden="true">look</span>
      <span aria-hidden="true">press</span>
      <canvas ref={canvas} role="img" aria-label="Inputs of the last 600 frames: walking, looking, buttons" />
    </div>
  );
}
