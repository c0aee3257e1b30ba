/** The live socket of a static page: the other end is the model in a worker of this browser. */
import { parseAction } from "../net/header";
import type { Socket } from "../net/connection";
import type { ClientMessage } from "../net/messages";
import type { FromWorker, ToWorker } from "./worker";

const OPEN = 1;
const REFUSED = 1008;
const NO_WORKER = "This browser cannot run the model: its worker does not start.";

/** Returns what makes sockets; they share one worker, which loads the model once. */
export function localSockets(): () => Socket {
  let worker: Worker | null = null;
  const say = (message: ToWorker): void => {
    worker?.postMessage(message);
  };
  document.addEventListener("visibilitychange", () => {
    say({ kind: "hidden", hidden: document.hidden });
  });
  return () => {
    worker ??= new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const socket: Socket = {
      binaryType: "arraybuffer",
      readyState: OPEN,
      onopen: null,
      onmessage: null,
      onclose: null,
      send: (data) => {
        if (typeof data === "string") say({ kind: "message", message: JSON.parse(data) as ClientMessage });
        else if (data instanceof ArrayBuffer)
          say({ kind: "action", action: parseAction(data), at: (performance.timeOrigin + performance.now()) / 1000 });
      },
      close: () => {
        say({ kind: "leave" });
      },
    };
    const fail = (message: string): void => {
      worker?.terminate();
      worker = null;
      const { onmessage, onclose } = socket;
      onmessage?.(new MessageEvent("message", { data: JSON.stringify({ type: "error", message }) }));
      onclose?.(new CloseEvent("close", { code: REFUSED }));
    };
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (typeof data === "object" && "failure" in data) fail(data.failure);
      else socket.onmessage?.(new MessageEvent("message", { data }));
    };
    worker.onerror = () => {
      fail(NO_WORKER);
    };
    setTimeout(() => socket.onopen?.(new Event("open")));
    return socket;
  };
}
