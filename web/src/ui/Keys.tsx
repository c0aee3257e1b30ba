/** Every control, its keys, its place on a gamepad, and what it does in the game that the model has learned. */
import type { Meanings } from "../net/api";
import { useKeyLabels } from "./keyLabels";

interface Row {
  does: string;
  controls: readonly string[];
  keys: readonly string[];
  pad: string;
}

/** What they do in the arena of the bundled model. */
const ROWS: readonly Row[] = [
  {
    does: "walk, sidestep",
    controls: ["left_stick_x", "left_stick_y"],
    keys: ["KeyW", "KeyA", "KeyS", "KeyD"],
    pad: "left stick",
  },
  {
    does: "turn, look",
    controls: ["right_stick_x", "right_stick_y"],
    keys: ["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"],
    pad: "right stick",
  },
  {
    does: "turn, look (same)",
    controls: ["right_stick_x", "right_stick_y"],
    keys: ["KeyI", "KeyJ", "KeyK", "KeyL"],
    pad: "right stick",
  },
  { does: "fire", controls: ["trigger_RT"], keys: ["Space"], pad: "RT" },
  { does: "crouch", controls: ["trigger_LT"], keys: ["KeyC"], pad: "LT" },
  { does: "jump", controls: ["button_A"], keys: ["KeyF"], pad: "A" },
  { does: "sprint", controls: ["button_B"], keys: ["ShiftLeft"], pad: "B" },
  { does: "use, respawn", controls: ["button_X"], keys: ["KeyR"], pad: "X" },
  { does: "next weapon", controls: ["button_Y"], keys: ["KeyV"], pad: "Y" },
  {
    does: "rocket, plasma, shotgun, chaingun",
    controls: ["dpad_up", "dpad_right", "dpad_down", "dpad_left"],
    keys: ["Digit1", "Digit2", "Digit3", "Digit4"],
    pad: "D-pad ↑ → ↓ ←",
  },
  { does: "throw a light", controls: ["skill_1"], keys: ["KeyQ"], pad: "LB" },
  { does: "set down a lamp", controls: ["skill_2"], keys: ["KeyE"], pad: "RB" },
];
const COMMANDS: readonly Row[] = [
  { does: "pause, resume", controls: [], keys: ["KeyP"], pad: "Start" },
  { does: "one step while paused", controls: [], keys: ["KeyN"], pad: "" },
  { does: "start over", controls: [], keys: ["Backspace"], pad: "View" },
];

/** The rows for a model of another game; those that its training never saw move are left out. */
export function rowsFor(controls: Meanings): readonly Row[] {
  if (Object.keys(controls).length === 0) return ROWS;
  return ROWS.filter((row) => row.controls.some((name) => controls[name] !== null)).map((row) => ({
    ...row,
    does: row.controls.flatMap((name) => controls[name] ?? []).join(", ") || row.pad,
  }));
}

export function Keys({ controls }: { controls: Meanings }) {
  const label = useKeyLabels();
  return (
    <details className="keys">
      <summary>All keys, and what they do in the game</summary>
      <table>
        <thead>
          <tr>
            <th scope="col">Does</th>
            <th scope="col">Keys</th>
            <th scope="col">Gamepad</th>
          </tr>
        </thead>
        <tbody>
          {[...rowsFor(controls), ...COMMANDS].map(({ does, keys, pad }) => (
            <tr key={keys.join()}>
              <th scope="row">{does}</th>
              <td>
                {keys.map((code) => (
                  <kbd key={code}>{label(code)}</kbd>
                ))}
              </td>
              <td>{pad}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
