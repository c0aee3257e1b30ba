/** The page: lobby, play or a story, and the one line of news above them. */
import { useCallback, useEffect, useEffectEvent, useRef, useState, useSyncExternalStore } from "react";
import { ApiError, fetchPrompts, fetchServed } from "../net/api";
import type { Opening } from "../net/messages";
import { pictureOf } from "../net/picture";
import { NEW_OPENING, type Player } from "../play/player";
import { freeName, openStory, storyHere, watchAddress } from "../story/address";
import { type Beginning, beginStory } from "../story/api";
import { Icon } from "./Icon";
import { type Found, Lobby } from "./Lobby";
import { titleOf, useDrop } from "./Prompts";
import { Play } from "./Play";
import { useStories } from "./story/Stories";
import { StoryView } from "./story/StoryView";

const ASK_AGAIN_MS = 3_000;
const KEY = "playloom.key";
const NEWS_MS = 10_000;

export function App({ player }: { player: Player }) {
  const shot = useSyncExternalStore(player.watch, player.look);
  const [key, setKey] = useState<string | null>(player.key);
  const [found, ask] = usePrompts(key);
  const [options, setOptions] = useState<Opening>(NEW_OPENING);
  const story = useSyncExternalStore(watchAddress, storyHere);
  const playing = story === null && shot.line.kind !== "idle";
  const notify = useCallback(
    (sentence: string) => {
      player.notify(sentence);
    },
    [player],
  );
  const listing = useStories(key, story === null && found.kind === "prompts" && !player.isLocal, playing, notify);
  const taking = useRef<((file: File) => void) | null>(null);
  const setTaking = useCallback((take: ((file: File) => void) | null) => {
    taking.current = take;
  }, []);

  const bring = useCallback(
    (file: File) => {
      player.notify(null); // what was said of the last one
      if (taking.current) {
        taking.current(file);
        return;
      }
      pictureOf(file)
        .then(({ base64 }) => {
          if (player.look().line.kind === "open") player.reset({ image: base64 });
          else player.start({ ...options, image: base64 });
        })
        .catch((error: unknown) => {
          player.notify(error instanceof Error ? error.message : "The picture could not be read.");
        });
    },
    [player, options],
  );
  const branch = (from: string | File | { session: string }): void => {
    const taken = listing.stories.map(({ name }) => name);
    beginningOf(from)
      .then((beginning) => (beginning.name ? { ...beginning, name: freeName(beginning.name, taken) } : beginning))
      .then((beginning) => beginStory(beginning, key))
      .then(({ id }) => {
        player.leave();
        openStory(id);
      })
      .catch((error: unknown) => {
        player.notify(error instanceof Error ? error.message : "The story could not be created.");
      });
  };
  const over = useDrop(bring);
  const takeKey = (given: string): void => {
    sessionStorage.setItem(KEY, given);
    player.useKey(given);
    setKey(given);
  };

  return (
    <>
      <News
        shot={shot.notice}
        onClose={() => {
          player.notify(null);
        }}
      />
      {story !== null ? (
        <StoryView
          key={story}
          id={story}
          apiKey={key}
          temperature={found.kind === "prompts" ? found.temperature : null}
          onNotice={notify}
          onLeave={() => {
            openStory(null);
          }}
          onKey={takeKey}
          onTake={setTaking}
        />
      ) : playing ? (
        <Play
          player={player}
          shot={shot}
          prompts={found.kind === "prompts" ? found.prompts : []}
          controls={found.kind === "prompts" ? found.controls : {}}
          onLeave={() => {
            player.leave();
            ask();
          }}
          onFile={bring}
          onBranch={
            listing.kept && shot.session
              ? () => {
                  branch({ session: shot.session?.token ?? "" });
                }
              : undefined
          }
        />
      ) : (
        <Lobby
          isLocal={player.isLocal}
          found={found}
          apiKey={key}
          onKey={takeKey}
          onRetry={ask}
          options={options}
          onOptions={setOptions}
          onPrompt={(prompt) => {
            player.start({ ...options, prompt });
          }}
          onFile={bring}
          listing={listing}
          onBranch={branch}
          onStory={openStory}
        />
      )}
      <footer>The starting points are frames of the real game. Every frame after them is generated and marked.</footer>
      {over ? (
        <div className="drop" aria-hidden="true">
          {story === null ? "Drop the picture to start from it" : "Drop the picture to add it to the frame"}
        </div>
      ) : null}
    </>
  );
}

/** The key given in this tab, if one was. */
export const keptKey = (): string | null => sessionStorage.getItem(KEY);

/** Where a story begins: at a prompt, a picture, or where a live session is. */
async function beginningOf(from: string | File | { session: string }): Promise<Beginning> {
  if (typeof from === "string") return { prompt: from, name: titleOf(from) };
  if (from instanceof File)
    return { images: [(await pictureOf(from)).base64], name: from.name.replace(/\.\w+$/, "").slice(0, 60) };
  return from;
}

/** One sentence at a time; gone after a while, or when it is closed. */
function News({ shot, onClose }: { shot: { text: string; id: number } | null; onClose: () => void }) {
  const close = useEffectEvent(onClose);
  useEffect(() => {
    if (!shot) return undefined;
    const timer = setTimeout(close, NEWS_MS);
    return () => {
      clearTimeout(timer);
    };
  }, [shot]);
  return (
    <div className="news" role="alert">
      {shot ? (
        <p key={shot.id}>
          {shot.text}
          <button type="button" onClick={onClose} aria-label="Close this message">
            <Icon name="close" />
          </button>
        </p>
      ) : null}
    </div>
  );
}

/** The server's prompts, and its model; asked again until it answers. */
function usePrompts(key: string | null): [Found, () => void] {
  const [found, setFound] = useState<Found>({ kind: "loading" });
  const [asked, setAsked] = useState(0);
  const ask = useCallback(() => {
    setAsked((count) => count + 1);
  }, []);
  useEffect(() => {
    let gone = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    Promise.all([fetchPrompts(key), fetchServed(key)])
      .then(([prompts, served]) => {
        if (!gone) setFound({ kind: "prompts", prompts, ...served });
      })
      .catch((error: unknown) => {
        if (gone) return;
        if (error instanceof ApiError && error.status === 401) {
          setFound({ kind: "locked", wrong: key !== null });
          return;
        }
        setFound({ kind: "failed", sentence: error instanceof Error ? error.message : "The server does not answer." });
        timer = setTimeout(ask, ASK_AGAIN_MS);
      });
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [key, asked, ask]);
  return [found, ask];
}
