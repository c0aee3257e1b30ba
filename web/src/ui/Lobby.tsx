/** Before play: pick a prompt or bring a picture; and, where the server wants one, give the key. */
import { useState } from "react";
import type { Prompt, Served } from "../net/api";
import type { Opening } from "../net/messages";
import { Wordmark } from "./Icon";
import { Keys } from "./Keys";
import { Prompts } from "./Prompts";
import { Seed, Temperature, ControllerChoice } from "./Settings";
import { type StoryListing, Stories } from "./story/Stories";

export type Found =
  | { kind: "loading" }
  | ({ kind: "prompts"; prompts: readonly Prompt[] } & Served)
  | { kind: "locked"; wrong: boolean }
  | { kind: "failed"; sentence: string };

interface Props {
  /** The model runs in this browser. */
  isLocal: boolean;
  found: Found;
  apiKey: string | null;
  onKey: (key: string) => void;
  onRetry: () => void;
  /** How the dream will begin, but for where. */
  options: Opening;
  onOptions: (options: Opening) => void;
  onPrompt: (name: string) => void;
  onFile: (file: File) => void;
  /** The stories of this server. */
  listing: StoryListing;
  onBranch: (from: string | File) => void;
  onStory: (id: string) => void;
}

export function Lobby(props: Props) {
  const { isLocal, found, apiKey, onKey, onRetry, options, onOptions, onPrompt, onFile, listing, onBranch, onStory } =
    props;
  const change = (changes: Partial<Opening>): void => {
    onOptions({ ...options, ...changes });
  };
  return (
    <main className="lobby">
      <header>
        <Wordmark />
        <h1>Pick a starting point, then play.</h1>
        <p className="lead">
          The model generates every frame while you play, from your inputs. It remembers one second, so a place may
          change when you look away.
          {isLocal ? " It runs in this browser, without a server: the first start loads it." : null}
          {listing.kept ? " You can also branch: generate several continuations of one frame and compare them." : null}
        </p>
      </header>
      {found.kind === "loading" ? (
        <p role="status" className="wait">
          Loading the starting points…
        </p>
      ) : null}
      {found.kind === "failed" ? (
        <div className="trouble" role="alert">
          <p>{found.sentence} Retrying every few seconds.</p>
          <button type="button" className="strong" onClick={onRetry}>
            Retry now
          </button>
        </div>
      ) : null}
      {found.kind === "locked" ? <Lock wrong={found.wrong} onKey={onKey} /> : null}
      {found.kind === "prompts" ? (
        <>
          <Prompts
            prompts={found.prompts}
            apiKey={apiKey}
            onPrompt={onPrompt}
            onFile={onFile}
            onBranch={listing.kept ? onBranch : undefined}
          />
          <section className="options" aria-label="Before you start">
            <ControllerChoice
              controller={options.controller}
              onController={(controller) => {
                change({ controller });
              }}
            />
            <Seed
              seed={options.seed}
              onSeed={(seed) => {
                change({ seed });
              }}
            />
            <Temperature
              value={options.temperature}
              own={found.temperature}
              onValue={(temperature) => {
                change({ temperature });
              }}
            />
          </section>
          <Stories stories={listing.stories} onOpen={onStory} onDelete={listing.remove} />
          <Keys controls={found.controls} />
        </>
      ) : null}
    </main>
  );
}

export function Lock({ wrong, onKey }: { wrong: boolean; onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <form
      className="lock"
      onSubmit={(event) => {
        event.preventDefault();
        if (key) onKey(key);
      }}
    >
      <label htmlFor="key">This server asks for a key.</label>
      <span className="with-button">
        <input
          id="key"
          type="password"
          autoComplete="current-password"
          value={key}
          aria-invalid={wrong}
          aria-describedby={wrong ? "key-wrong" : undefined}
          onChange={(event) => {
            setKey(event.target.value);
          }}
        />
        <button type="submit" className="strong">
          Enter
        </button>
      </span>
      {wrong ? (
        <p className="wrong" id="key-wrong" role="alert">
          The server does not know this key.
        </p>
      ) : (
        <p className="hint">The key is kept until you close this tab.</p>
      )}
    </form>
  );
}
