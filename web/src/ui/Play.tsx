/** During play: the stage, the transport under it, and beside it the controller, who plays, figures and settings. */
import { useRef } from "react";
import type { Meanings, Prompt } from "../net/api";
import type { Player, Snapshot } from "../play/player";
import { slownessOf } from "../play/latency";
import { Figures } from "./Figures";
import { Icon, Wordmark } from "./Icon";
import { Keys } from "./Keys";
import { LastMinute } from "./LastMinute";
import { Prompts, titleOf, usePicture } from "./Prompts";
import { Pad } from "./Pad";
import { Seed, Temperature, ControllerChoice } from "./Settings";
import { Stage } from "./Stage";
import { aboutPads, useControls, useFocusOnStage } from "./steering";

interface Props {
  player: Player;
  shot: Snapshot;
  prompts: readonly Prompt[];
  controls: Meanings;
  onLeave: () => void;
  onFile: (file: File) => void;
  /** Begin a story with the newest frames; none: this cannot be done here. */
  onBranch?: (() => void) | undefined;
}

export function Play({ player, shot, prompts, controls, onLeave, onFile, onBranch }: Props) {
  const { line, session } = shot;
  const stage = useRef<HTMLDivElement>(null);
  const pads = useControls(player);
  useFocusOnStage(stage);
  const live = line.kind === "open" && session !== null;
  const poster = usePicture(prompts.find(({ name }) => name === shot.prompt)?.picture ?? null, player.key);
  return (
    <main className="play">
      <header>
        <Wordmark />
        <h1 className="where">
          {shot.prompt === null ? "Your picture" : titleOf(shot.prompt)}
          {session ? ` · ${session.model}` : null}
        </h1>
        <Light kind={line.kind} />
        <button type="button" onClick={onLeave}>
          <Icon name="leave" />
          <span>Leave</span>
        </button>
      </header>
      <div className="column">
        <Stage
          stage={stage}
          screen={player.screen}
          line={line}
          session={session}
          seen={shot.seen}
          frame={shot.frame}
          poster={shot.prompt === null ? shot.own : poster}
          onTryNow={() => {
            player.tryNow();
          }}
          onLeave={onLeave}
        />
        <Transport player={player} paused={session?.paused ?? false} live={live} onBranch={onBranch} />
        <Slow sentence={live && !session.paused ? slownessOf(shot.figures.cost, session.fps, player.isLocal) : null} />
        {session ? <LastMinute player={player} token={session.token} disabled={!live} /> : null}
        <section className="elsewhere" aria-labelledby="elsewhere">
          <h2 id="elsewhere">Other starting points</h2>
          <Prompts
            small
            prompts={prompts}
            apiKey={player.key}
            current={shot.prompt}
            onPrompt={(prompt) => {
              player.begin(prompt);
            }}
            onFile={onFile}
          />
          <Keys controls={controls} />
        </section>
      </div>
      <aside aria-label="Controls and figures">
        <Pad input={player.input} held={shot.held} used={shot.used} given={shot.given} hint={aboutPads(pads)} />
        {session ? (
          <>
            <ControllerChoice
              controller={session.controller}
              disabled={!live}
              onController={(controller) => {
                player.setController(controller);
              }}
            />
            <Figures values={shot.figures} session={session} isLocal={player.isLocal} />
            <section className="settings" aria-label="Settings of the dream">
              <Seed
                seed={session.seed}
                disabled={!live}
                onSeed={(seed) => {
                  player.reset({ seed });
                }}
              />
              <Temperature
                value={session.temperature}
                disabled={!live}
                onValue={(value) => {
                  player.setTemperature(value);
                }}
              />
            </section>
          </>
        ) : null}
      </aside>
    </main>
  );
}

/** Why the dream is slow, where it is. */
const Slow = ({ sentence }: { sentence: string | null }) => (
  <p className="slow" role="status">
    {sentence}
  </p>
);

interface TransportProps {
  player: Player;
  paused: boolean;
  live: boolean;
  onBranch: (() => void) | undefined;
}

function Transport({ player, paused, live, onBranch }: TransportProps) {
  return (
    <div className="transport" role="toolbar" aria-label="Transport">
      <button
        type="button"
        className="strong"
        disabled={!live}
        data-do="pause"
        onClick={() => {
          player.togglePause();
        }}
      >
        <Icon name={paused ? "play" : "pause"} />
        <span>{paused ? "Resume" : "Pause"}</span>
        <kbd>P</kbd>
      </button>
      <button
        type="button"
        disabled={!live || !paused}
        data-do="step"
        onClick={() => {
          player.step();
        }}
      >
        <Icon name="step" />
        <span>Step</span>
        <kbd>N</kbd>
      </button>
      <button
        type="button"
        disabled={!live}
        data-do="reset"
        onClick={() => {
          player.reset();
        }}
      >
        <Icon name="reset" />
        <span>Start over</span>
        <kbd>⌫</kbd>
      </button>
      {onBranch ? (
        <button
          type="button"
          disabled={!live}
          data-do="branch"
          title="Generate several continuations from here"
          onClick={onBranch}
        >
          <Icon name="branch" />
          <span>Branch</span>
        </button>
      ) : null}
    </div>
  );
}

const WORDS = {
  idle: "Not connected",
  opening: "Opening",
  open: "Connected",
  waiting: "Trying again",
  refused: "Refused",
} as const;

function Light({ kind }: { kind: keyof typeof WORDS }) {
  return (
    <p className="light" data-line={kind}>
      <i aria-hidden="true" />
      {WORDS[kind]}
    </p>
  );
}
