/** Under the picture: play, frame by frame, loop, side by side, mark. */
import * as look from "../../story/selection";
import { seconds } from "../../story/order";
import type { StoryController, View } from "../../story/controller";
import { Icon, type IconName } from "../Icon";
import { type Commands, shownNode } from "./commands";

export function StoryTransport({
  controller,
  view,
  commands,
}: {
  controller: StoryController;
  view: View;
  commands: Commands;
}) {
  const { state, playing, loop } = view;
  const dead = view.line.kind !== "open" || state.way.length === 0;
  const node = shownNode(view);
  const starred = node !== null && state.tree.nodes.get(node)?.starred === true;
  const [at, last] = [look.placeOf(state), look.lastPlace(state)];
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
        "Previous frame",
        "←",
        () => {
          controller.step(-1);
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
          controller.togglePlay();
        }}
      >
        <Icon name={playing ? "pause" : "play"} />
        <span>{playing ? "Pause" : "Play"}</span>
        <kbd>Space</kbd>
      </button>
      {button(
        "step",
        "Next frame",
        "→",
        () => {
          controller.step(1);
        },
        undefined,
        at >= last,
      )}
      {button(
        "loop",
        "Loop",
        "L",
        () => {
          controller.toggleLoop();
        },
        loop,
      )}
      <p className="place">
        <b>{state.side ? `+${at}` : at + 1}</b> of {state.side ? last : last + 1} · {seconds(at)}
      </p>
      {button("star", starred ? "Remove the star" : "Star this frame", "S", commands.star, starred)}
      <button
        type="button"
        disabled={dead || (!state.side && look.siblings(state).length === 0)}
        aria-pressed={state.side !== null}
        data-do="beside"
        title="Compare (C)"
        aria-label="Compare"
        onClick={() => {
          if (state.side) controller.leaveSide();
          else controller.compare();
        }}
      >
        <Icon name="beside" />
        <span>Compare</span>
        <kbd>C</kbd>
      </button>
    </div>
  );
}
