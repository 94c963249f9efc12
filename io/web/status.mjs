// In which state the page is, and how it says so: the pill in the header and the veil over the picture.

import { element, write } from "/dom.mjs";

const STATES = {
  connecting: { title: "Connecting", text: "Looking for the stream" },
  queued: { title: "In line", text: "All places are taken; yours comes as soon as one is free" },
  live: { title: "Live", playing: true },
  paused: { title: "Paused", playing: true },
  stopped: { title: "Stopped", text: "Block after block failed. Resume tries again" },
  slow: { title: "Slow", playing: true },
  lost: { title: "Reconnecting", text: "The server does not answer", retry: true },
  refused: { title: "Refused", retry: true },
  gone: { title: "No such session", text: "It was deleted, or the server began anew without it", retry: true, main: true },
  taken: { title: "Private session", text: "Its viewer is here already; this page joins when it has left", retry: true, main: true },
};

export class Status {
  state = "connecting";

  /** `text` instead of the state's own; `title` as well. */
  set(state, text = STATES[state].text ?? "", title = STATES[state].title) {
    const { playing = false, retry = false, main = false } = STATES[state];
    this.state = state;
    document.body.dataset.state = state;
    write("status-text", title);
    write("veil-title", title);
    write("veil-text", text);
    element("veil").hidden = playing;
    element("retry").hidden = !retry;
    element("to-main").hidden = !main && state !== "queued";
    if (playing) element("showing").hidden = element("numbers").hidden = false;
  }
}

/** A picture later than so many blocks means that something is slow. */
const LATE_BLOCKS = 3;
/** How long after the last gap, late block or stall the page still says so, in milliseconds. */
const SLOW_LINGERS = 3000;

/** Chooses between live, paused and slow while a stream plays. */
export class Pulse {
  #block = Infinity;
  #paused = false;
  #gaveUp = false;
  /** Blocks late or lost so far. */
  #troubles = Infinity;
  #drawn = 0;
  #slowUntil = 0;

  reset({ frames_per_block, frames_per_second }) {
    this.#block = (1000 * frames_per_block) / frames_per_second;
    this.#troubles = Infinity;
    this.#drawn = 0;
    this.#slowUntil = 0;
  }

  follow({ paused, underruns, failures, gave_up: gaveUp }) {
    if (this.#paused && !paused) this.#drawn &&= performance.now();
    const troubles = underruns + failures;
    if (troubles > this.#troubles) this.stumbled();
    this.#troubles = troubles;
    this.#paused = paused;
    this.#gaveUp = gaveUp !== null;
  }

  drawn() {
    this.#drawn = performance.now();
  }

  /** Something was late. */
  stumbled() {
    this.#slowUntil = performance.now() + SLOW_LINGERS;
  }

  /** "live", "paused", "stopped" or "slow"; null before the first picture. */
  get state() {
    if (this.#gaveUp) return "stopped";
    if (!this.#drawn) return null;
    const now = performance.now();
    if (!this.#paused && !document.hidden && now - this.#drawn > LATE_BLOCKS * this.#block) this.stumbled();
    return this.#paused ? "paused" : now < this.#slowUntil ? "slow" : "live";
  }
}
