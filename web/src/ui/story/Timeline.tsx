/** The way to the chosen frame as a film strip: drag along it to scrub; under it, what was pressed for every frame. */
import { useEffect, useRef } from "react";
import { rowsOf } from "../../play/timeline";
import { pictureUrl } from "../../story/api";
import * as look from "../../story/selection";
import { type StoryNode, actionSourceOf } from "../../story/model";
import { seconds } from "../../story/order";
import type { StoryController, View } from "../../story/controller";
import { inWords } from "../../play/timeline";
import { Icon } from "../Icon";
import { Picture } from "../Picture";
import { useWidth } from "./pictures";
import { scrubbing } from "./scrub";

const HEIGHT = 54;
const NARROWEST = 46;
const ROWS = ["walk", "look", "press"] as const;
const BAND = 21;
const WHO = { player: "You", model: "Model", real: "Recorded" } as const;

interface Strip {
  ids: readonly number[];
  at: number;
  coming: number;
}

/** What the strip shows: the way, or of branches side by side the picked one from where it left. */
function stripOf({ state }: View): Strip {
  const { side, tree, way, at } = state;
  if (!side) return { ids: way, at, coming: tree.laneOf(way.at(-1) ?? -1)?.coming ?? 0 };
  const branch = tree.branches.get(side.branches[side.pick] ?? -1);
  const lane = branch ? tree.laneOfBranch(branch.id) : null;
  return { ids: branch ? [branch.from, ...(lane?.nodes ?? [])] : [], at: side.at, coming: lane?.coming ?? 0 };
}

export function Timeline({ controller, view }: { controller: StoryController; view: View }) {
  const [measure, width] = useWidth();
  const { ids, at, coming } = stripOf(view);
  const { tree } = view.state;
  const total = Math.max(1, look.lastPlace(view.state) + 1, ids.length + coming);
  const per = Math.min((HEIGHT * view.width) / view.height, width / total);
  const every = Math.max(1, Math.ceil(NARROWEST / Math.max(per, 0.01)));
  const nodes = ids.flatMap((id) => tree.nodes.get(id) ?? []);
  const shown = nodes[Math.min(at, nodes.length - 1)];
  const scrub = (event: React.PointerEvent<HTMLElement>): void => {
    const box = event.currentTarget.getBoundingClientRect();
    controller.goTo(Math.max(0, Math.floor((event.clientX - box.left) / per)));
  };
  return (
    <div
      ref={measure}
      className="film"
      role="slider"
      tabIndex={0}
      aria-label="Frames of this way"
      aria-valuemin={1}
      aria-valuemax={Math.max(1, ids.length)}
      aria-valuenow={at + 1}
      aria-valuetext={shown ? `${at + 1}, ${seconds(at)}, ${shown.origin}` : undefined}
      {...scrubbing(scrub)}
    >
      {width > 0 ? (
        <>
          <div className="film-pictures" style={{ width: total * per }}>
            {nodes.map((node, place) =>
              place % every === 0 ? (
                <Picture
                  key={node.id}
                  src={pictureUrl(view.id, node.id)}
                  alt=""
                  draggable={false}
                  style={{ left: place * per, width: Math.min(every, nodes.length - place) * per }}
                />
              ) : null,
            )}
            {coming > 0 ? (
              <i className="coming" style={{ left: nodes.length * per, width: coming * per }} aria-hidden="true" />
            ) : null}
            {nodes.map((node, place) => (
              <Marks key={node.id} node={node} x={(place + 0.5) * per} />
            ))}
          </div>
          <Threads nodes={nodes} per={per} width={width} />
          <i className="playhead" style={{ left: (at + 0.5) * per, width: Math.max(3, per) }} aria-hidden="true" />
        </>
      ) : null}
      <p className="film-words">{shown ? wordsOf(shown) : null}</p>
    </div>
  );
}

/** Who pressed what for this frame. */
function wordsOf(node: StoryNode) {
  if (!node.action) return <>The start</>;
  const who = actionSourceOf(node);
  return (
    <>
      <b data-controller={who}>{WHO[who]}</b> {inWords(node.action)}
    </>
  );
}

function Marks({ node, x }: { node: StoryNode; x: number }) {
  if (!node.starred && !node.note && node.origin !== "edited") return null;
  return (
    <span className="marks" style={{ left: x }} title={node.note || undefined} aria-hidden="true">
      {node.starred ? <Icon name="star" /> : null}
      {node.origin === "edited" ? <i className="edited" /> : null}
      {node.note ? <i className="noted" /> : null}
    </span>
  );
}

/** One thread a frame, in three rows, in the colour of who pressed. */
function Threads({ nodes, per, width }: { nodes: readonly StoryNode[]; per: number; width: number }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const target = canvas.current;
    const context = target?.getContext("2d");
    if (!target || !context) return undefined;
    const draw = (): void => {
      const ratio = window.devicePixelRatio;
      target.width = Math.round(width * ratio);
      target.height = Math.round(BAND * ratio);
      context.scale(ratio, ratio);
      const style = getComputedStyle(target);
      const ink = (name: string): string => style.getPropertyValue(name).trim();
      const inks = { player: ink("--person"), model: ink("--model"), real: ink("--edge"), rest: ink("--rest") };
      nodes.forEach((node, place) => {
        if (!node.action) return;
        const strengths = rowsOf(node.action);
        ROWS.forEach((row, index) => {
          const [strength, full] = [strengths[row], BAND / ROWS.length - 1.5];
          context.fillStyle = strength > 0 ? inks[actionSourceOf(node)] : inks.rest;
          const high = Math.max(1, full * strength);
          context.fillRect(place * per, (index * BAND) / ROWS.length + (full - high) / 2, Math.max(1, per - 1), high);
        });
      });
    };
    draw();
    const theme = window.matchMedia("(prefers-color-scheme: light)");
    theme.addEventListener("change", draw);
    return () => {
      theme.removeEventListener("change", draw);
    };
  }, [nodes, per, width]);
  return <canvas ref={canvas} className="threads" aria-hidden="true" />;
}
