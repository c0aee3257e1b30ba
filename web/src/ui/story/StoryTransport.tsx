/** Under the picture: play, frame by frame, round and round, side by side, mark. */
import * as look from "../../story/gaze";
import { seconds } from "../../story/order";
import type { Room, View } from "../../story/room";
import { Icon, type IconName } from "../Icon";
import { type Deeds, shownNode } from "./deeds";

export function StoryTransport({ room, view, deeds }: { room: Room; view: View; deeds: Deeds }) {
  const { gaze, playing, loop } = view;
  const dead = view.line.kind !== "open" || gaze.way.length === 0;
  const node = shownNode(view);
  const starred = node !== null && gaze.tree.nodes.get(node)?.starred === true;
  const [at, last] = [look.placeOf(gaze), look.lastPlace(gaze)];
  const button = (name: IconName, label: string, key: string, act: () => void, pressed?: boolean, off = false) => (
    <button
      type="button"
      disabled={dead || off}
      aria-pressed={pressed}
      data-do={name}
      title={`${label} (${key})`}
      aria-label={label}
      onClick={act}
    >
      <Icon name={name} />
    </button>
  );
  return (
    <div className="transport story-transport" role="toolbar" aria-label="Transport">
      {button(
        "back",
        "One frame back",
        "←",
        () => {
          room.step(-1);
        },
        undefined,
        at === 0,
      )}
      <button
        type="button"
        className="strong"
        disabled={dead}
        data-do="play"
        onClick={() => {
          room.togglePlay();
        }}
      >
        <Icon name={playing ? "pause" : "play"} />
        <span>{playing ? "Pause" : "Play"}</span>
        <kbd>Space</kbd>
      </button>
      {button(
        "step",
        "One frame on",
        "→",
        () => {
          room.step(1);
        },
        undefined,
        at >= last,
      )}
      {button(
        "loop",
        "Round and round",
        "L",
        () => {
          room.toggleLoop();
        },
        loop,
      )}
      <p className="place">
        <b>{gaze.side ? `+${at}` : at + 1}</b> of {gaze.side ? last : last + 1} · {seconds(at)}
      </p>
      {button("star", starred ? "Take the star away" : "Star this frame", "S", deeds.star, starred)}
      <button
        type="button"
        disabled={dead || (!gaze.side && look.siblings(gaze).length === 0)}
        aria-pressed={gaze.side !== null}
        data-do="beside"
        title="Compare (C)"
        aria-label="Compare"
        onClick={() => {
          if (gaze.side) room.leaveSide();
          else room.compare();
        }}
      >
        <Icon name="beside" />
        <span>Compare</span>
        <kbd>C</kbd>
      </button>
    </div>
  );
}
