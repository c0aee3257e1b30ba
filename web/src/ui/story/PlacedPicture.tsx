/** On the stage: the picture as it will lie, to be dragged, pulled at its corners, and turned; also by two pointers. */
import { useEffect, useRef, useState } from "react";
import { type Drag, Pointers } from "../../story/pointers";
import { draw, moved, type Overlay, pinched, type Point, pulled, scaled, spun } from "../../story/overlay";
import type { View } from "../../story/controller";
import type { Placement } from "./placement";

const CORNERS = ["nw", "ne", "se", "sw"] as const;
const share = (value: number, of: number): string => `${(100 * value) / of}%`;

export function PlacedPicture({ placement, view }: { placement: Placement; view: View }) {
  const { overlay, picture, change } = placement;
  const [pointers] = useState(() => new Pointers());
  if (!overlay || !picture) return null;
  const height = overlay.width * overlay.aspect;
  const grip = (how: (overlay: Overlay, from: Point, to: Point) => Overlay) => ({
    pointers,
    view,
    onDrag: ({ from, to, other }: Drag) => {
      change((now) => (other ? pinched(now, [from, other], [to, other], view) : how(now, from, to)));
    },
  });
  return (
    <div
      className="placing-area"
      onWheel={(event) => {
        change((now) => scaled(now, Math.exp(-event.deltaY / 600), view));
      }}
    >
      <Preview placement={placement} view={view} />
      <Grip
        className="placed"
        style={{
          left: share(overlay.x - overlay.width / 2, view.width),
          top: share(overlay.y - height / 2, view.height),
          width: share(overlay.width, view.width),
          height: share(height, view.height),
          transform: `rotate(${overlay.turn}deg)`,
        }}
        {...grip((now, from, to) => moved(now, to.x - from.x, to.y - from.y, view))}
      >
        {CORNERS.map((corner) => (
          <Grip key={corner} className={`handle ${corner}`} {...grip((now, from, to) => pulled(now, from, to, view))} />
        ))}
        <Grip className="handle turner" {...grip(spun)} />
      </Grip>
    </div>
  );
}

interface GripProps {
  className: string;
  style?: React.CSSProperties;
  pointers: Pointers;
  view: View;
  onDrag: (drag: Drag) => void;
  children?: React.ReactNode;
}

/** Something that can be dragged; points are told in pixels of the frame. */
function Grip({ className, style, pointers, view, onDrag, children }: GripProps) {
  const at = (event: React.PointerEvent): Point => {
    const area = event.currentTarget.closest(".placing-area")?.getBoundingClientRect();
    if (!area) return { x: 0, y: 0 };
    const scale = view.width / area.width;
    return { x: (event.clientX - area.left) * scale, y: (event.clientY - area.top) * scale };
  };
  const up = (event: React.PointerEvent): void => {
    pointers.up(event.pointerId);
  };
  return (
    <div
      className={className}
      style={style}
      onPointerDown={(event) => {
        event.preventDefault();
        event.stopPropagation();
        event.currentTarget.setPointerCapture(event.pointerId);
        pointers.down(event.pointerId, at(event));
      }}
      onPointerMove={(event) => {
        event.stopPropagation();
        const drag = pointers.move(event.pointerId, at(event));
        if (drag) onDrag(drag);
      }}
      onPointerUp={up}
      onPointerCancel={up}
    >
      {children}
    </div>
  );
}

/** Drawn at the frame's own size, so that what is seen is what will be sent. */
function Preview({ placement: { overlay, picture }, view: { width, height } }: { placement: Placement; view: View }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || !overlay || !picture) return;
    context.clearRect(0, 0, width, height);
    draw(context, picture, overlay);
  }, [overlay, picture, width, height]);
  return <canvas ref={canvas} width={width} height={height} aria-hidden="true" />;
}
