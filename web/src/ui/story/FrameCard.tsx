/** The chosen frame: where it comes from, its star and note, a picture onto it, and its removal. */
import { type RefObject, useRef, useState } from "react";
import { inWords } from "../../play/weave";
import type { StoryNode } from "../../story/model";
import type { Room, View } from "../../story/room";
import { Icon } from "../Icon";
import type { Placement } from "./placement";
import { type Deeds, shownNode } from "./deeds";

interface Props {
  room: Room;
  view: View;
  note: RefObject<HTMLInputElement | null>;
  placement: Placement;
  deeds: Deeds;
}

export function FrameCard({ room, view, note, placement, deeds }: Props) {
  const id = shownNode(view);
  const node = id === null ? undefined : view.gaze.tree.nodes.get(id);
  const file = useRef<HTMLInputElement>(null);
  if (!node) return null;
  return (
    <section className="frame-card" aria-labelledby="this-frame">
      <h2 id="this-frame">Frame {view.gaze.tree.depth(node.id) + 1}</h2>
      <p className="origin">{originOf(view, node)}</p>
      <Note key={node.id} room={room} node={node} field={note} />
      <div className="buttons wrap">
        <button type="button" onClick={() => file.current?.click()} data-do="paste" disabled={view.gaze.side !== null}>
          <Icon name="picture" />
          <span>Put a picture on it</span>
        </button>
        <button
          type="button"
          onClick={deeds.remove}
          data-do="remove"
          disabled={node.parent === null && node.origin === "given"}
        >
          <Icon name="trash" />
          <span>Remove</span>
        </button>
      </div>
      <p className="hint">Or paste a picture (Ctrl+V), or drop one here. Transparent PNGs are best.</p>
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

function originOf({ gaze }: View, node: StoryNode): string {
  const branch = node.branch === null ? undefined : gaze.tree.branches.get(node.branch);
  const pressed = node.action
    ? `${node.pressed === "model" ? "The model pressed" : "Pressed"}: ${inWords(node.action)}.`
    : "";
  if (node.origin === "given") return `A frame that was given. ${pressed}`;
  if (node.origin === "edited") return `Edited by you. ${pressed}`;
  return `Dreamed${branch ? `, branch ${branch.id + 1}, seed ${branch.seed}` : ""}. ${pressed}`;
}

function Note({ room, node, field }: { room: Room; node: StoryNode; field: RefObject<HTMLInputElement | null> }) {
  const [draft, setDraft] = useState<string | null>(null);
  const settle = (): void => {
    if (draft !== null && draft !== node.note) void room.mark(node.id, { note: draft });
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
