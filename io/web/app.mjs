// Wires connection, player, controls, timeline and sessions, and says in which state the page is.

import { Connection } from "/connection.mjs";
import { Controls } from "/controls.mjs";
import { Player, bestKind, wireKind } from "/player.mjs";
import { Rewind } from "/rewind.mjs";
import { SessionList, isMain, obstacle, openSession, pageOf, session, socketPath } from "/sessions.mjs";
import { Timeline, labelColour } from "/timeline.mjs";

const element = (id) => document.getElementById(id);

const STATES = {
  connecting: { title: "Connecting", text: "Looking for the stream" },
  live: { title: "Live" },
  paused: { title: "Paused" },
  slow: { title: "Slow" },
  lost: { title: "Reconnecting", text: "The server does not answer" },
  refused: { title: "Refused" },
  gone: { title: "No such session", text: `There is no session ${session}: it was deleted, or the server began anew without it` },
  taken: { title: "Private session", text: "Its viewer is here already; this page joins when it has left" },
};
/** A picture later than so many blocks means that something is slow. */
const LATE_BLOCKS = 3;
/** How long after the last gap, late block or stall the page still says so, in milliseconds. */
const SLOW_LINGERS = 3000;

/** What tests and curious people can read. */
const stats = { state: "connecting", next: null, drawn: 0, dropped: 0, connects: 0, kind: null, header: null };
globalThis.__acdit = stats;

const forced = new URLSearchParams(location.search).get("kind");
let info = null;
let player = null;
let paused = false;
let underruns = Infinity;
let roundTrip = 0;
let lastDrawn = 0;
let slowUntil = 0;
let decodeErrors = 0;

const timeline = new Timeline(element("timeline"), element("timeline-text"));
const controls = new Controls((...request) => connection.send(...request), { clips: isMain });
const rewind = new Rewind({
  rewind: (block) => controls.ask("rewind", `Rewind to block ${block}`, { block }),
  fork: (block) => controls.ask("fork", `Fork at block ${block}`, { block }, { applied: openSession }),
});
const sessions = new SessionList();
const scheme = location.protocol === "https:" ? "wss" : "ws";
const connection = new Connection(`${scheme}://${location.host}${socketPath}`, {
  connecting: () => {
    if (stats.state === "taken") return;
    if (stats.connects) setState("lost", "Trying now");
    else setState("connecting");
  },
  hello,
  packet: (packet) => player?.push(packet),
  state: follow,
  gap: ({ dropped }) => {
    stats.dropped += dropped;
    slowUntil = performance.now() + SLOW_LINGERS;
  },
  roundTrip: (milliseconds) => (roundTrip = milliseconds),
  lost: ({ retryIn }) => {
    stop();
    if (stats.state !== "taken") setState("lost", `Next attempt in ${(retryIn / 1000).toFixed(1)} s`);
    explain();
  },
  refused: (reason) => {
    stop();
    setState("refused", reason);
  },
});

async function hello(message) {
  info = message.info;
  const kind = forced ?? (decodeErrors > 1 ? "jpeg" : await bestKind(info.codec));
  stats.kind = kind;
  stats.connects++;
  player?.close();
  player = new Player(element("stream"), info, kind, { onDraw: drawn, onError: decodeFailed });
  timeline.reset(info.labels);
  controls.reset(info, message.upload_bytes);
  sessions.reset(info);
  enable(true);
  element("world").textContent = info.world;
  element("codec").textContent = kind === "jpeg" ? "JPEG" : info.codec;
  element("stage").style.aspectRatio = `${info.display.width} / ${info.display.height}`;
  const { width, height } = info.frame;
  const about = [`${width} × ${height}`, `${info.frames_per_block} frames a block`, `${info.frames_per_second} frames/s`];
  if (info.window.blocks) about.push(`${info.window.blocks} blocks of memory`);
  element("about").textContent = [...about, `weights ${info.weights}`].join(" · ");
  setState("connecting", "Waiting for the first picture");
  lastDrawn = 0;
  underruns = Infinity;
  follow(message.state);
  return wireKind(kind);
}

function follow(state) {
  if (paused && !state.paused) lastDrawn &&= performance.now();
  if (state.underruns > underruns) slowUntil = performance.now() + SLOW_LINGERS;
  underruns = state.underruns;
  paused = state.paused;
  stats.next = state.block;
  controls.follow(state);
  rewind.follow(state);
  settle();
}

function drawn(header) {
  stats.drawn++;
  stats.header = header;
  lastDrawn = performance.now();
  decodeErrors = 0;
  const name = info.labels[header.label]?.name ?? `label ${header.label}`;
  element("label").textContent = header.injected ? "from the clip" : name;
  element("showing").style.setProperty("--colour", labelColour(header.label));
  element("block").textContent = header.block;
  timeline.show(header);
  controls.shown(header);
  settle();
}

/** A new connection starts at a keyframe; one that fails again is tried with JPEG. */
function decodeFailed(error) {
  console.warn("decoding:", error.message);
  decodeErrors++;
  connection.reconnect();
}

function stop() {
  player?.close();
  player = null;
  enable(false);
}

function enable(ready) {
  controls.enable(ready);
  rewind.enable(ready);
}

/** Says why a connection ended or never began, where the server still tells. A private session may become free. */
async function explain() {
  const why = await obstacle();
  if (player) return;
  if (why === "gone") connection.close();
  if (why) setState(why);
  else if (stats.state === "taken") setState("lost");
}

/** Chooses between the states of a connection that works. */
function settle() {
  if (!player || !lastDrawn) return;
  const block = (1000 * info.frames_per_block) / info.frames_per_second;
  const now = performance.now();
  if (!paused && !document.hidden && now - lastDrawn > LATE_BLOCKS * block) slowUntil = now + SLOW_LINGERS;
  setState(paused ? "paused" : now < slowUntil ? "slow" : "live");
}

function setState(state, text = STATES[state].text ?? "") {
  const { title } = STATES[state];
  const playing = state === "live" || state === "slow" || state === "paused";
  stats.state = state;
  document.body.dataset.state = state;
  write("status-text", title);
  write("veil-title", title);
  write("veil-text", text);
  element("veil").hidden = playing;
  element("retry").hidden = !["lost", "refused", "gone", "taken"].includes(state);
  element("to-main").hidden = state !== "gone" && state !== "taken";
  if (playing) element("showing").hidden = element("numbers").hidden = false;
}

/** Live regions speak whenever they are written, so write only what is new. */
function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

element("which").textContent = session;
element("which").hidden = isMain;
element("to-main").href = pageOf("main");
element("retry").onclick = () => connection.connect();
setInterval(() => {
  settle();
  if (!player) return;
  const { rate, delay } = player.numbers;
  write("fps", rate.toFixed(1));
  write("latency", `${Math.round(delay + roundTrip / 2)} ms`);
}, 500);

connection.connect();
