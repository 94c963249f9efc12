// H.264 as it comes by the WebSocket, wrapped into fragmented MP4 (ISO/IEC 14496-12 and -15) for MediaSource.
// Pure functions, tested in node: what they make is decoded by ffmpeg.

const SPS = 7;
const PPS = 8;
/** What a sample does not hold: MP4 has parameter sets in its header, and neither delimiters nor remarks are needed. */
const LEFT_OUT = new Set([6, SPS, PPS, 9]);

/** The NAL units of an Annex B access unit, without start codes. */
export function nalUnits(data) {
  const units = [];
  let start = -1;
  for (let at = 0; at + 2 < data.length; at++) {
    if (data[at] || data[at + 1] || data[at + 2] !== 1) continue;
    if (start >= 0) units.push(withoutZeros(data.subarray(start, at)));
    start = at + 3;
    at += 2;
  }
  if (start >= 0) units.push(data.subarray(start));
  return units.filter((unit) => unit.length > 0);
}

/** A start code may have more zeros in front; a NAL unit never ends with one. */
function withoutZeros(unit) {
  let end = unit.length;
  while (end && !unit[end - 1]) end--;
  return unit.subarray(0, end);
}

/** The parameter sets of an access unit, `null` if it has none. */
export function parameterSets(units) {
  const sps = units.find((unit) => (unit[0] & 31) === SPS);
  const pps = units.find((unit) => (unit[0] & 31) === PPS);
  return sps && pps ? { sps, pps } : null;
}

/** The header: one track of `width` by `height`, whose clock ticks `timescale` times a second. */
export function initSegment({ sps, pps }, { width, height }, timescale) {
  const avcc = box("avcC", [1, sps[1], sps[2], sps[3], 0xff, 0xe1], u16(sps.length), sps, [1], u16(pps.length), pps);
  const size = [...u16(width), ...u16(height)];
  const dpi = u32(72 << 16);
  const avc1 = box(
    "avc1", zeros(6), u16(1), zeros(16), size, dpi, dpi, zeros(4), u16(1), zeros(32), u16(24), u16(0xffff), avcc,
  );
  const stbl = box(
    "stbl",
    full("stsd", 0, 0, u32(1), avc1),
    full("stts", 0, 0, u32(0)),
    full("stsc", 0, 0, u32(0)),
    full("stsz", 0, 0, u32(0), u32(0)),
    full("stco", 0, 0, u32(0)),
  );
  const dinf = box("dinf", full("dref", 0, 0, u32(1), full("url ", 0, 1)));
  const minf = box("minf", full("vmhd", 0, 1, zeros(8)), dinf, stbl);
  const hdlr = full("hdlr", 0, 0, zeros(4), text("vide"), zeros(13));
  const mdhd = full("mdhd", 0, 0, zeros(8), u32(timescale), zeros(4), u16(0x55c4), zeros(2));
  const matrix = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30].flatMap(u32);
  const tkhd = full(
    "tkhd", 0, 3, zeros(8), u32(1), zeros(4), zeros(4), zeros(16), matrix, u32(width << 16), u32(height << 16),
  );
  const trak = box("trak", tkhd, box("mdia", mdhd, hdlr, minf));
  const mvhd = full("mvhd", 0, 0, zeros(8), u32(timescale), zeros(4), u32(1 << 16), u16(0x100), zeros(10), matrix, zeros(24), u32(2));
  const mvex = box("mvex", full("trex", 0, 0, u32(1), u32(1), zeros(12)));
  return concat(box("ftyp", text("iso5"), u32(512), text("iso5iso6mp41")), box("moov", mvhd, trak, mvex));
}

/** One frame: `sequence` counts fragments from 1, `time` and `duration` are in ticks. */
export function fragment(units, { sequence, time, duration, keyframe }) {
  const kept = units.filter((unit) => !LEFT_OUT.has(unit[0] & 31));
  const sample = concat(...kept.flatMap((unit) => [u32(unit.length), unit]));
  const flags = keyframe ? 0x02000000 : 0x01010000;
  const moof = (offset) =>
    box(
      "moof",
      full("mfhd", 0, 0, u32(sequence)),
      box(
        "traf",
        full("tfhd", 0, 0x020000, u32(1)),
        full("tfdt", 1, 0, u32(Math.floor(time / 2 ** 32)), u32(time)),
        full("trun", 0, 0x000701, u32(1), u32(offset), u32(duration), u32(sample.length), u32(flags)),
      ),
    );
  return concat(moof(moof(0).length + 8), box("mdat", sample));
}

function box(name, ...parts) {
  const body = concat(...parts);
  return concat(u32(body.length + 8), text(name), body);
}

function full(name, version, flags, ...parts) {
  return box(name, u32((version << 24) | flags), ...parts);
}

function u16(value) {
  return [(value >>> 8) & 255, value & 255];
}

function u32(value) {
  return [(value >>> 24) & 255, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
}

function zeros(count) {
  return new Uint8Array(count);
}

function text(ascii) {
  return Array.from(ascii, (letter) => letter.charCodeAt(0));
}

/**
 * Until when a buffer that begins at `start` may be emptied, to keep what comes after `past`; all in seconds, 0: not yet. What a
 * browser removes goes on to the next keyframe, or to the end if there is none. `keys`: the numbers of keyframes, in order.
 */
export function removable(keys, start, past, frame) {
  const key = keys.findLast((number) => number * frame <= past);
  return key !== undefined && start < (key - 1) * frame ? (key - 0.5) * frame : 0;
}

export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
