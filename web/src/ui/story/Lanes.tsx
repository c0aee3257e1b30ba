/** The tree: a lane for every branch, from left to right in time, which fills while its frames come in. */
import { useEffect, useRef } from "react";
import * as look from "../../story/selection";
import { isRunning } from "../../story/model";
import type { StoryController, View } from "../../story/controller";
import type { Lane } from "../../story/tree";
import { Icon } from "../Icon";
import { HIGH, LaneRow, ROW, RULER } from "./LaneRow";
import { useWidth } from "./pictures";
import { scrubbing } from "./scrub";
import type { Commands } from "./commands";

const LABEL = 210;
const WIDEST = 26;
const NARROWEST = 2;

export function Lanes({ controller, view, commands }: { controller: StoryController; view: View; commands: Commands }) {
  const [measure, width] = useWidth();
  const scroller = useRef<HTMLDivElement>(null);
  const { state } = view;
  const { tree } = state;
  const label = Math.min(LABEL, width * 0.45);
  const per = Math.max(NARROWEST, Math.min(WIDEST, (width - label) / Math.max(1, tree.length)));
  const on = new Set(state.way);
  const id = look.chosen(state);
  const row = id === null ? 0 : (tree.laneOf(id)?.row ?? 0);
  useEffect(() => {
    const [top, bottom] = [row * ROW, RULER + (row + 1) * ROW];
    const box = scroller.current;
    if (box && top < box.scrollTop) box.scrollTop = top;
    else if (box && bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }, [row]);
  const begin = (event: React.PointerEvent<HTMLElement>): boolean => {
    if ((event.target as Element).closest("button, label")) return false;
    const box = event.currentTarget.getBoundingClientRect();
    const touched = Math.floor((event.clientY - box.top - RULER) / ROW);
    event.currentTarget.dataset.row = String(touched); // a drag stays in the lane in which it began
    return tree.lanes[touched] !== undefined;
  };
  const point = (event: React.PointerEvent<HTMLElement>): void => {
    const lane = tree.lanes[Number(event.currentTarget.dataset.row)];
    const box = event.currentTarget.getBoundingClientRect();
    const place = Math.floor((event.clientX - box.left) / per) - (lane?.start ?? 0);
    const node = lane?.nodes[Math.max(0, Math.min(lane.nodes.length - 1, place))];
    if (node === undefined) return;
    if (state.side) controller.leaveSide();
    controller.choose(node);
  };
  return (
    <section className="lanes" aria-labelledby="lanes">
      <header>
        <h2 id="lanes">The tree</h2>
        <p className="legend">
          <i className="given" /> real <i className="person" /> your inputs <i className="model" /> model inputs
        </p>
        <Stars controller={controller} view={view} />
        <Running view={view} commands={commands} />
        <p className="hidden" role="status">
          {spoken(view)}
        </p>
      </header>
      <div ref={scroller} className="lanes-scroll">
        <div
          ref={measure}
          className="lanes-field"
          style={{ height: RULER + tree.lanes.length * ROW, minWidth: tree.length * per + label }}
          {...scrubbing(point, begin)}
        >
          {width > 0 ? (
            <>
              <Ruler length={tree.length} per={per} />
              <Connections lanes={tree.lanes} per={per} on={on} />
              <ul aria-label="Branches">
                {tree.lanes.map((lane) => (
                  <LaneRow
                    key={lane.branch ? `b${lane.branch.id}` : lane.nodes[0]}
                    controller={controller}
                    story={view.id}
                    tree={tree}
                    lane={lane}
                    per={per}
                    used={lane.nodes.filter((node) => on.has(node)).length}
                    at={state.side || id === null ? -1 : lane.nodes.indexOf(id)}
                    beside={state.side ? state.side.branches.includes(lane.branch?.id ?? -1) : null}
                  />
                ))}
              </ul>
            </>
          ) : null}
        </div>
      </div>
    </section>
  );
}

function Stars({ controller, view }: { controller: StoryController; view: View }) {
  const count = look.starred(view.state).length;
  if (!count) return null;
  return (
    <button
      type="button"
      className="stars"
      title="Go to the next star (G)"
      onClick={() => {
        controller.nextStar();
      }}
    >
      <Icon name="star" /> {count}
      <span className="hidden"> starred: go to the next</span> <kbd>G</kbd>
    </button>
  );
}

/** For who cannot see the lanes fill: changes when a branch begins or ends, not with every frame. */
function spoken({ state }: View): string {
  const branches = [...state.tree.branches.values()];
  const running = branches.filter(isRunning).length;
  if (running) return running === 1 ? "One branch is being generated." : `${running} branches are being generated.`;
  return branches.length ? "All branches are finished." : "";
}

function Running({ view, commands }: { view: View; commands: Commands }) {
  const running = [...view.state.tree.branches.values()].filter(isRunning);
  if (!running.length) return null;
  const [made, frames] = [
    running.reduce((sum, b) => sum + b.framesDone, 0),
    running.reduce((sum, b) => sum + b.frames, 0),
  ];
  return (
    <p className="running">
      {running.length === 1 ? "1 branch" : `${running.length} branches`}, {made} of {frames} frames
      <button
        type="button"
        data-do="stop"
        onClick={() => {
          commands.cancel(running.map(({ id }) => id));
        }}
      >
        Stop <kbd>X</kbd>
      </button>
    </p>
  );
}

function Ruler({ length, per }: { length: number; per: number }) {
  const each = [10, 20, 50, 100, 200].find((frames) => frames * per >= 46) ?? 500;
  return (
    <div className="ruler" aria-hidden="true">
      {Array.from({ length: Math.floor(length / each) + 1 }, (_, index) => (
        <span key={index} style={{ left: index * each * per }}>
          {(index * each) / 10} s
        </span>
      ))}
    </div>
  );
}

function Connections({ lanes, per, on }: { lanes: readonly Lane[]; per: number; on: ReadonlySet<number> }) {
  return (
    <svg className="connections" aria-hidden="true">
      {lanes.map(({ row, fromRow, start, nodes, branch }) => {
        if (fromRow === null) return null;
        const [x, y] = [start * per, RULER + row * ROW + HIGH / 2];
        const [x0, y0] = [x - per / 2, RULER + fromRow * ROW + HIGH];
        return (
          <path
            key={nodes[0] ?? `b${branch?.id}`}
            data-on={on.has(nodes[0] ?? -1)}
            d={`M${x0} ${y0}V${y - 7}Q${x0} ${y} ${x0 + Math.min(7, per / 2)} ${y}H${x}`}
          />
        );
      })}
    </svg>
  );
}
