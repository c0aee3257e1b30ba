/** Draws frames on a canvas, newest first served: a frame that is overtaken while it is decoded is never drawn. */
import type { Frame } from "../net/header";

export class Screen {
  private canvas: HTMLCanvasElement | null = null;
  private next: Frame | null = null;
  private busy = false;
  private readonly onDrawn: (frame: Frame, at: number) => void;

  constructor(onDrawn: (frame: Frame, at: number) => void) {
    this.onDrawn = onDrawn;
  }

  show(canvas: HTMLCanvasElement | null): void {
    this.canvas = canvas;
  }

  put(frame: Frame): void {
    this.next = frame;
    if (!this.busy) void this.work();
  }

  private async work(): Promise<void> {
    this.busy = true;
    while (this.next) {
      const frame = this.next;
      this.next = null;
      const picture = await createImageBitmap(new Blob([frame.picture], { type: frame.mime })).catch(() => null);
      if (picture) await this.draw(frame, picture);
    }
    this.busy = false;
  }

  private draw(frame: Frame, picture: ImageBitmap): Promise<void> {
    return new Promise((resolve) => {
      requestAnimationFrame(() => {
        this.paint(picture);
        picture.close();
        this.onDrawn(frame, performance.now());
        resolve();
      });
    });
  }

  private paint(picture: ImageBitmap): void {
    const canvas = this.canvas;
    if (!canvas) return;
    if (canvas.width !== picture.width) canvas.width = picture.width;
    if (canvas.height !== picture.height) canvas.height = picture.height;
    canvas.getContext("2d")?.drawImage(picture, 0, 0);
  }
}
