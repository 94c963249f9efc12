// Wires connection, player, controls and timeline, and says in which state the page is.

import { Connection } from "/connection.mjs";
import { Controls } from "/controls.mjs";
import { Player, bestKind } from "/player.mjs";
import { Timeline, labelColour } from "/timeline.mjs";

const element = (id) => document.getElementById(id);

const STATES = {
  connecting: { title: "Connecting", text: "Looking for the stream" },
  live: { title: "Live" },
  paused: { title: "Paused" },
  slow: { title: "Slow" },
  lost: { title: "Reconnecting", text: "The server does not answer" },
  refused: { title: "Refused" },
};
/** A picture later than so many blocks means that something is slow. */
const LATE_BLOCKS = 3;
/** How long after the last gap, late block or stall the page still says so, in milliseconds. */
const SLOW_LINGERS = 3000;

/** What tests and curious people can read. */
const stats = { state: "connecting", drawn: 0, dropped: 0, connects: 0, kind: null, header: null };
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
const controls = new Controls((...request) => connection.send(...request));
const scheme = location.protocol === "https:" ? "wss" : "ws";
const connection = new Connection(`${scheme}://${location.host}/ws`, {
  connecting: () => (stats.connects ? setState("lost", "Trying now") : setState("connecting")),
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
    setState("lost", `Next attempt in ${(retryIn / 1000).toFixed(1)} s`);
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
  controls.enable(true);
  element("world").textContent = info.world;
  element("codec").textContent = kind === "h264" ? info.codec : "JPEG";
  element("stage").style.aspectRatio = `${info.display.width} / ${info.display.height}`;
  const { width, height } = info.frame;
  const about = [`${width} × ${height}`, `${info.frames_per_block} frames a block`, `${info.frames_per_second} frames/s`];
  if (info.window.blocks) about.push(`${info.window.blocks} blocks of memory`);
  element("about").textContent = [...about, `weights ${info.weights}`].join(" · ");
  setState("connecting", "Waiting for the first picture");
  lastDrawn = 0;
  underruns = Infinity;
  follow(message.state);
  return kind;
}

function follow(state) {
  if (paused && !state.paused) lastDrawn &&= performance.now();
  if (state.underruns > underruns) slowUntil = performance.now() + SLOW_LINGERS;
  underruns = state.underruns;
  paused = state.paused;
  controls.follow(state);
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
  controls.enable(false);
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
  element("retry").hidden = state !== "lost" && state !== "refused";
  if (playing) element("showing").hidden = element("numbers").hidden = false;
}

/** Live regions speak whenever they are written, so write only what is new. */
function write(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

element("retry").onclick = () => connection.connect();
setInterval(() => {
  settle();
  if (!player) return;
  const { rate, delay } = player.numbers;
  write("fps", rate.toFixed(1));
  write("latency", `${Math.round(delay + roundTrip / 2)} ms`);
}, 500);

connection.connect();
