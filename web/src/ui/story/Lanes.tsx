/** The tree: a lane for every branch, from left to right in time, which fills while its frames come in. */
import { useEffect, useRef } from "react";
import * as look from "../../story/gaze";
import { isRunning } from "../../story/model";
import type { Room, View } from "../../story/room";
import type { Lane } from "../../story/tree";
import { Icon } from "../Icon";
import { HIGH, LaneRow, ROW, RULER } from "./LaneRow";
import { useWidth } from "./pictures";
import { scrubbing } from "./scrub";
import type { Deeds } from "./deeds";

const LABEL = 210;
const WIDEST = 26;
const NARROWEST = 2;

export function Lanes({ room, view, deeds }: { room: Room; view: View; deeds: Deeds }) {
  const [measure, width] = useWidth();
  const scroller = useRef<HTMLDivElement>(null);
  const { gaze } = view;
  const { tree } = gaze;
  const label = Math.min(LABEL, width * 0.45);
  const per = Math.max(NARROWEST, Math.min(WIDEST, (width - label) / Math.max(1, tree.length)));
  const on = new Set(gaze.way);
  const id = look.chosen(gaze);
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
    if (gaze.side) room.leaveSide();
    room.choose(node);
  };
  return (
    <section className="lanes" aria-labelledby="lanes">
      <header>
        <h2 id="lanes">The tree</h2>
        <p className="legend">
          <i className="given" /> real <i className="person" /> you press <i className="model" /> the model presses
        </p>
        <Stars room={room} view={view} />
        <Running view={view} deeds={deeds} />
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
                    room={room}
                    story={view.id}
                    tree={tree}
                    lane={lane}
                    per={per}
                    used={lane.nodes.filter((node) => on.has(node)).length}
                    at={gaze.side || id === null ? -1 : lane.nodes.indexOf(id)}
                    beside={gaze.side ? gaze.side.branches.includes(lane.branch?.id ?? -1) : null}
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

function Stars({ room, view }: { room: Room; view: View }) {
  const count = look.starred(view.gaze).length;
  if (!count) return null;
  return (
    <button
      type="button"
      className="stars"
      title="Go to the next star (G)"
      onClick={() => {
        room.nextStar();
      }}
    >
      <Icon name="star" /> {count}
      <span className="hidden"> starred: go to the next</span> <kbd>G</kbd>
    </button>
  );
}

/** For who cannot see the lanes fill: changes when a branch begins or ends, not with every frame. */
function spoken({ gaze }: View): string {
  const branches = [...gaze.tree.branches.values()];
  const running = branches.filter(isRunning).length;
  if (running) return running === 1 ? "One branch is being dreamed." : `${running} branches are being dreamed.`;
  return branches.length ? "Every branch has ended." : "";
}

function Running({ view, deeds }: { view: View; deeds: Deeds }) {
  const running = [...view.gaze.tree.branches.values()].filter(isRunning);
  if (!running.length) return null;
  const [made, frames] = [running.reduce((sum, b) => sum + b.made, 0), running.reduce((sum, b) => sum + b.frames, 0)];
  return (
    <p className="running">
      {running.length === 1 ? "1 branch" : `${running.length} branches`}, {made} of {frames} frames
      <button
        type="button"
        data-do="stop"
        onClick={() => {
          deeds.cancel(running.map(({ id }) => id));
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
