/** Keeps the files of a static page, so that it works offline, and adds the headers that threads need. */
export {};

interface Waiting extends Event {
  waitUntil(done: Promise<unknown>): void;
}
interface Fetching extends Event {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
/** The global scope; `playloom serve --static` puts a line before this file that sets `SITE`. */
const scope = self as unknown as {
  readonly SITE: { version: string; page: readonly string[] } | undefined;
  readonly clients: { claim(): Promise<void> };
  readonly location: Location;
  addEventListener(type: "install" | "activate", listener: (event: Waiting) => void): void;
  addEventListener(type: "fetch", listener: (event: Fetching) => void): void;
};
const PREFIX = `playloom ${scope.location.pathname} `;
const name = PREFIX + (scope.SITE?.version ?? "");
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

scope.addEventListener("install", (event) => {
  event.waitUntil(keepPage());
});
scope.addEventListener("activate", (event) => {
  event.waitUntil(dropOthers().then(() => scope.clients.claim()));
});
scope.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(new URL("./", scope.location.href).href))
    event.respondWith(answer(request));
});

/** The small files at once; the model's are kept when they are asked for. */
async function keepPage(): Promise<void> {
  const cache = await caches.open(name);
  await cache.addAll((scope.SITE?.page ?? []).map((path) => new Request(path, { cache: "reload" })));
}

async function dropOthers(): Promise<void> {
  const others = (await caches.keys()).filter((other) => other.startsWith(PREFIX) && other !== name);
  await Promise.all(others.map((other) => caches.delete(other)));
}

async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(name);
  let response = await cache.match(request, { ignoreSearch: true });
  if (!response) {
    response = await fetch(request.mode === "navigate" ? request : new Request(request, { cache: "no-cache" }));
    if (response.status === 200) await cache.put(request, response.clone());
  }
  const headers = new Headers(response.headers);
  for (const [header, value] of Object.entries(HEADERS)) headers.set(header, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
