/** The tree: a lane for every branch, from left to right in time, which fills while its frames come in. */
import { useEffect, useRef } from "react";
import { pictureUrl } from "../../story/api";
import * as look from "../../story/gaze";
import { isRunning } from "../../story/model";
import { pressedIn } from "../../story/order";
import type { Room, View } from "../../story/room";
import type { Lane } from "../../story/tree";
import { Icon } from "../Icon";
import { useWidth } from "./pictures";
import type { Deeds } from "./deeds";

const ROW = 42;
const HIGH = 32;
const RULER = 22;
const LABEL = 210;
const WIDEST = 26;
const NARROWEST = 2;
const PICTURE = 44;

const NAMES = { given: "Real", edited: "Edit", dreamed: "Played" } as const;

export function Lanes({ room, view, deeds }: { room: Room; view: View; deeds: Deeds }) {
  const [measure, width] = useWidth();
  const scroller = useRef<HTMLDivElement>(null);
  const { gaze } = view;
  const { tree } = gaze;
  const label = Math.min(LABEL, width * 0.45);
  const per = Math.max(NARROWEST, Math.min(WIDEST, (width - label) / Math.max(1, tree.length)));
  const id = look.chosen(gaze);
  const row = id === null ? 0 : (tree.laneOf(id)?.row ?? 0);
  useEffect(() => {
    const [top, bottom] = [row * ROW, RULER + (row + 1) * ROW];
    const box = scroller.current;
    if (box && top < box.scrollTop) box.scrollTop = top;
    else if (box && bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }, [row]);
  const held = useRef<Lane | null>(null);
  const point = (event: React.PointerEvent<HTMLElement>, lane: Lane | undefined): void => {
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
        <Running view={view} deeds={deeds} />
      </header>
      <div ref={scroller} className="lanes-scroll">
        <div
          ref={measure}
          className="lanes-field"
          style={{ height: RULER + tree.lanes.length * ROW, minWidth: tree.length * per + label }}
          onPointerDown={(event) => {
            if (event.button !== 0 || (event.target as Element).closest("button, label")) return;
            const box = event.currentTarget.getBoundingClientRect();
            held.current = tree.lanes[Math.floor((event.clientY - box.top - RULER) / ROW)] ?? null;
            event.currentTarget.setPointerCapture(event.pointerId);
            point(event, held.current ?? undefined);
          }}
          onPointerMove={(event) => {
            const lane = held.current ? tree.lanes[held.current.row] : undefined;
            if (lane && event.currentTarget.hasPointerCapture(event.pointerId)) point(event, lane);
          }}
          onPointerUp={() => {
            held.current = null;
          }}
        >
          {width > 0 ? (
            <>
              <Ruler length={tree.length} per={per} />
              <Connections lanes={tree.lanes} per={per} on={new Set(gaze.way)} />
              <ul aria-label="Branches">
                {tree.lanes.map((lane) => (
                  <LaneRow key={lane.nodes[0] ?? `b${lane.branch?.id}`} {...{ room, view, lane, per, deeds, id }} />
                ))}
              </ul>
            </>
          ) : null}
        </div>
      </div>
    </section>
  );
}

interface RowProps {
  room: Room;
  view: View;
  lane: Lane;
  per: number;
  deeds: Deeds;
  /** The chosen frame. */
  id: number | null;
}

function LaneRow({ room, view, lane, per, deeds, id }: RowProps) {
  const { gaze } = view;
  const { branch, nodes, coming, start, row } = lane;
  const onWay = nodes.filter((node) => gaze.way.includes(node)).length;
  const at = id === null ? -1 : nodes.indexOf(id);
  const who = branch?.presses ?? (lane.origin === "edited" ? "player" : undefined);
  const full = (nodes.length + coming) * per;
  return (
    <li
      className="lane"
      data-origin={lane.origin}
      data-who={who}
      data-on={onWay > 0}
      data-state={branch?.state}
      data-branch={branch?.id}
      style={{ top: RULER + row * ROW, left: start * per }}
    >
      <button
        type="button"
        className="hidden"
        onClick={() => {
          const node = nodes[0];
          if (node !== undefined) room.choose(node);
        }}
      >
        {describe(view, lane)}
      </button>
      <div className="lane-bar" style={{ width: Math.max(full, 6), height: HIGH }}>
        <Pictures view={view} lane={lane} per={per} />
        {coming > 0 ? <i className="coming" style={{ left: nodes.length * per, width: coming * per }} /> : null}
        {onWay > 0 ? <i className="on-way" style={{ width: onWay * per }} /> : null}
        {nodes.map((node, place) => (
          <Tick key={node} view={view} node={node} x={(place + 0.5) * per} />
        ))}
        {at >= 0 && !gaze.side ? (
          <i className="playhead" style={{ left: (at + 0.5) * per, width: Math.max(3, per) }} />
        ) : null}
      </div>
      <Label room={room} view={view} lane={lane} deeds={deeds} />
    </li>
  );
}

function Pictures({ view, lane, per }: { view: View; lane: Lane; per: number }) {
  const every = Math.max(1, Math.ceil(PICTURE / per));
  return lane.nodes.map((node, place) =>
    place % every === 0 ? (
      <img
        key={node}
        src={pictureUrl(view.id, node)}
        alt=""
        loading="lazy"
        draggable={false}
        style={{ left: place * per, width: Math.min(every, lane.nodes.length - place) * per }}
      />
    ) : null,
  );
}

function Tick({ view, node, x }: { view: View; node: number; x: number }) {
  const known = view.gaze.tree.nodes.get(node);
  if (!known || (!known.starred && !known.note)) return null;
  return (
    <span className="marks" style={{ left: x }} title={known.note || undefined}>
      {known.starred ? <Icon name="star" /> : <i className="noted" />}
    </span>
  );
}

function Label({ room, view, lane, deeds }: Omit<RowProps, "per" | "id">) {
  const { branch } = lane;
  const side = view.gaze.side;
  const name = branch ? `${branch.id + 1}` : NAMES[lane.origin];
  return (
    <div className="lane-label">
      {side && branch ? (
        <label title="Side by side">
          <input
            type="checkbox"
            aria-label={`Branch ${branch.id + 1} side by side`}
            checked={side.branches.includes(branch.id)}
            onChange={() => {
              room.toggleBeside(branch.id);
            }}
          />
        </label>
      ) : null}
      <b>{name}</b>
      <span className="name" title={branch?.problem ?? describe(view, lane)}>
        {wordsOf(view, lane)}
      </span>
      {branch && isRunning(branch) ? (
        <button
          type="button"
          aria-label={`Stop branch ${branch.id + 1}`}
          title="Stop (X); what is there stays"
          onClick={() => {
            deeds.cancel([branch.id]);
          }}
        >
          <Icon name="close" />
        </button>
      ) : null}
    </div>
  );
}

function wordsOf(view: View, { branch, nodes, origin }: Lane): string {
  if (!branch) return origin === "edited" ? `${nodes.length} ${nodes.length === 1 ? "frame" : "frames"}` : "";
  if (branch.state === "waiting") return "waits for its turn";
  if (branch.state === "dreaming") return `${branch.made} of ${branch.frames}`;
  if (branch.state === "failed") return "failed";
  const pressed = branch.presses === "model" ? "model" : pressedBy(view, nodes);
  return branch.state === "cancelled" ? `${pressed}, stopped` : pressed;
}

const pressedBy = (view: View, nodes: readonly number[]): string =>
  pressedIn(nodes.flatMap((node) => view.gaze.tree.nodes.get(node) ?? []));

/** A lane in a sentence, for who cannot see it. */
function describe(view: View, lane: Lane): string {
  const { branch, nodes, origin } = lane;
  const from = lane.from === null ? "" : `, from frame ${view.gaze.tree.depth(lane.from) + 1}`;
  if (!branch) return `${NAMES[origin]}: ${nodes.length} frames${from}`;
  const who = branch.presses === "model" ? "the model presses" : pressedBy(view, nodes) || "you press";
  const much = isRunning(branch) ? `${branch.made} of ${branch.frames} frames so far` : `${nodes.length} frames`;
  return `Branch ${branch.id + 1}: ${who}, ${much}${from}, seed ${branch.seed}`;
}

function Running({ view, deeds }: { view: View; deeds: Deeds }) {
  const running = [...view.gaze.tree.branches.values()].filter(isRunning);
  if (!running.length) return null;
  const [made, frames] = [running.reduce((sum, b) => sum + b.made, 0), running.reduce((sum, b) => sum + b.frames, 0)];
  return (
    <p className="running" role="status" aria-live="off">
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
