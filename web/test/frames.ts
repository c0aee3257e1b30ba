/** Frames as bytes, for the tests. */
import { type Action, REST } from "../src/control/controls";
import { HEADER_BYTES } from "../src/net/header";

interface Fields {
  magic?: number;
  sequence?: number;
  dream?: number;
  time?: number;
  keyToFrame?: number;
  given?: boolean;
  format?: number;
  action?: Action;
}

/** One binary message with a picture of three bytes. */
export function frameBytes(fields: Fields = {}): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 3));
  view.setUint32(0, fields.magic ?? 0x31464c50, true);
  view.setUint32(4, fields.sequence ?? 0, true);
  view.setUint32(8, fields.dream ?? 0, true);
  view.setFloat64(12, fields.time ?? 0, true);
  view.setFloat32(20, fields.keyToFrame ?? Number.NaN, true);
  view.setFloat32(24, 0.0625, true);
  view.setUint8(28, (fields.given ?? true) ? 1 : 0);
  view.setUint8(29, fields.format ?? 1);
  (fields.action ?? REST).forEach((value, index) => {
    view.setFloat32(32 + 4 * index, value, true);
  });
  [1, 2, 3].forEach((value, index) => {
    view.setUint8(HEADER_BYTES + index, value);
  });
  return view.buffer;
}
