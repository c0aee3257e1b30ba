/** The big picture: the chosen frame with what is being laid onto it, or several branches side by side. */
import { type RefObject, useEffect, useState } from "react";
import { pictureUrl } from "../../story/api";
import * as look from "../../story/selection";
import { gridOf } from "../../story/grid";
import { inWords } from "../../play/timeline";
import { type Branch, isRunning, type StoryNode, actionSourceOf } from "../../story/model";
import { pressedIn } from "../../story/order";
import type { StoryController, StoryLine, View } from "../../story/controller";
import { Icon } from "../Icon";
import { Picture } from "../Picture";
import { Lock } from "../Lobby";
import { Countdown } from "../Stage";
import { PlacedPicture } from "./PlacedPicture";
import type { Placement } from "./placement";
import { useAhead, useTall, useWidth } from "./pictures";

interface Props {
  controller: StoryController;
  view: View;
  stage: RefObject<HTMLDivElement | null>;
  placement: Placement;
  onKey: (key: string) => void;
  onLeave: () => void;
}

export function StoryStage({ controller, view, stage, placement, onKey, onLeave }: Props) {
  const { state } = view;
  const id = look.chosen(state);
  useAhead(view);
  return (
    <div
      ref={stage}
      className="stage story-stage"
      tabIndex={0}
      role="group"
      aria-label="The story. Arrow keys go through its frames and branches; ? lists all keys."
      data-node={id ?? undefined}
      data-side={state.side ? state.side.branches.length : undefined}
      style={{ aspectRatio: `${view.width} / ${view.height}` }}
    >
      {state.side ? <Beside controller={controller} view={view} /> : null}
      {!state.side && id !== null ? (
        <>
          <Picture
            className="frame"
            src={pictureUrl(view.id, id)}
            alt={altOf(view, id)}
            draggable={false}
            fetchPriority="high"
          />
          <PlacedPicture placement={placement} view={view} />
        </>
      ) : null}
      <Curtain line={view.line} controller={controller} onKey={onKey} onLeave={onLeave} />
    </div>
  );
}

const ORIGINS = { given: "real", dreamed: "dreamed", edited: "edited" } as const;

function altOf({ state }: View, id: number): string {
  const origin = state.tree.nodes.get(id)?.origin;
  return `Frame ${state.tree.depth(id) + 1}, ${origin ? ORIGINS[origin] : ""}`;
}

const ROOM_BELOW = 490;
/** Of a tall window, so that the tree grows too. */
const SHARE = 0.56;
const NO_LIMIT = 100_000;

function Beside({ controller, view }: { controller: StoryController; view: View }) {
  const { state } = view;
  const { side, tree } = state;
  const [measure, width] = useWidth();
  const narrow = width < 700;
  const tall = useTall();
  if (!side) return null;
  const height = narrow ? NO_LIMIT : Math.min(tall - ROOM_BELOW, SHARE * tall);
  const grid = gridOf(side.branches.length, view.width / view.height, { width, height, gap: 10, caption: 34 });
  const columns = narrow ? Math.min(2, side.branches.length) : grid.columns;
  return (
    <ul
      ref={measure}
      className="beside"
      aria-label="Branches side by side"
      style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, ${narrow ? "1fr" : `${grid.width}px`}))` }}
    >
      {side.branches.map((id, place) => {
        const branch = tree.branches.get(id);
        const node = look.shownOf(state, id);
        if (!branch || node === null) return null;
        return (
          <li key={id} data-branch={id} data-picked={place === side.pick}>
            <button
              type="button"
              aria-pressed={place === side.pick}
              aria-label={nameOf(view, branch)}
              onClick={() => {
                controller.pick(place);
              }}
              onDoubleClick={() => {
                controller.keepPicked();
              }}
            >
              <Picture
                src={pictureUrl(view.id, node)}
                alt=""
                draggable={false}
                style={{ aspectRatio: `${view.width} / ${view.height}` }}
              />
              <kbd>{place + 1}</kbd>
              {tree.nodes.get(node)?.starred ? <Icon name="star" /> : null}
            </button>
            <p>
              <b>{branch.id + 1}</b>
              <Pressed node={tree.nodes.get(node)} />
              <State branch={branch} />
              <button
                type="button"
                title="Show only this branch (Enter)"
                data-do="keep"
                onClick={() => {
                  controller.pick(place);
                  controller.keepPicked();
                }}
              >
                Open
              </button>
            </p>
          </li>
        );
      })}
    </ul>
  );
}

/** What led to a frame, in the colour of who pressed it. */
function Pressed({ node }: { node: StoryNode | undefined }) {
  if (!node?.action) return <span className="name" />;
  return (
    <span className="name" data-controller={actionSourceOf(node)}>
      {inWords(node.action)}
    </span>
  );
}

function State({ branch }: { branch: Branch }) {
  if (!isRunning(branch)) return branch.state === "done" ? null : <small>{branch.state}</small>;
  return (
    <small>
      {branch.framesDone}/{branch.frames}
    </small>
  );
}

/** "Branch 3: turn right". */
export function nameOf({ state }: View, branch: Branch): string {
  const lane = state.tree.laneOfBranch(branch.id);
  const nodes = (lane?.nodes ?? []).flatMap((id) => state.tree.nodes.get(id) ?? []);
  const pressed = branch.controlledBy === "model" ? "model inputs" : pressedIn(nodes);
  return pressed ? `Branch ${branch.id + 1}: ${pressed}` : `Branch ${branch.id + 1}`;
}

interface CurtainProps {
  line: StoryLine;
  controller: StoryController;
  onKey: (key: string) => void;
  onLeave: () => void;
}

function Curtain({ line, controller, onKey, onLeave }: CurtainProps) {
  const patient = useLater(line.kind === "opening", 400);
  if (line.kind === "open" || (line.kind === "opening" && !patient)) return null;
  if (line.kind === "locked") {
    return (
      <div className="curtain" data-line="refused">
        <Lock wrong={line.wrong} onKey={onKey} />
      </div>
    );
  }
  return (
    <div className="curtain" data-line={line.kind}>
      <p role="status">{line.kind === "opening" ? "Opening the story…" : line.reason}</p>
      {line.kind === "lost" ? <Countdown until={line.until} /> : null}
      {line.kind === "opening" ? <span className="thread" aria-hidden="true" /> : null}
      {line.kind === "lost" ? (
        <button
          type="button"
          className="strong"
          onClick={() => {
            controller.tryNow();
          }}
        >
          Try now
        </button>
      ) : null}
      {line.kind === "gone" ? (
        <button type="button" className="strong" onClick={onLeave}>
          To the stories
        </button>
      ) : null}
    </div>
  );
}

/** Whether something has been so for this long. */
function useLater(so: boolean, milliseconds: number): boolean {
  const [long, setLong] = useState(false);
  useEffect(() => {
    if (!so) return undefined;
    const timer = setTimeout(() => {
      setLong(true);
    }, milliseconds);
    return () => {
      clearTimeout(timer);
      setLong(false);
    };
  }, [so, milliseconds]);
  return so && long;
}
