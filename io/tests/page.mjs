// The parts of the page that need no browser, against recorded messages and a hand-moved clock. Run by tests/protocol.rs.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fragment, initSegment, nalUnits, parameterSets } from "../web/fmp4.mjs";
import { parseMessage, parsePacket, request } from "../web/protocol.mjs";
import { Playout } from "../web/playout.mjs";

const recorded = JSON.parse(readFileSync(new URL("fixtures/messages.json", import.meta.url), "utf8"));

function bytes(hex) {
  const buffer = new ArrayBuffer(hex.length / 2);
  new Uint8Array(buffer).set(hex.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? []);
  return buffer;
}

for (const { name, hex, header, payload } of recorded.packets) {
  const packet = parsePacket(bytes(hex));
  assert.deepEqual(packet.header, header, name);
  assert.deepEqual(packet.payload, new Uint8Array(bytes(payload)), name);
}
for (const { name, hex, error } of recorded.bad_packets) {
  assert.throws(() => parsePacket(bytes(hex)), { name: "RangeError", message: new RegExp(error) }, name);
}
for (const message of recorded.server) {
  assert.deepEqual(parseMessage(JSON.stringify(message)), message);
}
for (const { id, type, ...fields } of recorded.client) {
  assert.deepEqual(JSON.parse(request(id, type, fields)), { id, type, ...fields });
}
for (const text of ["{", "null", "1", "[]", '{"id":1}']) {
  assert.throws(() => parseMessage(text), text);
}

const FRAME = 125;
const BLOCK = 4 * FRAME;

// Blocks that arrive whole and on time play at their own rate.
{
  const playout = new Playout(BLOCK);
  for (let block = 0; block < 8; block++) {
    for (let frame = 0; frame < 4; frame++) {
      const pts = (block * 4 + frame) * FRAME;
      assert.equal(playout.schedule(pts, block * BLOCK), pts);
    }
  }
}

// A late block moves the clock back by its lateness, once.
{
  const playout = new Playout(BLOCK);
  playout.schedule(0, 0);
  assert.equal(playout.schedule(BLOCK, BLOCK + 80), BLOCK + 80);
  assert.equal(playout.schedule(2 * BLOCK, 2 * BLOCK + 10), 2 * BLOCK + 80);
}

// A delay that turns out not to be needed is worked off.
{
  const playout = new Playout(BLOCK);
  playout.schedule(0, 0);
  playout.schedule(BLOCK, BLOCK + 400);
  let due;
  for (let frame = 8; frame < 400; frame++) due = playout.schedule(frame * FRAME, frame * FRAME);
  assert.ok(due - 399 * FRAME < 1, `still ${due - 399 * FRAME} ms behind`);
}

// A burst, such as the run from the last keyframe that a joiner gets, is never played more than a block behind.
{
  const playout = new Playout(BLOCK);
  let due;
  for (let frame = 0; frame < 40; frame++) due = playout.schedule(frame * FRAME, 1000);
  assert.equal(due, 1000 + BLOCK);
}

// A new generation starts a new clock.
{
  const playout = new Playout(BLOCK);
  playout.schedule(90_000, 0);
  playout.reset();
  assert.equal(playout.schedule(0, 5000), 5000);
}

// Fragmented MP4 for MediaSource: what ffmpeg encodes comes back frame by frame, with the times it was given.
function ffmpeg(program, words, input) {
  const { stdout, stderr, status } = spawnSync(program, ["-v", "error", ...words.split(" ")], { input, maxBuffer: 1 << 26 });
  assert.equal(status, 0, `${program} ${words}: ${stderr}`);
  return stdout;
}
const SOURCE = "-f lavfi -i testsrc=size=64x48:rate=8:duration=3 -pix_fmt yuv420p";
const stream = ffmpeg("ffmpeg", `${SOURCE} -c:v libx264 -g 8 -tune zerolatency -profile:v baseline -x264-params aud=1 -f h264 -`);
const delimiters = [...stream.keys()].filter((at) => stream.readUInt32BE(Math.min(at, stream.length - 4)) === 1 && stream[at + 4] === 9);
const accessUnits = delimiters.map((at, index) => nalUnits(stream.subarray(at, delimiters[index + 1])));
assert.equal(accessUnits.length, 24);
assert.deepEqual(accessUnits.flatMap((units, at) => (parameterSets(units) ? [at] : [])), [0, 8, 16]);
const wrapped = accessUnits.map((units, at) =>
  fragment(units, { sequence: at + 1, time: 2 ** 33 + at * 1000, duration: 1000, keyframe: at % 8 === 0 }),
);
const film = Buffer.concat([initSegment(parameterSets(accessUnits[0]), { width: 64, height: 48 }, 8000), ...wrapped]);
const rows = (bytes) => String(bytes).trim().split("\n").filter((row) => !row.startsWith("#"));
const packets = rows(ffmpeg("ffprobe", "-show_entries packet=pts,duration,flags -of csv=p=0 -", film));
assert.deepEqual(packets, accessUnits.map((_, at) => `${2 ** 33 + at * 1000},1000,${at % 8 ? "__" : "K_"}`));
const hashes = (input, bytes) => rows(ffmpeg("ffmpeg", `${input} -f framemd5 -`, bytes)).map((row) => row.split(",").at(-1));
assert.deepEqual(hashes("-f mp4 -i -", film), hashes("-f h264 -i -", stream), "every picture is as it was");

assert.deepEqual(nalUnits(Uint8Array.of(0, 0, 0, 1, 9, 16, 0, 0, 1, 0x65, 0, 0, 3, 0, 0, 0, 1, 0x41)).map((unit) => [...unit]), [
  [9, 16],
  [0x65, 0, 0, 3],
  [0x41],
]);
assert.deepEqual(nalUnits(Uint8Array.of(1, 2, 3)), []);
