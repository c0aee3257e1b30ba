/** One lane of the tree: its pictures, what is still to come, its marks, and at its end what it is. */
import { memo } from "react";
import { pictureUrl } from "../../story/api";
import { isRunning } from "../../story/model";
import { pressedIn } from "../../story/order";
import type { StoryController } from "../../story/controller";
import type { Lane, Tree } from "../../story/tree";
import { Icon } from "../Icon";
import { Picture } from "../Picture";

/** Pixels from row to row, and of a bar. */
export const ROW = 42;
export const HIGH = 32;
/** Above the first row. */
export const RULER = 22;
const PICTURE = 44;
const NAMES = { given: "Real", edited: "Edit", dreamed: "Played" } as const;

interface Props {
  controller: StoryController;
  story: string;
  tree: Tree;
  lane: Lane;
  /** Pixels of a frame. */
  per: number;
  /** How many of its frames lie on the way that is looked at. */
  used: number;
  /** The place of the chosen frame in it; -1: it is in another lane. */
  at: number;
  /** Whether it is side by side with others; null: nothing is. */
  beside: boolean | null;
}

/** Drawn again only when something of it has changed, so that many lanes may stand still while one is played. */
export const LaneRow = memo(function LaneRow({ controller, story, tree, lane, per, used, at, beside }: Props) {
  const { branch, nodes, coming, start, row } = lane;
  const who = branch?.controlledBy ?? (lane.origin === "edited" ? "player" : undefined);
  const full = (nodes.length + coming) * per;
  return (
    <li
      className="lane"
      data-origin={lane.origin}
      data-controller={who}
      data-on={used > 0}
      data-state={branch?.state}
      data-branch={branch?.id}
      style={{ top: RULER + row * ROW, left: start * per }}
    >
      <button
        type="button"
        className="hidden"
        onClick={() => {
          const node = nodes[0];
          if (node !== undefined) controller.choose(node);
        }}
      >
        {describe(tree, lane)}
      </button>
      <div className="lane-bar" style={{ width: Math.max(full, 6), height: HIGH }}>
        <Pictures story={story} lane={lane} per={per} />
        {coming > 0 ? <i className="coming" style={{ left: nodes.length * per, width: coming * per }} /> : null}
        {used > 0 ? <i className="on-way" style={{ width: used * per }} /> : null}
        <Marks tree={tree} lane={lane} per={per} />
        {at >= 0 ? <i className="playhead" style={{ left: (at + 0.5) * per, width: Math.max(3, per) }} /> : null}
      </div>
      <Label controller={controller} tree={tree} lane={lane} beside={beside} />
    </li>
  );
});

function Pictures({ story, lane: { nodes }, per }: Pick<Props, "story" | "lane" | "per">) {
  const every = Math.max(1, Math.ceil(PICTURE / per));
  return nodes.map((node, place) =>
    place % every === 0 ? (
      <Picture
        key={node}
        src={pictureUrl(story, node)}
        alt=""
        loading="lazy"
        draggable={false}
        style={{ left: place * per, width: Math.min(every, nodes.length - place) * per }}
      />
    ) : null,
  );
}

function Marks({ tree, lane, per }: Pick<Props, "tree" | "lane" | "per">) {
  return lane.nodes.map((id, place) => {
    const node = tree.nodes.get(id);
    if (!node || (!node.starred && !node.note)) return null;
    return (
      <span key={id} className="marks" style={{ left: (place + 0.5) * per }} title={node.note || undefined}>
        {node.starred ? <Icon name="star" /> : <i className="noted" />}
      </span>
    );
  });
}

function Label({ controller, tree, lane, beside }: Pick<Props, "controller" | "tree" | "lane" | "beside">) {
  const { branch } = lane;
  return (
    <div className="lane-label">
      {beside !== null && branch ? (
        <label title="Side by side">
          <input
            type="checkbox"
            aria-label={`Branch ${branch.id + 1} side by side`}
            checked={beside}
            onChange={() => {
              controller.toggleBeside(branch.id);
            }}
          />
        </label>
      ) : null}
      <b>{branch ? branch.id + 1 : NAMES[lane.origin]}</b>
      <span className="name" title={branch?.error ?? describe(tree, lane)}>
        {wordsOf(tree, lane)}
      </span>
      {branch && isRunning(branch) ? (
        <button
          type="button"
          aria-label={`Stop branch ${branch.id + 1}`}
          title="Stop (X); finished frames stay"
          onClick={() => {
            void controller.cancel([branch.id]);
          }}
        >
          <Icon name="close" />
        </button>
      ) : null}
    </div>
  );
}

function wordsOf(tree: Tree, { branch, nodes, origin }: Lane): string {
  if (!branch) return origin === "edited" ? `${nodes.length} ${nodes.length === 1 ? "frame" : "frames"}` : "";
  if (branch.state === "waiting") return "queued";
  if (branch.state === "dreaming") return `${branch.framesDone} of ${branch.frames}`;
  if (branch.state === "failed") return "failed";
  const pressed = branch.controlledBy === "model" ? "model" : pressedBy(tree, nodes);
  return branch.state === "cancelled" ? `${pressed}, stopped` : pressed;
}

const pressedBy = (tree: Tree, nodes: readonly number[]): string =>
  pressedIn(nodes.flatMap((node) => tree.nodes.get(node) ?? []));

/** A lane in a sentence, for who cannot see it. */
function describe(tree: Tree, lane: Lane): string {
  const { branch, nodes, origin } = lane;
  const from = lane.from === null ? "" : `, from frame ${tree.depth(lane.from) + 1}`;
  if (!branch) return `${NAMES[origin]}: ${nodes.length} frames${from}`;
  const who = branch.controlledBy === "model" ? "model inputs" : pressedBy(tree, nodes) || "your inputs";
  const much = isRunning(branch) ? `${branch.framesDone} of ${branch.frames} frames so far` : `${nodes.length} frames`;
  return `Branch ${branch.id + 1}: ${who}, ${much}${from}, seed ${branch.seed}`;
}
