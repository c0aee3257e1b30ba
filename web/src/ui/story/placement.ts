/** A picture on its way onto frames: where it lies, on how many, and the keys that move it. */
import { useCallback, useState } from "react";
import { copiesAt } from "../../story/selection";
import { moved, type Overlay, placed, scaled, turned } from "../../story/overlay";
import type { View } from "../../story/controller";
import { overlayPng, type OverlayImage, overlayImageOf } from "../../story/overlayImage";

const MOST_COPIES = 9;
/** Five edited frames in all, as many as the published measure of persistency asks for. */
const FIRST_COPIES = 4;

export interface Placement {
  image: OverlayImage | null;
  overlay: Overlay | null;
  /** How many of the next frames get it too. */
  copies: number;
  most: number;
  /** Without its plain background. */
  cut: boolean;
  take: (file: File) => void;
  drop: () => void;
  setCopies: (copies: number) => void;
  setCut: (cut: boolean) => void;
  change: (how: (overlay: Overlay) => Overlay) => void;
  overlayPng: () => string | null;
  /** What is drawn: the picture with or without its background. */
  picture: HTMLCanvasElement | null;
}

export function usePlacement(view: View, onNotice: (sentence: string) => void): Placement {
  const [image, setImage] = useState<OverlayImage | null>(null);
  const [overlay, setOverlay] = useState<Overlay | null>(null);
  const [copies, setCopies] = useState(FIRST_COPIES);
  const [cut, setCut] = useState(false);
  const { width, height } = view;
  const take = useCallback(
    (file: File) => {
      overlayImageOf(file)
        .then((found) => {
          setImage(found);
          setCut(found.plain);
          setOverlay(placed(found.whole, { width, height }));
        })
        .catch((error: unknown) => {
          onNotice(error instanceof Error ? error.message : "The picture could not be read.");
        });
    },
    [width, height, onNotice],
  );
  const drop = useCallback(() => {
    setImage(null);
    setOverlay(null);
  }, []);
  const most = Math.min(MOST_COPIES, copiesAt(view.state));
  const picture = image ? (cut && image.cut ? image.cut : image.whole) : null;
  return {
    image,
    overlay,
    copies: Math.min(copies, most),
    most,
    cut,
    take,
    drop,
    setCopies,
    setCut,
    change: (how) => {
      setOverlay((now) => now && how(now));
    },
    overlayPng: () => (picture && overlay ? overlayPng(picture, overlay, { width, height }) : null),
    picture,
  };
}

/** Keys while a picture is laid onto a frame; true when one was used. */
export function placementKey(
  placement: Placement,
  event: KeyboardEvent,
  view: { width: number; height: number },
): boolean {
  const far = event.shiftKey ? 10 : 1;
  const steps: Readonly<Record<string, (overlay: Overlay) => Overlay>> = {
    ArrowLeft: (now) => moved(now, -far, 0, view),
    ArrowRight: (now) => moved(now, far, 0, view),
    ArrowUp: (now) => moved(now, 0, -far, view),
    ArrowDown: (now) => moved(now, 0, far, view),
    "+": (now) => scaled(now, 1.05, view),
    "=": (now) => scaled(now, 1.05, view),
    "-": (now) => scaled(now, 1 / 1.05, view),
    "[": (now) => turned(now, -5),
    "]": (now) => turned(now, 5),
    m: (now) => ({ ...now, flipped: !now.flipped }),
  };
  const step = steps[event.key];
  if (step) placement.change(step);
  return step !== undefined;
}
