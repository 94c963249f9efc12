// The wire protocol from the page's side; docs/protocol.md gives the bytes.
// Pure functions, tested in node against the same recorded messages as the Rust side.

export const VERSION = 1;
export const HEADER_LENGTH = 36;

const KINDS = { 1: "h264", 2: "jpeg" };
const KEYFRAME = 1;
const GENERATED = 2;
const INJECTED = 4;

/** Reads a binary message (ArrayBuffer) into its header and a view of its access unit. */
export function parsePacket(buffer) {
  if (buffer.byteLength < HEADER_LENGTH) {
    throw new RangeError(`packet too short: expected ${HEADER_LENGTH} bytes, got ${buffer.byteLength}`);
  }
  const view = new DataView(buffer);
  const version = view.getUint8(0);
  if (version !== VERSION) throw new RangeError(`packet version: expected ${VERSION}, got ${version}`);
  const kind = KINDS[view.getUint8(1)];
  if (!kind) throw new RangeError(`packet kind: expected 1 or 2, got ${view.getUint8(1)}`);
  const flags = view.getUint8(2);
  return {
    header: {
      kind,
      keyframe: (flags & KEYFRAME) !== 0,
      generated: (flags & GENERATED) !== 0,
      injected: (flags & INJECTED) !== 0,
      generation: view.getUint32(4, true),
      frame: Number(view.getBigUint64(8, true)),
      pts: Number(view.getBigUint64(16, true)),
      block: Number(view.getBigUint64(24, true)),
      label: view.getUint32(32, true),
    },
    payload: new Uint8Array(buffer, HEADER_LENGTH),
  };
}

const INJECTION = 16;
const INJECTION_HEADER = 16;

/** Frames to inject as a binary message: equally long RGB24 pictures (Uint8Array), oldest first. */
export function injection(id, frames) {
  const length = frames.reduce((sum, frame) => sum + frame.length, INJECTION_HEADER);
  const message = new Uint8Array(length);
  const view = new DataView(message.buffer);
  view.setUint8(0, VERSION);
  view.setUint8(1, INJECTION);
  view.setUint8(2, frames.length);
  view.setBigUint64(8, BigInt(id), true);
  let at = INJECTION_HEADER;
  for (const frame of frames) {
    message.set(frame, at);
    at += frame.length;
  }
  return message.buffer;
}

/** A request as text. `fields` are those of its type. */
export function request(id, type, fields = {}) {
  return JSON.stringify({ type, id, ...fields });
}

/** Reads a text message; anything that is not an object with a type is an error. */
export function parseMessage(text) {
  const message = JSON.parse(text);
  if (typeof message?.type !== "string") throw new TypeError("message without a type");
  return message;
}
