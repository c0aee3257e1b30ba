/** One stick: a knob that follows what is held, a ring that follows the model, and a finger that may drag it. */
import { useRef } from "react";

interface Props {
  name: "left" | "right";
  held: readonly [number, number];
  model: readonly [number, number] | null;
  /** Labels of the keys up, right, down, left. */
  keys: readonly string[];
  onMove: (x: number, y: number, at: number) => void;
  /** It stays where it was let go of. */
  stays?: boolean;
}

/** How far the knob travels, as a share of the stick's own half width. */
const TRAVEL = 0.5;
const SIDES = ["up", "right", "down", "left"] as const;

export function Stick({ name, held, model, keys, onMove, stays = false }: Props) {
  const finger = useRef<number | null>(null);
  const drag = (event: React.PointerEvent<HTMLElement>): void => {
    if (finger.current !== event.pointerId) return;
    const box = event.currentTarget.getBoundingClientRect();
    const reach = (box.width / 2) * TRAVEL;
    const x = (event.clientX - box.left - box.width / 2) / reach;
    const y = (event.clientY - box.top - box.height / 2) / reach;
    const length = Math.max(1, Math.hypot(x, y));
    onMove(x / length, y / length, event.timeStamp);
  };
  const letGo = (event: React.PointerEvent): void => {
    if (finger.current !== event.pointerId) return;
    finger.current = null;
    if (!stays) onMove(0, 0, event.timeStamp);
  };
  return (
    <div
      className={`stick ${name}`}
      data-stick={name}
      onPointerDown={(event) => {
        event.preventDefault();
        event.currentTarget.setPointerCapture(event.pointerId);
        finger.current = event.pointerId;
        drag(event);
      }}
      onPointerMove={drag}
      onPointerUp={letGo}
      onPointerCancel={letGo}
    >
      {keys.map((key, index) => (
        <kbd
          key={key}
          className={SIDES[index]}
          data-held={isHeld(held, index)}
          data-model={model !== null && isHeld(model, index)}
        >
          {key}
        </kbd>
      ))}
      <svg viewBox="-100 -100 200 200">
        <circle className="well" r="66" />
        <circle
          className="knob"
          data-held={held[0] !== 0 || held[1] !== 0}
          cx={held[0] * 40}
          cy={held[1] * 40}
          r="31"
        />
        {model ? <circle className="ghost" cx={model[0] * 40} cy={model[1] * 40} r="31" /> : null}
      </svg>
    </div>
  );
}

/** Whether the stick points to a side (up, right, down, left). */
function isHeld([x, y]: readonly [number, number], side: number): boolean {
  return [y < 0, x > 0, y > 0, x < 0][side] ?? false;
}
