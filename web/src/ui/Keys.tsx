/** Every control, its keys, its place on a gamepad, and what it does in the arena the bundled model has learned. */
import { useKeyLabels } from "./keyLabels";

interface Row {
  does: string;
  keys: readonly string[];
  pad: string;
}

const ROWS: readonly Row[] = [
  { does: "walk, sidestep", keys: ["KeyW", "KeyA", "KeyS", "KeyD"], pad: "left stick" },
  { does: "turn, look", keys: ["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"], pad: "right stick" },
  { does: "turn, look (same)", keys: ["KeyI", "KeyJ", "KeyK", "KeyL"], pad: "right stick" },
  { does: "fire", keys: ["Space"], pad: "RT" },
  { does: "crouch", keys: ["KeyC"], pad: "LT" },
  { does: "jump", keys: ["KeyF"], pad: "A" },
  { does: "sprint", keys: ["ShiftLeft"], pad: "B" },
  { does: "use, respawn", keys: ["KeyR"], pad: "X" },
  { does: "next weapon", keys: ["KeyV"], pad: "Y" },
  { does: "rocket, plasma, shotgun, chaingun", keys: ["Digit1", "Digit2", "Digit3", "Digit4"], pad: "D-pad ↑ → ↓ ←" },
  { does: "throw a light", keys: ["KeyQ"], pad: "LB" },
  { does: "set down a lamp", keys: ["KeyE"], pad: "RB" },
];
const COMMANDS: readonly Row[] = [
  { does: "pause, resume", keys: ["KeyP"], pad: "Start" },
  { does: "one step while paused", keys: ["KeyN"], pad: "" },
  { does: "start over", keys: ["Backspace"], pad: "View" },
];

export function Keys() {
  const label = useKeyLabels();
  return (
    <details className="keys">
      <summary>All keys, and what they do in the arena</summary>
      <table>
        <thead>
          <tr>
            <th scope="col">Does</th>
            <th scope="col">Keys</th>
            <th scope="col">Gamepad</th>
          </tr>
        </thead>
        <tbody>
          {[...ROWS, ...COMMANDS].map(({ does, keys, pad }) => (
            <tr key={does}>
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
