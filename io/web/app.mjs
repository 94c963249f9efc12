// Wires the stream to everything that shows it or asks for something, and decides in which state the page is.

import { beginSession, pastBlocks } from "/api.mjs";
import { Charts } from "/charts.mjs";
import { element, labelColour, labelName, write } from "/dom.mjs";
import { Futures } from "/futures.mjs";
import { Glass } from "/glass.mjs";
import { History } from "/history.mjs";
import { Inject } from "/inject.mjs";
import { Moments } from "/moments.mjs";
import { MAIN, NEW, go, here, lead, onPlace, socketOf } from "/place.mjs";
import { Playback, Sampling } from "/playback.mjs";
import { Receipt } from "/receipt.mjs";
import { Recordings } from "/recordings.mjs";
import { SessionList, obstacle, openTab } from "/sessions.mjs";
import { Pulse, Status } from "/status.mjs";
import { Steer } from "/steer.mjs";
import { Stream } from "/stream.mjs";
import { Timeline } from "/timeline.mjs";

/** How often figures are written, in milliseconds. */
const FIGURES_EVERY = 500;

/** What tests and curious people can read. */
const stats = { session: null, next: null, drawn: 0, dropped: 0, header: null };
globalThis.__acdit = stats;
Object.defineProperties(stats, {
  state: { get: () => status.state, enumerable: true },
  kind: { get: () => stream.kind, enumerable: true },
  connects: { get: () => stream.connects, enumerable: true },
});

const forced = new URLSearchParams(location.search).get("kind");
const canvas = element("stream");
const status = new Status();
const pulse = new Pulse();
const past = new History();
const receipt = new Receipt(element("answer"));
/** Whether the server was asked for what came before the first picture of this connection, or since frames were left out. */
let recalled = false;
/** Whether the session stood still when it was last heard of. */
let paused = false;
/** Ends this page's place in the line for a session of its own. */
let leaving = new AbortController();
/** What the next session has of this one's past, as `{ block, seen }`; null: it has a past of its own. */
let branch = null;

const stream = new Stream(canvas, {
  connecting: () => {
    if (status.state === "taken") return;
    if (stream.connects) status.set("lost", "Trying now");
    else status.set("connecting");
  },
  hello,
  drawn,
  passed: (header) => timeline.passed(header),
  state: follow,
  gap: ({ dropped }) => {
    stats.dropped += dropped;
    recalled = false;
    pulse.stumbled();
  },
  lost: ({ retryIn }) => {
    enable(false);
    if (status.state !== "taken") status.set("lost", `Next attempt in ${(retryIn / 1000).toFixed(1)} s`);
    explain();
  },
  refused: (reason) => {
    enable(false);
    status.set("refused", reason);
  },
}, forced);

/** Sends a request and tells how it goes. `settled(done)` and `applied(message)` may add to that. */
function ask(type, what, fields = {}, { settled, applied, visible } = {}) {
  const answers = receipt.follow(what, { visible, applied: () => settled?.(true), refused: () => settled?.(false) });
  stream.send(type, fields, {
    ...answers,
    applied: (message) => {
      answers.applied(message);
      applied?.(message);
    },
  });
}
const plainly = (type, what, fields, settled) => ask(type, what, fields, { settled });

function rewind(block) {
  timeline.choose(null);
  ask("rewind", `Rewind to block ${block}`, { block });
}

function fork(block) {
  ask("fork", `Fork at block ${block}`, { block }, {
    applied: ({ block, session }) => {
      timeline.mark(block, "fork");
      openTab(session, element("answer"));
      sessions.refresh();
    },
  });
}

const playback = new Playback(plainly);
const sampling = new Sampling(plainly);
const moments = new Moments({ rewind, fork, futures: (block) => futures.show(block) });
const timeline = new Timeline(past, { rewind, choose: (block) => moments.choose(block) });
const steer = new Steer({
  ask: (name, index, settled) => ask("label", name, { index }, { settled, visible: true }),
  keys: { " ": () => playback.toggle(), ".": () => playback.step(), Backspace: () => moments.back() },
});
const inject = new Inject((frames, answers) => stream.inject(frames, answers));
const recordings = new Recordings(plainly);
const charts = new Charts();
const glass = new Glass();
const sessions = new SessionList();
const futures = new Futures({
  send: (...request) => stream.send(...request),
  begun: (block) => timeline.mark(block, "futures"),
  goOn: (session, shared) => {
    go(session);
    branch = shared;
  },
  kind: forced,
});

/** Everything that is usable only while connected, and everything that follows the server's state. */
const usable = [steer, playback, sampling, moments, timeline, inject, recordings];
const followers = [steer, playback, sampling, moments, timeline, inject, recordings, charts, glass, pulse];

function hello({ info, state, upload_bytes }, kind) {
  if (branch) timeline.branch(branch);
  const again = (stream.connects > 1 || branch !== null) && past.leadsTo(state);
  branch = null;
  recalled = false;
  for (const part of [steer, sampling, futures, recordings, charts, sessions, pulse]) part.reset(info);
  timeline.reset(info, again);
  inject.reset(info, upload_bytes);
  enable(true);
  write("world", info.world);
  write("codec", kind === "jpeg" ? "JPEG" : info.codec);
  document.body.style.setProperty("--aspect", info.display.width / info.display.height);
  const { width, height } = info.frame;
  const about = [`${width} × ${height}`, `${info.frames_per_block} frames a block`, `${info.frames_per_second} frames/s`];
  if (info.window.blocks) about.push(`${info.window.blocks} blocks of memory`);
  write("about", [...about, `weights ${info.weights}`].join(" · "));
  status.set("connecting", "Waiting for the first picture");
  follow(state);
}

function follow(state) {
  if (state.paused && !paused) stream.catchUp(state);
  paused = state.paused;
  stats.next = state.block;
  if (paused) charts.paused();
  for (const part of followers) part.follow(state);
  settle();
}

/** Fills in what the session did before this page came, or while it was away. */
async function recall(header) {
  const session = here();
  const blocks = await pastBlocks(session).catch(() => []);
  if (session === here() && stream.playing) timeline.recall(header, blocks, stream.info.frames_per_block);
}

function drawn(header) {
  if (!recalled) recall(header);
  recalled = true;
  stats.drawn++;
  stats.header = header;
  const real = header.injected && !header.generated;
  write("label", real ? "real frames" : labelName(stream.info.labels, header.label));
  element("showing").style.setProperty("--colour", labelColour(header.label));
  element("showing").classList.toggle("real", header.injected);
  write("block", header.block);
  pulse.drawn();
  timeline.shown(header, canvas);
  charts.shown(header);
  receipt.shown(header);
  inject.shown(header);
  settle();
}

function enable(ready) {
  for (const part of usable) part.enable(ready);
}

/** Says why a connection ended or never began, where the server still tells. A private session may become free. */
async function explain() {
  const session = here();
  const why = await obstacle(session);
  if (stream.playing || session !== here()) return;
  if (why === "signed out") return location.reload(); // its answer is the page to sign in
  if (why === "gone") stream.close();
  if (why) status.set(why);
  else if (status.state === "taken") status.set("lost");
}

/** Chooses between the states of a connection that works. */
function settle() {
  const state = stream.playing ? pulse.state : null;
  if (state) status.set(state);
  else if (stream.playing && status.state === "stopped") status.set("connecting", "Waiting for a picture");
}

/** Shows the session of the address. */
async function arrive(session) {
  stats.session = session;
  branch = null;
  leaving.abort();
  stream.close();
  enable(false);
  futures.close();
  timeline.choose(null);
  write("which", session === MAIN ? "" : session);
  element("which").hidden = session === MAIN || session === NEW;
  element("showing").hidden = element("numbers").hidden = true;
  canvas.getContext("2d", { alpha: false }).clearRect(0, 0, canvas.width, canvas.height);
  receipt.say("Use the buttons or their keys");
  if (session === NEW) return beginOwn();
  status.set("connecting");
  stream.open(socketOf(session));
}

/** A private session for this page, as soon as there is a place. */
async function beginOwn() {
  leaving = new AbortController();
  const { signal } = leaving;
  status.set("connecting", "Asking for a session of your own");
  const onQueue = (place) => status.set("queued", undefined, `In line, place ${place}`);
  try {
    const session = await beginSession({ private: true, ephemeral: true }, { onPlace: onQueue, signal });
    go(session, { replace: true });
  } catch (error) {
    if (!signal.aborted) status.set("refused", error.message);
  }
}

lead(element("to-main"), MAIN);
element("retry").onclick = () => (here() === NEW ? arrive(NEW) : stream.retry());
element("full").onclick = () => {
  const change = document.fullscreenElement ? document.exitFullscreen() : element("stage").requestFullscreen();
  change.catch(() => {}); // refused: the page stays as it is
};
element("full").hidden = !document.fullscreenEnabled;
setInterval(() => {
  settle();
  const { numbers } = stream;
  if (!numbers) return;
  write("fps", numbers.rate.toFixed(1));
  write("latency", `${Math.round(numbers.decode + numbers.wait + numbers.roundTrip / 2)} ms`);
  charts.render();
  glass.render(numbers);
}, FIGURES_EVERY);

onPlace(arrive);
arrive(here());
