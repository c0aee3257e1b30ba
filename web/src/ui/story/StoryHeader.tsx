/** The story's name, the line to the server, what can be saved, and the way out. */
import { useEffect, useEffectEvent, useRef, useState } from "react";
import { fetchBlob, saveBlob } from "../../net/api";
import { allPath, type Export, exportPath, EXPORTS, framePath } from "../../story/api";
import type { StoryController, View } from "../../story/controller";
import { Icon, Wordmark } from "../Icon";
import { shownNode } from "./commands";

interface Props {
  controller: StoryController;
  view: View;
  apiKey: string | null;
  saving: boolean;
  onSaving: (open: boolean) => void;
  onNotice: (sentence: string) => void;
  onLeave: () => void;
}

const LIGHTS = { opening: "opening", open: "open", lost: "waiting", gone: "refused", locked: "refused" } as const;
const WORDS = {
  opening: "Opening",
  open: "Connected",
  lost: "Trying again",
  gone: "Not there",
  locked: "Locked",
} as const;

export function StoryHeader({ controller, view, apiKey, saving, onSaving, onNotice, onLeave }: Props) {
  return (
    <header>
      <Wordmark />
      <h1 className="hidden">Story: {view.name}</h1>
      {view.line.kind === "opening" ? (
        <span className="story-name" />
      ) : (
        <Name controller={controller} name={view.name} />
      )}
      <p className="light" data-line={LIGHTS[view.line.kind]}>
        <i aria-hidden="true" />
        {WORDS[view.line.kind]}
      </p>
      <SaveMenu view={view} apiKey={apiKey} open={saving} onOpen={onSaving} onNotice={onNotice} />
      <button type="button" onClick={onLeave}>
        <Icon name="leave" />
        <span>Leave</span>
      </button>
    </header>
  );
}

function Name({ controller, name }: { controller: StoryController; name: string }) {
  const [draft, setDraft] = useState<string | null>(null);
  const settle = (): void => {
    const wanted = draft?.trim();
    if (wanted && wanted !== name) void controller.rename(wanted);
    setDraft(null);
  };
  return (
    <input
      className="story-name"
      aria-label="Name of the story"
      maxLength={100}
      value={draft ?? name}
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

const MEANING: Readonly<Record<Export, string>> = {
  mp4: "video",
  gif: "animated image",
  csv: "inputs",
  npz: "data for playloom dream --prompt",
  zip: "all of these, with images",
};

type SaveProps = Pick<Props, "view" | "apiKey" | "onNotice"> & { open: boolean; onOpen: (open: boolean) => void };

function SaveMenu({ view, apiKey, open, onOpen, onNotice }: SaveProps) {
  const [busy, setBusy] = useState<string | null>(null);
  const menu = useRef<HTMLDetailsElement>(null);
  const node = shownNode(view);
  useClosing(menu, open, () => {
    onOpen(false);
  });
  const save = async (path: string, name: string): Promise<void> => {
    setBusy(name);
    try {
      saveBlob(await fetchBlob(path, apiKey), name);
    } catch (error) {
      onNotice(`It could not be saved. ${error instanceof Error ? error.message : ""}`.trim());
    }
    setBusy(null);
  };
  const item = (path: string, kind: string, meaning: string, what: string) => (
    <button
      type="button"
      key={what + kind}
      data-save={what + kind}
      disabled={busy !== null}
      onClick={() => void save(path, `${fileName(view.name)}.${kind}`)}
    >
      <b>{kind.toUpperCase()}</b> {busy === `${fileName(view.name)}.${kind}` ? "is being prepared…" : meaning}
    </button>
  );
  return (
    <details
      ref={menu}
      className="menu"
      open={open}
      onToggle={(event) => {
        onOpen(event.currentTarget.open);
      }}
      onBlur={(event) => {
        if (event.relatedTarget instanceof Node && !event.currentTarget.contains(event.relatedTarget)) onOpen(false);
      }}
    >
      <summary className="button">
        <Icon name="save" />
        <span>Save</span>
      </summary>
      {node === null ? null : (
        <div className="menu-body" data-keeps-focus>
          <h2>From the start to this frame</h2>
          {EXPORTS.map((kind) => item(exportPath(view.id, node, kind), kind, MEANING[kind], "path-"))}
          <h2>This frame</h2>
          {item(framePath(view.id, node), "png", "picture", "frame-")}
          <h2>The whole story</h2>
          {item(allPath(view.id), "zip", "all branches and images", "all-")}
        </div>
      )}
    </details>
  );
}

/** Closes what is open on Escape and on a press elsewhere, wherever the focus is. */
function useClosing(inside: React.RefObject<HTMLElement | null>, open: boolean, onClose: () => void): void {
  const close = useEffectEvent(onClose);
  useEffect(() => {
    if (!open) return undefined;
    const press = (event: PointerEvent): void => {
      if (!(event.target instanceof Node && inside.current?.contains(event.target))) close();
    };
    const key = (event: KeyboardEvent): void => {
      if (event.key !== "Escape") return;
      close();
      event.stopPropagation(); // else it would leave the branches side by side too
    };
    window.addEventListener("pointerdown", press, true);
    window.addEventListener("keydown", key, true);
    return () => {
      window.removeEventListener("pointerdown", press, true);
      window.removeEventListener("keydown", key, true);
    };
  }, [inside, open]);
}

const fileName = (name: string): string => name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "story";
