// The futures grid: from one moment two to nine sessions, each with its own label or seed, side by side.
//
// The server steps them as one batch with the session that they come from. They are ephemeral: those that nobody goes on
// in are ended when the grid closes, and end by themselves if this page just disappears.

import { endSession } from "/api.mjs";
import { element, labelColour, labelName, make, swatch, write } from "/dom.mjs";
import { History } from "/history.mjs";
import { socketOf } from "/place.mjs";
import { Stream } from "/stream.mjs";

const FEWEST = 2;
const MOST = 9;
/** Seeds chosen here are short enough to be read out. */
const SEEDS = 1_000_000;

export class Futures {
  #send;
  #kind;
  #on;
  #dialog = element("futures");
  #labels = [];
  #block = 0;
  #open = [];
  /** Counts grids, so that an answer for one that was closed is not shown in the next. */
  #turn = 0;

  /** `send(type, fields, answers)` as in Connection; `begun(block)` when a moment got futures; `goOn(id, { block, seen })`, `seen`: a History. */
  constructor({ send, begun, goOn, kind }) {
    this.#send = send;
    this.#on = { begun, goOn };
    this.#kind = kind;
    for (const radio of element("futures-by").querySelectorAll("input")) radio.onchange = () => this.#show();
    element("futures-count").oninput = () => this.#show();
    element("futures-setup").onsubmit = (event) => {
      event.preventDefault();
      this.#begin();
    };
    element("futures-close").onclick = () => this.#dialog.close();
    element("futures-again").onclick = () => this.#setUp();
    this.#dialog.onclose = () => this.#end();
    this.#dialog.onkeydown = (event) => this.#key(event);
    addEventListener("pagehide", () => this.#end());
  }

  reset({ labels }) {
    this.#labels = labels;
    const choices = labels.map(({ name }, index) => {
      const box = make("input", { type: "checkbox", value: index, checked: index < MOST });
      box.onchange = () => this.#show();
      return make("label", {}, box, make("span", {}, swatch(index), name));
    });
    element("futures-labels").querySelector(".chips").replaceChildren(...choices);
    const [first, second] = element("futures-by").querySelectorAll("input");
    first.disabled = labels.length < FEWEST;
    if (first.disabled) second.checked = true;
  }

  /** Opens the grid for a block. */
  show(block) {
    this.#block = block;
    this.#setUp();
    if (!this.#dialog.open) this.#dialog.showModal();
    element("futures-begin").focus();
  }

  /** The connection is gone, and with it perhaps the sessions. */
  close() {
    this.#dialog.close();
  }

  #setUp() {
    this.#end();
    write("futures-title", `Futures from block ${this.#block}`);
    this.#dialog.dataset.phase = "setup";
    this.#say("");
    this.#show();
  }

  get #byLabel() {
    return element("futures-by").querySelector(":checked").value === "label";
  }

  get #checked() {
    return [...element("futures-labels").querySelectorAll(":checked")].map(({ value }) => Number(value));
  }

  /** What each future shall be, and its name. */
  #wanted() {
    if (this.#byLabel) return this.#checked.map((label) => ({ label }));
    const seeds = new Set();
    while (seeds.size < element("futures-count").valueAsNumber) seeds.add(Math.floor(Math.random() * SEEDS));
    return [...seeds].map((seed) => ({ seed }));
  }

  #show() {
    const byLabel = this.#byLabel;
    const wanted = byLabel ? this.#checked.length : element("futures-count").valueAsNumber;
    element("futures-labels").hidden = !byLabel;
    element("futures-seeds").hidden = byLabel;
    write("futures-count-text", element("futures-count").value);
    const slider = element("futures-count");
    slider.style.setProperty("--at", (slider.value - slider.min) / (slider.max - slider.min));
    element("futures-begin").disabled = wanted < FEWEST || wanted > MOST;
    write("futures-begin", wanted < FEWEST || wanted > MOST ? `Choose ${FEWEST} to ${MOST}` : `Show ${wanted} futures`);
  }

  #begin() {
    const each = this.#wanted();
    const turn = ++this.#turn;
    this.#say("Beginning");
    element("futures-begin").disabled = true;
    this.#send("futures", { block: this.#block, each }, {
      applied: ({ block, sessions }) => {
        if (turn !== this.#turn) return sessions.forEach((id) => release(id));
        this.#on.begun(block);
        this.#grid(sessions.map((id, at) => ({ id, ...each[at] })));
      },
      refused: ({ message }) => {
        if (turn !== this.#turn) return;
        this.#say(message, "refused");
        this.#show();
      },
    });
  }

  #grid(futures) {
    this.#dialog.dataset.phase = "grid";
    this.#say("Choose one to go on in it");
    element("futures-grid").dataset.count = futures.length;
    this.#open = futures.map((future) => new Future(future, this.#labels, this.#kind, () => this.#goOn(future.id)));
    element("futures-grid").replaceChildren(...this.#open.map(({ item }) => item));
    this.#open[0].button.focus();
  }

  #goOn(id) {
    const future = this.#open.find((future) => future.id === id);
    future.kept = true;
    this.#dialog.close();
    this.#on.goOn(id, { block: this.#block, seen: future.seen });
  }

  /** Lets all go that nobody goes on in. */
  #end() {
    this.#turn++;
    for (const future of this.#open.splice(0)) future.end();
    element("futures-grid").replaceChildren();
  }

  /** The arrow keys move through the grid. */
  #key(event) {
    const at = this.#open.findIndex(({ button }) => button === document.activeElement);
    if (at < 0) return;
    const top = this.#open[0].item.offsetTop;
    const columns = this.#open.filter(({ item }) => item.offsetTop === top).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const next = this.#open[at + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.button.focus();
  }

  #say(text, phase = "") {
    write("futures-answer", text);
    element("futures-answer").dataset.phase = phase;
  }
}

/** One small player: a button with the picture and its name. */
class Future {
  #stream;
  #status = make("span", { className: "future-status" }, "Connecting");
  kept = false;
  seen = new History();

  constructor({ id, label, seed }, labels, kind, choose) {
    this.id = id;
    const words = seed === undefined ? labelName(labels, label) : `seed ${seed}`;
    const canvas = make("canvas", { "aria-hidden": "true" });
    const dot = swatch(label ?? labels.length);
    const title = make("span", { className: "future-name" }, dot, words);
    this.button = make("button", { type: "button", className: "future", onclick: choose }, canvas, title);
    this.button.setAttribute("aria-label", `Go on with ${words}`);
    this.item = make("li", {}, this.button, this.#status);
    const say = (text, state) => {
      write(this.#status, text);
      this.button.dataset.state = state;
    };
    this.#stream = new Stream(canvas, {
      drawn: (header) => {
        this.seen.note(header);
        dot.style.setProperty("--colour", labelColour(header.label));
        say("", "live");
      },
      passed: (header) => this.seen.note(header),
      lost: () => say("Reconnecting", "lost"),
      refused: (reason) => say(reason, "refused"),
    }, kind);
    this.#stream.open(socketOf(id));
  }

  end() {
    this.#stream.close();
    if (!this.kept) release(this.id);
  }
}

/** Best effort: a session that cannot be ended here ends by itself when nobody watches it. */
function release(id) {
  endSession(id, { keepalive: true }).catch(() => {});
}
