/** What is asked over HTTP: the prompts, their pictures, the recording. Errors come out as sentences. */

import { backOff } from "./backoff";
import { asSentence } from "./messages";

export interface Prompt {
  name: string;
  picture: string;
}

export class ApiError extends Error {
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

export const NO_ANSWER = 0;

const headers = (key: string | null): Record<string, string> => (key ? { Authorization: `Bearer ${key}` } : {});

/** Paths of the server are absolute; the page may lie under a prefix. */
export const urlOf = (path: string): string => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** Where to play; of several servers, the one that has this session: its name leads the token. */
export function playPath(token: string | null): string {
  const server = token === null ? undefined : /^([\w-]+)\./.exec(token)?.[1];
  return server === undefined ? "v1/play" : `v1/play?at=${server}`;
}

export const socketUrl = (token: string | null): string => urlOf(playPath(token)).replace(/^http/, "ws");

/** What controls do in the game of a model, by control, as far as known; null for one that training never saw move. */
export type Meanings = Readonly<Record<string, string | null>>;

export interface Served {
  /** The temperature that the model's card asks for; null where it says none. */
  temperature: number | null;
  controls: Meanings;
}

/** The served model, in the answer of `v1/models`. */
export function servedIn(models: unknown): Served {
  const list = Array.isArray(models) ? (models as (Partial<Record<keyof Served | "serving", unknown>> | null)[]) : [];
  const served = list.find((model) => model?.serving);
  return {
    temperature: typeof served?.temperature === "number" ? served.temperature : null,
    controls: (served?.controls ?? {}) as Meanings,
  };
}

/**
 * The served model. The server answers this only to whom it knows, so it tries the key too.
 *
 * @throws ApiError with status 401 when the server wants another key.
 */
export async function fetchServed(key: string | null): Promise<Served> {
  return servedIn(await (await get("v1/models", key)).json());
}

export async function fetchPrompts(key: string | null): Promise<Prompt[]> {
  const found: unknown = await (await get("v1/prompts", key)).json();
  if (!Array.isArray(found)) throw new ApiError("This page cannot read the list of prompts; reload the page.", 200);
  return (found as Partial<Prompt>[]).flatMap(({ name, picture }) => (name && picture ? [{ name, picture }] : []));
}

/** A picture or file as a blob's address; the key goes along, which an `img` could not do. */
export async function fetchBlob(path: string, key: string | null): Promise<Blob> {
  return (await get(path, key)).blob();
}

/** Gives a session's place back at once; when nobody hears it, the server does so after a minute by itself. */
export function endSession(token: string, key: string | null): void {
  const options: RequestInit = { method: "DELETE", headers: headers(key), keepalive: true };
  fetch(urlOf(`v1/sessions/${encodeURIComponent(token)}`), options).catch(() => undefined);
}

/** ControlInput a blob to the person as a file. */
export function saveBlob(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => {
    URL.revokeObjectURL(link.href);
  }, 10_000);
}

const get = (path: string, key: string | null): Promise<Response> => ask("GET", path, key);

/**
 * Asks the server, with the key and a JSON body where there are any.
 *
 * @throws ApiError with a sentence when it does not answer, or refuses.
 */
export async function ask(method: string, path: string, key: string | null, body?: unknown): Promise<Response> {
  const options: RequestInit = { method, headers: headers(key) };
  if (body !== undefined) {
    options.headers = { ...headers(key), "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response: Response;
  try {
    response = await fetch(urlOf(path), options);
  } catch {
    throw new ApiError("The server does not answer.", NO_ANSWER);
  }
  if (!response.ok) throw new ApiError(await sentenceOf(response), response.status);
  return response;
}

/**
 * Asks again, at longer and longer intervals, while the server does not answer, is full, stopping or failed.
 *
 * @param refused called where asking again would not help.
 * @returns what stops it.
 */
export function askUntilAnswered<T>(
  request: () => Promise<T>,
  answered: (answer: T) => void,
  refused: () => void,
): () => void {
  let stopped = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const attempt = (number: number): void => {
    request()
      .then((answer) => {
        if (!stopped) answered(answer);
      })
      .catch((error: unknown) => {
        if (stopped) return;
        if (error instanceof ApiError && error.status !== NO_ANSWER && error.status < 500) refused();
        else
          timer = setTimeout(() => {
            attempt(number + 1);
          }, backOff(number));
      });
  };
  attempt(0);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

async function sentenceOf(response: Response): Promise<string> {
  const fallback = `The server answered ${response.status}.`;
  try {
    const body: unknown = await response.json();
    const said = typeof body === "object" && body !== null && "error" in body ? body.error : null;
    return typeof said === "string" && said ? asSentence(said) : fallback;
  } catch {
    return fallback;
  }
}
