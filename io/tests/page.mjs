// The parts of the page that need no browser, against recorded messages and a hand-moved clock. Run by tests/protocol.rs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
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
