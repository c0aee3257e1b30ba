/** A static page: whether this is one, and its service worker. */

/** Whether `playloom serve --static` wrote this page. */
export const isStatic = (): boolean => document.querySelector("meta[name=playloom-static]") !== null;

const RELOADED = "playloom.reloaded";
const PATIENCE_MS = 10_000;

/**
 * Registers the service worker, which keeps the files and adds the headers that threads need; the first time the page
 * is loaded again with them. Without one the page plays with one thread, and only with a connection.
 */
export async function prepareSite(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  const { serviceWorker } = navigator;
  try {
    const controlled = new Promise((resolve) => {
      if (serviceWorker.controller) resolve(null);
      else serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, PATIENCE_MS);
    });
    await serviceWorker.register("./service-worker.js");
    await controlled;
    if (crossOriginIsolated || !serviceWorker.controller || sessionStorage.getItem(RELOADED) !== null) return;
    sessionStorage.setItem(RELOADED, "1");
    location.reload();
    await new Promise(() => undefined);
  } catch {
    // forbidden here, as in a private window
  }
}
