/** Before play: pick a moment or bring a picture; and, where the server wants one, give the key. */
import { useState } from "react";
import type { Moment } from "../net/api";
import type { Opening } from "../net/messages";
import { Wordmark } from "./Icon";
import { Keys } from "./Keys";
import { Moments } from "./Moments";
import { Seed, Temperature, WhoPlays } from "./Settings";
import { type Shelved, Stories } from "./story/Stories";

export type Found =
  | { kind: "loading" }
  | { kind: "moments"; moments: readonly Moment[]; temperature: number | null }
  | { kind: "locked"; wrong: boolean }
  | { kind: "failed"; sentence: string };

interface Props {
  found: Found;
  apiKey: string | null;
  onKey: (key: string) => void;
  onRetry: () => void;
  /** How the dream will begin, but for where. */
  options: Opening;
  onOptions: (options: Opening) => void;
  onMoment: (name: string) => void;
  onFile: (file: File) => void;
  /** The stories of this server. */
  shelf: Shelved;
  onBranch: (from: string | File) => void;
  onStory: (id: string) => void;
}

export function Lobby(props: Props) {
  const { found, apiKey, onKey, onRetry, options, onOptions, onMoment, onFile, shelf, onBranch, onStory } = props;
  const change = (changes: Partial<Opening>): void => {
    onOptions({ ...options, ...changes });
  };
  return (
    <main className="lobby">
      <header>
        <Wordmark />
        <h1>Pick a moment, then play its dream.</h1>
        <p className="lead">
          Every picture after the first is made by the model while you play, from what you press. Nothing else remembers
          the place: look away, and it may change.
          {shelf.kept ? " Or branch it: several dreams on from one frame, side by side, to choose from." : null}
        </p>
      </header>
      {found.kind === "loading" ? (
        <p role="status" className="wait">
          Asking the server for its moments…
        </p>
      ) : null}
      {found.kind === "failed" ? (
        <div className="trouble" role="alert">
          <p>{found.sentence} The page asks again every few seconds.</p>
          <button type="button" className="strong" onClick={onRetry}>
            Ask now
          </button>
        </div>
      ) : null}
      {found.kind === "locked" ? <Lock wrong={found.wrong} onKey={onKey} /> : null}
      {found.kind === "moments" ? (
        <>
          <Moments
            moments={found.moments}
            apiKey={apiKey}
            onMoment={onMoment}
            onFile={onFile}
            onBranch={shelf.kept ? onBranch : undefined}
          />
          <section className="options" aria-label="Before you start">
            <WhoPlays
              who={options.who}
              onWho={(who) => {
                change({ who });
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
          <Stories stories={shelf.stories} onOpen={onStory} onDelete={shelf.remove} />
          <Keys />
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
        <p className="hint">It stays in this tab, and is forgotten with it.</p>
      )}
    </form>
  );
}
