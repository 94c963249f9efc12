// The parts of the page that need no browser, against recorded messages and a hand-moved clock. Run by tests/protocol.rs.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fragment, initSegment, nalUnits, parameterSets, removable } from "../web/fmp4.mjs";
import { History } from "../web/history.mjs";
import { cover, toRgb } from "../web/pixels.mjs";
import { Playout } from "../web/playout.mjs";
import { injection, parseMessage, parsePacket, request } from "../web/protocol.mjs";
import { Series, drift, points } from "../web/series.mjs";

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
for (const { name, hex, id, count, pixels } of recorded.injects.filter(({ count }) => count <= 4)) {
  const all = new Uint8Array(bytes(pixels));
  const frames = Array.from({ length: count }, (_, at) => all.slice((at * all.length) / count, ((at + 1) * all.length) / count));
  assert.deepEqual(new Uint8Array(injection(id, frames)), new Uint8Array(bytes(hex)), name);
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

const frame = (generation, block, more = {}) => ({ generation, block, label: 1, injected: false, generated: true, ...more });

// The timeline knows of each block what it was made with, and that a frame came from outside as soon as one did.
{
  const past = new History();
  assert.ok(past.note(frame(0, 5, { injected: true })));
  assert.ok(!past.note(frame(0, 5)), "nothing new");
  past.note(frame(0, 6, { label: 3 }));
  assert.deepEqual(past.block(5), { label: 1, real: true, generated: true });
  assert.deepEqual(past.block(6), { label: 3, real: false, generated: true });
  assert.equal(past.block(7), undefined);
  assert.equal(past.newest, 6);
}

// Going back forgets what came later, and says where.
{
  const past = new History();
  for (let block = 0; block < 9; block++) past.note(frame(0, block));
  past.mark(4, "fork");
  past.mark(8, "fork");
  past.note(frame(1, 6));
  assert.equal(past.newest, 6);
  assert.equal(past.block(7), undefined);
  assert.deepEqual([4, 6, 8].map((block) => past.marks(block)), [["fork"], ["rewind"], []]);
  assert.ok(!past.note(frame(0, 9)), "a frame from before counts no more");
  past.note(frame(2, 0));
  assert.deepEqual([past.newest, past.marks(0), past.marks(4)], [0, [], []], "a restart is a new past");
}

// Going back while paused shows the last picture before the block: what was gone back to is still the block.
for (const stateFirst of [true, false]) {
  const past = new History();
  for (let block = 0; block < 9; block++) past.note(frame(0, block));
  const state = { generation: 1, block: 6, paused: true };
  if (stateFirst) past.follow(state);
  past.note(frame(1, 5));
  if (!stateFirst) past.follow(state);
  assert.deepEqual([5, 6].map((block) => past.marks(block)), [[], ["rewind"]]);
  past.note(frame(1, 6));
  assert.deepEqual([past.newest, past.marks(6)], [6, ["rewind"]]);
}

// After a reconnect the past is still true, unless the server began anew.
{
  const past = new History();
  assert.ok(past.leadsTo({ generation: 0, block: 0 }));
  for (let block = 0; block < 9; block++) past.note(frame(2, block));
  assert.ok(past.leadsTo({ generation: 2, block: 9 }));
  assert.ok(past.leadsTo({ generation: 3, block: 4 }));
  assert.ok(!past.leadsTo({ generation: 2, block: 5 }));
  assert.ok(!past.leadsTo({ generation: 0, block: 50 }));
}

// Another session that shares the past up to a block.
{
  const past = new History();
  for (let block = 0; block < 9; block++) past.note(frame(3, block));
  const other = new History();
  other.note(frame(0, 5, { label: 4 }));
  other.note(frame(0, 6, { label: 2 }));
  past.branch(6, other);
  assert.equal(past.newest, 6);
  past.note(frame(0, 7, { label: 2 }));
  assert.deepEqual([5, 6, 7, 8].map((block) => past.block(block)?.label), [1, 2, 2, undefined]);
  assert.deepEqual(past.marks(6), ["futures"]);
}

// The seam of a clip is where generated blocks follow those that were not.
{
  const past = new History();
  past.note(frame(0, 0, { injected: true, generated: false }));
  past.note(frame(0, 1, { injected: true, generated: false }));
  past.note(frame(0, 2, { injected: true }));
  past.note(frame(0, 3));
  assert.deepEqual([0, 1, 2, 3].map((block) => past.seam(block)), [false, false, true, false]);
}

// Who comes late is told what came before; what was seen since is known better.
{
  const past = new History();
  past.recall({ generation: 0, block: 0 }, [{ block: 0, label: 1, injected: 0 }], 4);
  assert.equal(past.block(0), undefined, "of a generation that is not on screen");
  past.note(frame(2, 6, { label: 3 }));
  const told = [4, 4, 2, 0].map((injected, block) => ({ block: block + 3, label: 2, injected }));
  past.recall({ generation: 2, block: 6 }, told, 4);
  assert.deepEqual(past.block(4), { label: 2, real: true, generated: false });
  assert.deepEqual(past.block(5), { label: 2, real: true, generated: true });
  assert.equal(past.block(6).label, 3);
  assert.deepEqual([past.seam(5), past.newest], [true, 6]);
  past.note(frame(3, 5));
  past.recall({ generation: 2, block: 6 }, told, 4);
  assert.equal(past.block(6), undefined, "an answer that comes after a rewind is of another past");
}

// Only so much is kept.
{
  const past = new History();
  for (let block = 0; block < 2000; block++) past.note(frame(0, block));
  assert.equal(past.block(100), undefined);
  assert.ok(past.block(1500));
}

// Frames to inject: the middle of a picture, without its alpha.
assert.deepEqual(cover({ width: 320, height: 240 }, { width: 64, height: 64 }), [40, 0, 240, 240]);
assert.deepEqual(cover({ width: 100, height: 300 }, { width: 50, height: 25 }), [0, 125, 100, 50]);
assert.deepEqual(toRgb(new Uint8ClampedArray([1, 2, 3, 255, 4, 5, 6, 0])), new Uint8Array([1, 2, 3, 4, 5, 6]));

// Figures.
{
  const series = new Series(4);
  assert.equal(series.quantile(0.5), undefined);
  for (const value of [9, 4, 1, 3, 2]) series.push(value);
  assert.deepEqual([series.values, series.last, series.quantile(0.5), series.quantile(0.99)], [[4, 1, 3, 2], 2, 2, 4]);
  assert.equal(points([0, 5, 20], 3, [0, 10], 100, 50), "0.0,50.0 50.0,25.0 100.0,0.0");
  assert.equal(points([5], 3, [0, 10], 100, 50), "100.0,25.0");
  assert.deepEqual(drift({ mean: 0.5, deviation: 1.5 }, { mean: 0.25, deviation: 2 }), { mean: 0.125, spread: -0.25 });
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

// A buffer is emptied up to a keyframe that has been played: keyframes every 160 frames of a sixteenth of a second.
{
  const until = (start, past) => removable([0, 160, 320], start, past, 1 / 16);
  assert.equal(until(0, 9.9), 0, "the first keyframe is where it begins");
  assert.equal(until(0, 10), 159.5 / 16);
  assert.equal(until(0, 19.9), 159.5 / 16, "never up to one that is to come");
  assert.equal(until(10, 19.9), 0, "done already");
  assert.equal(until(10, 25), 319.5 / 16);
  assert.equal(removable([], 0, 99, 1 / 16), 0);
}
