/** The view of a story: its frame, the way to it, the tree, and beside them the panel that asks for more. */
import { type RefObject, useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import * as look from "../../story/selection";
import { DEFAULT_BRANCH_FORM, type BranchForm } from "../../story/order";
import { StoryController } from "../../story/controller";
import { useFocusOnStage } from "../steering";
import { useCommands } from "./commands";
import { DreamOn } from "./DreamOn";
import { Timeline } from "./Timeline";
import { FrameCard } from "./FrameCard";
import { Lanes } from "./Lanes";
import { usePlacement } from "./placement";
import { Placing } from "./Placing";
import { StoryHeader } from "./StoryHeader";
import { StoryKeys, useStoryKeys } from "./StoryKeys";
import { StoryStage } from "./StoryStage";
import { StoryTransport } from "./StoryTransport";

export interface StoryProps {
  id: string;
  apiKey: string | null;
  /** The model's own temperature, where it is known. */
  temperature: number | null;
  onNotice: (sentence: string) => void;
  onLeave: () => void;
  onKey: (key: string) => void;
  /** Is given what takes pictures that are dropped or pasted. */
  onTake: (take: ((file: File) => void) | null) => void;
}

export function StoryView({ id, apiKey, temperature, onNotice, onLeave, onKey, onTake }: StoryProps) {
  const controller = useMemo(() => new StoryController(id, apiKey, onNotice), [id, apiKey, onNotice]);
  useEffect(() => {
    controller.open();
    return () => {
      controller.close();
    };
  }, [controller]);
  const view = useSyncExternalStore(controller.watch, controller.see);
  const [form, setForm] = useState<BranchForm>(DEFAULT_BRANCH_FORM);
  const [saving, setSaving] = useState(false);
  const [helping, setHelping] = useState(false);
  const stage = useRef<HTMLDivElement>(null);
  const note = useRef<HTMLInputElement>(null);
  useFocusOnStage(stage);
  const placement = usePlacement(view, onNotice);
  const { take: place } = placement;
  const take = useCallback(
    (file: File) => {
      if (controller.see().state.side) controller.keepPicked();
      place(file);
    },
    [controller, place],
  );
  useTaking(take, onTake);
  useStageInSight(stage, `${view.state.follow !== null} ${placement.image !== null}`);
  useTitle(view.name);
  const commands = useCommands({ controller, view, form, placement, onNotice });
  useStoryKeys(view.line.kind === "open", {
    controller,
    placement,
    commands,
    onNote: () => note.current?.focus(),
    onHelp: () => {
      setHelping((shown) => !shown);
    },
    onSave: () => {
      setSaving((shown) => !shown);
    },
  });
  const from = look.chosen(view.state);
  return (
    <main className="story" style={{ "--shape": view.width / view.height } as React.CSSProperties}>
      <StoryHeader
        controller={controller}
        view={view}
        apiKey={apiKey}
        saving={saving}
        onSaving={setSaving}
        onNotice={onNotice}
        onLeave={onLeave}
      />
      <div className="story-left">
        <StoryStage
          controller={controller}
          view={view}
          stage={stage}
          placement={placement}
          onKey={onKey}
          onLeave={onLeave}
        />
        <StoryTransport controller={controller} view={view} commands={commands} />
        <Timeline controller={controller} view={view} />
        <Lanes controller={controller} view={view} commands={commands} />
      </div>
      <aside aria-label="What to do with this frame">
        {placement.image ? (
          <Placing
            placement={placement}
            view={view}
            busy={view.busy}
            onPut={commands.put}
            onEarlier={(frames) => {
              controller.step(-frames);
            }}
          />
        ) : (
          <>
            <DreamOn
              form={form}
              onForm={setForm}
              context={view.context}
              ownTemperature={temperature}
              busy={view.busy || view.line.kind !== "open" || from === null}
              place={from === null ? 0 : view.state.tree.depth(from)}
              onOrder={commands.order}
            />
            <FrameCard controller={controller} view={view} note={note} placement={placement} commands={commands} />
          </>
        )}
        <StoryKeys open={helping} onOpen={setHelping} />
      </aside>
    </main>
  );
}

/** Where the stage is above the window, as it is on a phone, it comes into sight when something begins on it. */
function useStageInSight(stage: RefObject<HTMLDivElement | null>, what: string): void {
  useEffect(() => {
    const top = stage.current?.getBoundingClientRect().top ?? 0;
    if (what.includes("true") && top < 0) stage.current?.scrollIntoView({ block: "start" });
  }, [stage, what]);
}

function useTitle(name: string): void {
  useEffect(() => {
    const before = document.title;
    if (name) document.title = `${name} · playloom`;
    return () => {
      document.title = before;
    };
  }, [name]);
}

function useTaking(take: (file: File) => void, onTake: StoryProps["onTake"]): void {
  useEffect(() => {
    onTake(take);
    return () => {
      onTake(null);
    };
  }, [take, onTake]);
  useEffect(() => {
    const paste = (event: ClipboardEvent): void => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      take(file);
    };
    window.addEventListener("paste", paste);
    return () => {
      window.removeEventListener("paste", paste);
    };
  }, [take]);
}
