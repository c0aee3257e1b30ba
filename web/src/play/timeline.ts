/** The last minute as a woven band: one thread a frame, three rows (walk, look, buttons), coloured by who pressed. */
import { type Action, CONTROLS, toBins } from "../control/controls";
import type { Frame } from "../net/header";

export const THREADS = 600;
const ROWS = ["walk", "look", "press"] as const;
export type Row = (typeof ROWS)[number];

export interface Thread {
  dream: number;
  given: boolean;
  /** How strongly each row is pressed, 0 to 1. */
  rows: Readonly<Record<Row, number>>;
}

export interface Inks {
  person: string;
  model: string;
  rest: string;
  cut: string;
}

const length = (x = 0, y = 0): number => Math.min(1, Math.hypot(x, y));

/** How strongly walking, looking and the buttons are pressed in an action. */
export function rowsOf(action: Action): Record<Row, number> {
  const [lx, ly, rx, ry, ...buttons] = toBins(action);
  return { walk: length(lx, ly), look: length(rx, ry), press: buttons.some((value) => value > 0) ? 1 : 0 };
}

export class Timeline {
  private threads: Thread[] = [];

  add(frame: Frame): void {
    this.threads.push({ dream: frame.dream, given: frame.given, rows: rowsOf(frame.action) });
    if (this.threads.length > THREADS) this.threads.shift();
  }

  get count(): number {
    return this.threads.length;
  }

  clear(): void {
    this.threads = [];
  }

  /** Draws it to the canvas' own size; the newest thread is at the right edge. */
  draw(canvas: HTMLCanvasElement, inks: Inks): void {
    const context = canvas.getContext("2d");
    if (!context) return;
    const ratio = window.devicePixelRatio;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const band = canvas.height / ROWS.length;
    const gap = Math.max(1, Math.round(2 * ratio));
    this.threads.forEach((thread, index) => {
      const from = Math.round(((THREADS - this.threads.length + index) / THREADS) * canvas.width);
      const to = Math.round(((THREADS - this.threads.length + index + 1) / THREADS) * canvas.width);
      const cut = index > 0 && this.threads[index - 1]?.dream !== thread.dream;
      ROWS.forEach((row, at) => {
        const strength = thread.rows[row];
        const full = band - gap;
        const high = Math.max(ratio, full * strength);
        context.fillStyle = strength > 0 ? (thread.given ? inks.person : inks.model) : inks.rest;
        context.fillRect(from, at * band + gap / 2 + (full - high) / 2, Math.max(1, to - from), high);
      });
      if (cut) {
        context.fillStyle = inks.cut;
        context.fillRect(from, 0, Math.max(1, ratio), canvas.height);
      }
    });
  }
}

/** In words, for who cannot see the band or the pad: what is pressed in an action. */
export function inWords(action: Action): string {
  const pressed = CONTROLS.filter((_, index) => action[index] !== 0 && index > 3).map(
    (control) => NAMES[control] ?? control,
  );
  const [lx = 0, ly = 0, rx = 0, ry = 0] = toBins(action);
  const sticks = [
    direction(lx, ly, ["forward", "back", "left", "right"], "walk"),
    direction(rx, 0, ["", "", "left", "right"], "turn"),
    direction(0, ry, ["up", "down", "", ""], "look"),
  ];
  return [...sticks.filter((text) => text !== ""), ...pressed].join(", ") || "no input";
}

function direction(
  x: number,
  y: number,
  [up, down, left, right]: [string, string, string, string],
  verb: string,
): string {
  const words = [y < 0 ? up : y > 0 ? down : "", x < 0 ? left : x > 0 ? right : ""].filter((word) => word !== "");
  return words.length ? `${verb} ${words.join(" ")}` : "";
}

const NAMES: Readonly<Record<string, string>> = {
  trigger_LT: "LT",
  trigger_RT: "RT",
  button_A: "A",
  button_B: "B",
  button_X: "X",
  button_Y: "Y",
  dpad_up: "D-pad up",
  dpad_down: "D-pad down",
  dpad_left: "D-pad left",
  dpad_right: "D-pad right",
  skill_1: "LB",
  skill_2: "RB",
};
