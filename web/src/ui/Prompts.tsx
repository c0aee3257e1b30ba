/** Where a dream can begin: the bundled prompts, and a picture of one's own by file or by drop. */
import { useEffect, useRef, useState } from "react";
import { askUntilAnswered, fetchBlob, type Prompt } from "../net/api";
import { Icon } from "./Icon";

interface Props {
  prompts: readonly Prompt[];
  apiKey: string | null;
  /** The one being played. */
  current?: string | null;
  onPrompt: (name: string) => void;
  onFile: (file: File) => void;
  /** Begin a story there instead; none: this cannot be done here. */
  onBranch?: ((from: string | File) => void) | undefined;
  small?: boolean;
}

export function Prompts({ prompts, apiKey, current = null, onPrompt, onFile, onBranch, small = false }: Props) {
  return (
    <ul className={small ? "prompts small" : "prompts"} aria-label="Starting points">
      {prompts.map((prompt) => (
        <li key={prompt.name}>
          <PromptCard
            prompt={prompt}
            apiKey={apiKey}
            current={prompt.name === current}
            onPick={() => {
              onPrompt(prompt.name);
            }}
            plays={onBranch !== undefined}
          />
          {onBranch ? (
            <Branch
              label={`Branch from ${titleOf(prompt.name)}`}
              name={prompt.name}
              onBranch={() => {
                onBranch(prompt.name);
              }}
            />
          ) : null}
        </li>
      ))}
      <li>
        <OwnPicture onFile={onFile} onBranch={onBranch} />
      </li>
    </ul>
  );
}

interface CardProps {
  prompt: Prompt;
  apiKey: string | null;
  current: boolean;
  onPick: () => void;
  /** Says that it plays, where something else can be done too. */
  plays: boolean;
}

function PromptCard({ prompt, apiKey, current, onPick, plays }: CardProps) {
  const url = usePicture(prompt.picture, apiKey);
  return (
    <button type="button" className="prompt" aria-pressed={current} data-prompt={prompt.name} onClick={onPick}>
      <span className="picture">{url ? <img src={url} alt="" /> : null}</span>
      <span className="name">{titleOf(prompt.name)}</span>
      {plays ? <Play /> : null}
    </button>
  );
}

const Play = () => (
  <span className="action-label">
    <Icon name="play" />
    Play
  </span>
);

function Branch({ label, name, onBranch }: { label: string; name: string; onBranch: () => void }) {
  return (
    <button type="button" className="branch-from" aria-label={label} data-branch-from={name} onClick={onBranch}>
      <Icon name="branch" />
      Branch
    </button>
  );
}

function OwnPicture({ onFile, onBranch }: Pick<Props, "onFile" | "onBranch">) {
  const input = useRef<HTMLInputElement>(null);
  const use = useRef(onFile);
  const choose = (then: (file: File) => void): void => {
    use.current = then;
    input.current?.click();
  };
  return (
    <>
      <button
        type="button"
        className="prompt own"
        onClick={() => {
          choose(onFile);
        }}
      >
        <span className="picture">
          <Icon name="picture" />
        </span>
        <span className="name">Your picture</span>
        {onBranch ? <Play /> : null}
      </button>
      {onBranch ? (
        <Branch
          label="Branch from your picture"
          name="own"
          onBranch={() => {
            choose(onBranch);
          }}
        />
      ) : null}
      <input
        ref={input}
        type="file"
        accept="image/*"
        hidden
        aria-label="Picture file"
        onChange={(event) => {
          const file = event.target.files?.[0];
          if (file) use.current(file);
          event.target.value = "";
        }}
      />
    </>
  );
}

/** "court-explorer" as a person would write it. */
export function titleOf(name: string): string {
  const words = name.replaceAll("-", ", ").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The picture's address once it is here; the key goes along with the request. */
export function usePicture(path: string | null, apiKey: string | null): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (path === null) return undefined;
    let made: string | null = null;
    const stop = askUntilAnswered(
      () => fetchBlob(path, apiKey),
      (blob) => {
        made = URL.createObjectURL(blob);
        setUrl(made);
      },
      () => undefined, // the name stays, which is enough to choose by
    );
    return () => {
      stop();
      setUrl(null);
      if (made) URL.revokeObjectURL(made);
    };
  }, [path, apiKey]);
  return url;
}

/** Lets a picture be dropped anywhere in the window; true while one hangs above it. */
export function useDrop(onFile: (file: File) => void): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const hover = (event: DragEvent): void => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = (event: DragEvent): void => {
      if (event.relatedTarget === null) setOver(false);
    };
    const drop = (event: DragEvent): void => {
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (!file) return;
      event.preventDefault();
      onFile(file);
    };
    window.addEventListener("dragover", hover);
    window.addEventListener("dragleave", leave);
    window.addEventListener("drop", drop);
    return () => {
      window.removeEventListener("dragover", hover);
      window.removeEventListener("dragleave", leave);
      window.removeEventListener("drop", drop);
    };
  }, [onFile]);
  return over;
}
