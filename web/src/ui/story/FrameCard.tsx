/** The chosen frame: where it comes from, its star and note, a picture onto it, and its removal. */
import { type RefObject, useRef, useState } from "react";
import { inWords } from "../../play/timeline";
import type { StoryNode } from "../../story/model";
import type { StoryController, View } from "../../story/controller";
import { Icon } from "../Icon";
import type { Placement } from "./placement";
import { type Commands, shownNode } from "./commands";

interface Props {
  controller: StoryController;
  view: View;
  note: RefObject<HTMLInputElement | null>;
  placement: Placement;
  commands: Commands;
}

export function FrameCard({ controller, view, note, placement, commands }: Props) {
  const id = shownNode(view);
  const node = id === null ? undefined : view.state.tree.nodes.get(id);
  const file = useRef<HTMLInputElement>(null);
  if (!node) return null;
  return (
    <section className="frame-card" aria-labelledby="this-frame">
      <h2 id="this-frame">Frame {view.state.tree.depth(node.id) + 1}</h2>
      <p className="origin">{originOf(view, node)}</p>
      <Note key={node.id} controller={controller} node={node} field={note} />
      <div className="buttons wrap">
        <button type="button" onClick={() => file.current?.click()} data-do="paste" disabled={view.state.side !== null}>
          <Icon name="picture" />
          <span>Add a picture</span>
        </button>
        <button
          type="button"
          onClick={commands.remove}
          data-do="remove"
          disabled={node.parent === null && node.origin === "given"}
        >
          <Icon name="trash" />
          <span>Remove</span>
        </button>
      </div>
      <p className="hint">Or paste (Ctrl+V) or drop a picture here. Transparent PNGs work best.</p>
      <input
        ref={file}
        type="file"
        accept="image/*"
        hidden
        aria-label="Picture to put onto the frame"
        onChange={(event) => {
          const picked = event.target.files?.[0];
          if (picked) placement.take(picked);
          event.target.value = "";
        }}
      />
    </section>
  );
}

function originOf({ state }: View, node: StoryNode): string {
  const branch = node.branch === null ? undefined : state.tree.branches.get(node.branch);
  const pressed = node.action
    ? `${node.actionSource === "model" ? "Model input" : "Input"}: ${inWords(node.action)}.`
    : "";
  if (node.origin === "given") return `Starting frame. ${pressed}`;
  if (node.origin === "edited") return `Edited by you. ${pressed}`;
  return `Dreamed${branch ? `, branch ${branch.id + 1}, seed ${branch.seed}` : ""}. ${pressed}`;
}

function Note({
  controller,
  node,
  field,
}: {
  controller: StoryController;
  node: StoryNode;
  field: RefObject<HTMLInputElement | null>;
}) {
  const [draft, setDraft] = useState<string | null>(null);
  const settle = (): void => {
    if (draft !== null && draft !== node.note) void controller.mark(node.id, { note: draft });
    setDraft(null);
  };
  return (
    <input
      ref={field}
      className="note"
      aria-label="Note on this frame"
      placeholder="Note (N)"
      maxLength={500}
      value={draft ?? node.note}
      onChange={(event) => {
        setDraft(event.target.value);
      }}
      onBlur={settle}
      onKeyDown={(event) => {
        if (event.key === "Escape") setDraft(null);
        if (event.key === "Enter" || event.key === "Escape") event.currentTarget.blur();
      }}
    />
  );
}
