/** The stories that are there, newest first: open one, or delete it. */
import { useCallback, useEffect, useState } from "react";
import { askUntilAnswered, urlOf } from "../../net/api";
import { deleteStory, listStories } from "../../story/api";
import type { StoryEntry } from "../../story/model";
import { Icon } from "../Icon";
import { Picture } from "../Picture";
import { confirm } from "./confirm";

interface Props {
  stories: readonly StoryEntry[];
  onOpen: (id: string) => void;
  onDelete: (id: string) => void;
}

export function Stories({ stories, onOpen, onDelete }: Props) {
  if (!stories.length) return null;
  return (
    <section className="stories" aria-labelledby="stories">
      <h2 id="stories">Stories</h2>
      <ul className="prompts small">
        {stories.map((story) => (
          <li key={story.id} className="story-entry">
            <button
              type="button"
              className="prompt"
              data-story={story.id}
              disabled={story.error !== null}
              onClick={() => {
                onOpen(story.id);
              }}
            >
              <span className="picture">
                {story.picture ? <Picture src={urlOf(story.picture)} alt="" loading="lazy" /> : <Icon name="branch" />}
              </span>
              <span className="name">
                <b>{story.name}</b>
                <small>{whenOf(story.created)}</small>
                <small>
                  {story.error ?? `${many(story.frames, "frame")}, ${many(story.branches, "branch", "branches")}`}
                </small>
              </span>
            </button>
            <button
              type="button"
              className="small-delete"
              aria-label={`Delete the story ${story.name}`}
              title="Delete"
              onClick={() => {
                void confirm(
                  `Delete the story “${story.name}” with all its frames? This cannot be undone.`,
                  "Delete",
                ).then((yes) => {
                  if (yes) onDelete(story.id);
                });
              }}
            >
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

/** "21 Nov, 23:45", as this person writes it; empty where the server gives no time. */
function whenOf(created: string): string {
  const time = new Date(created);
  if (Number.isNaN(time.getTime())) return "";
  return time.toLocaleString(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

const many = (count: number, one: string, more = `${one}s`): string => `${count} ${count === 1 ? one : more}`;

export interface StoryListing {
  stories: readonly StoryEntry[];
  /** Whether this server keeps stories at all. */
  kept: boolean;
  remove: (id: string) => void;
}

/** The list, read anew whenever `ready` or `playing` changes. */
export function useStories(
  key: string | null,
  ready: boolean,
  playing: boolean,
  onNotice: (sentence: string) => void,
): StoryListing {
  const [found, setFound] = useState<{ stories: readonly StoryEntry[]; kept: boolean }>({ stories: [], kept: false });
  useEffect(() => {
    if (!ready) return undefined;
    return askUntilAnswered(
      () => listStories(key),
      (stories) => {
        setFound({ stories, kept: true });
      },
      () => {
        setFound({ stories: [], kept: false }); // a server that keeps none
      },
    );
  }, [key, ready, playing]);
  const remove = useCallback(
    (id: string) => {
      deleteStory(id, key)
        .then(() => {
          setFound((now) => ({ ...now, stories: now.stories.filter((story) => story.id !== id) }));
        })
        .catch((error: unknown) => {
          onNotice(error instanceof Error ? error.message : "It could not be deleted.");
        });
    },
    [key, onNotice],
  );
  return { ...found, remove };
}
