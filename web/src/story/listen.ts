/** The events of a story, by `EventSource`. When it breaks it is closed, and whoever listens opens a new one. */
import { eventsUrl } from "./api";

export interface EventHandlers {
  onEvent(kind: string, data: unknown): void;
  onBroken(): void;
}

const KINDS = ["node", "branch", "removed", "story", "reload", "gone"] as const;

/** Hear what happens after an event; what comes back stops it. */
export function listen(id: string, after: number, handlers: EventHandlers): () => void {
  const source = new EventSource(eventsUrl(id, after));
  for (const kind of KINDS) {
    source.addEventListener(kind, (event: MessageEvent<string>) => {
      handlers.onEvent(kind, parsed(event.data));
    });
  }
  source.onerror = () => {
    source.close();
    handlers.onBroken();
  };
  return () => {
    source.close();
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
