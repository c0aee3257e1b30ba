/** Listens to keyboard and gamepads of this window and tells the input. Losing the focus lets go of everything. */
import { type Action, REST, together } from "./controls";
import { fromGamepad, menuOf, type PadState } from "./gamepad";
import type { ControlInput } from "./useControls";
import { type Command, commandOf, fromKeys, keyBelongsTo, KEYS } from "./keyboard";

export interface InputHandlers {
  onCommand(command: Command): void;
  /** How many pads are plugged in that can be used, and how many cannot. */
  onPads(usable: number, unusable: number): void;
}

/** Starts listening; the function that comes back stops it. */
export function listen(input: ControlInput, handlers: InputHandlers): () => void {
  const stopKeys = listenToKeys(input, handlers);
  const stopPads = listenToPads(input, handlers);
  return () => {
    stopKeys();
    stopPads();
    input.release(performance.now());
  };
}

function listenToKeys(input: ControlInput, handlers: InputHandlers): () => void {
  const down = new Set<string>();
  const isOurs = (event: KeyboardEvent): boolean =>
    !(event.ctrlKey || event.metaKey || event.altKey) && !keyBelongsTo(focused(), event.code);

  const press = (event: KeyboardEvent): void => {
    if (event.key === "Meta") letGo(event); // while it is down, some systems do not tell which keys come up
    if (!isOurs(event)) return;
    const command = commandOf(event.code);
    if (!command && !KEYS[event.code]) return;
    event.preventDefault(); // or the page scrolls
    if (event.repeat) return;
    if (command) handlers.onCommand(command);
    else input.hold("keys", fromKeys(down.add(event.code)), event.timeStamp);
  };
  const release = (event: KeyboardEvent): void => {
    if (down.delete(event.code)) input.hold("keys", fromKeys(down), event.timeStamp);
  };
  const letGo = (event: Event): void => {
    if (event.type === "visibilitychange" && !document.hidden) return;
    down.clear();
    input.release(performance.now());
  };
  const enter = (event: FocusEvent): void => {
    if (keyBelongsTo(event.target as HTMLElement, "KeyW")) letGo(event); // somebody begins to write
  };
  window.addEventListener("keydown", press);
  window.addEventListener("keyup", release);
  window.addEventListener("blur", letGo);
  document.addEventListener("visibilitychange", letGo);
  document.addEventListener("focusin", enter);
  return () => {
    window.removeEventListener("keydown", press);
    window.removeEventListener("keyup", release);
    window.removeEventListener("blur", letGo);
    document.removeEventListener("visibilitychange", letGo);
    document.removeEventListener("focusin", enter);
  };
}

function listenToPads(input: ControlInput, handlers: InputHandlers): () => void {
  let frame = 0;
  let counted = "";
  let menu = { start: false, view: false };
  const poll = (): void => {
    frame = requestAnimationFrame(poll);
    const pads = navigator.getGamepads().filter((pad) => pad !== null);
    const actions = pads.map(fromGamepad).filter((action): action is Action => action !== null);
    const count = `${actions.length} ${pads.length}`;
    if (count !== counted) handlers.onPads(actions.length, pads.length - actions.length);
    const gone = counted !== "" && !counted.startsWith("0") && actions.length === 0;
    counted = count;
    if (actions.length || gone)
      input.hold("gamepad", document.hasFocus() ? together(actions) : REST, performance.now());
    menu = command(pads, menu, handlers);
  };
  poll();
  return () => {
    cancelAnimationFrame(frame);
  };
}

function command(
  pads: readonly PadState[],
  before: { start: boolean; view: boolean },
  handlers: InputHandlers,
): typeof before {
  const now = pads.map(menuOf);
  const menu = { start: now.some(({ start }) => start), view: now.some(({ view }) => view) };
  if (menu.start && !before.start) handlers.onCommand("pause");
  if (menu.view && !before.view) handlers.onCommand("reset");
  return menu;
}

/** The element that has the focus; its type only where it has one. */
function focused(): HTMLElement | null {
  return document.activeElement instanceof HTMLElement ? document.activeElement : null;
}
