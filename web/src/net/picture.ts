/** A picture the person brings, made small enough to send: at most 1280 pixels wide, JPEG, base64. */

const LONGEST_SIDE = 1280;

/**
 * Reads a file as a picture.
 *
 * @throws Error with a sentence when the browser cannot read it as one.
 */
export async function pictureOf(file: File): Promise<{ base64: string; url: string }> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not a picture this browser can read; a PNG or JPEG will do.`);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser gives no canvas to read the picture with.");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const url = canvas.toDataURL("image/jpeg", 0.92);
  return { base64: url.slice(url.indexOf(",") + 1), url };
}
