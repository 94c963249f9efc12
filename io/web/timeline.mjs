// The strip of recent blocks: coloured by label, striped where frames came from outside, notched where something happened.
//
// It is a slider over all blocks that a rewind reaches. A click or an arrow key chooses a block; a drag goes back to where
// it ends. While somebody drags, the strip stands still under the finger.

import { element, labelColour, labelName, make, write } from "/dom.mjs";
import { Thumbnails } from "/thumbnails.mjs";

/** Pixels from one block to the next, the gap included. */
const PITCH = 8;
/** Pixels that a finger may stray in a click. */
const STRAY = 5;
const PAGE = 8;
const WORDS = { rewind: "rewound to here", fork: "forked here", futures: "futures from here" };

export class Timeline {
  #history;
  #on;
  #thumbnails = new Thumbnails();
  #labels = [];
  #cells = [];
  #ready = false;
  #block = 0;
  #reach = 0;
  #recording = null;
  /** The block chosen; `null` is now, wherever that is. */
  #chosen = null;
  #hovered = null;
  #drag = null;
  /** First block on the strip. */
  #first = 0;
  /** Something was noted that is not on the strip yet. */
  #stale = false;

  /** `choose(block)` when another block (or null, now) was chosen, `rewind(block)` at the end of a drag or on Enter. */
  constructor(history, { choose, rewind }) {
    this.#history = history;
    this.#on = { choose, rewind };
    const strip = element("timeline");
    strip.onkeydown = (event) => this.#key(event);
    strip.onpointerdown = (event) => this.#down(event);
    strip.onpointermove = (event) => this.#move(event);
    strip.onpointerup = (event) => this.#up(event);
    strip.onpointercancel = () => this.#cancel();
    strip.onpointerleave = () => this.#hover(null);
    strip.onblur = () => this.#hover(null);
    new ResizeObserver(() => this.#fit()).observe(strip);
  }

  /** Another session, or the same after a reconnect (`again`), whose past is still true. */
  reset({ labels, display }, again) {
    this.#labels = labels;
    const preview = element("preview-picture");
    preview.height = Math.round((preview.width * display.height) / display.width);
    if (!again) {
      this.#history.reset();
      this.#thumbnails.reset();
    }
    this.#drag = null;
    this.#chosen = null;
    this.#hover(null);
  }

  enable(ready) {
    this.#ready = ready;
    if (!ready) this.#cancel();
    element("timeline").setAttribute("aria-disabled", String(!ready));
  }

  /** Follows what the server announces. */
  follow(state) {
    const { block, reach, recording } = state;
    this.#history.follow(state);
    this.#block = block;
    this.#reach = reach;
    this.#recording = recording?.since ?? null;
    this.choose(this.#chosen);
  }

  /** A frame was drawn. */
  shown(header, canvas) {
    this.passed(header);
    if (!this.#stale) return;
    this.#thumbnails.keep(header.block, canvas);
    this.#render();
    this.#stale = false;
  }

  /** A frame was due, but a newer one is drawn instead. */
  passed(header) {
    const newest = this.#history.newest;
    if (!this.#history.note(header)) return;
    if (header.block < newest) this.#thumbnails.cut(header.block);
    this.#stale = true;
  }

  /** The server tells of blocks before that of a frame. */
  recall(header, blocks, frames) {
    this.#history.recall(header, blocks, frames);
    this.#render();
  }

  /** Something happened just before a block. */
  mark(block, what) {
    this.#history.mark(block, what);
    this.#render();
  }

  /** The next session shares this one's past up to a block; `seen`: what was seen of it already. */
  branch({ block, seen }) {
    this.#history.branch(block, seen);
    this.#thumbnails.cut(block);
  }

  /** Chooses a block to go back to; null, and all that is not past, is now. */
  choose(block) {
    const next = block === null || block >= this.#block ? null : Math.max(block, this.#reach);
    if (next !== this.#chosen) {
      this.#chosen = next;
      this.#on.choose(next);
    }
    this.#render();
  }

  get #last() {
    return Math.max(this.#block - 1, this.#history.newest, 0);
  }

  #fit() {
    const width = element("timeline").clientWidth;
    const count = Math.max(1, Math.floor(width / PITCH));
    if (count === this.#cells.length) return;
    this.#cells = Array.from({ length: count }, () => make("span", { className: "cell" }));
    element("cells").replaceChildren(...this.#cells);
    this.#render();
  }

  #render() {
    const count = this.#cells.length;
    if (!this.#drag) {
      const newest = Math.max(0, this.#last - count + 1);
      // A block chosen from before the strip's beginning stays on it.
      this.#first = this.#chosen !== null && this.#chosen < newest ? this.#chosen : newest;
    }
    this.#cells.forEach((cell, index) => this.#paint(cell, this.#first + index));
    this.#point();
    const strip = element("timeline");
    const now = this.#chosen === null;
    strip.setAttribute("aria-valuemin", this.#reach);
    strip.setAttribute("aria-valuemax", this.#block);
    strip.setAttribute("aria-valuenow", this.#chosen ?? this.#block);
    // Read aloud whenever it changes: now stays now.
    strip.setAttribute("aria-valuetext", now ? "now" : `${this.#about(this.#chosen)}, ${this.#block - this.#chosen} back`);
    const from = this.#first;
    write("timeline-text", this.#last > from ? `blocks ${from} to ${this.#last}` : "");
  }

  #paint(cell, number) {
    const there = number <= this.#last && number >= 0;
    const seen = there ? this.#history.block(number) : undefined;
    const marks = there ? this.#history.marks(number) : [];
    const state = [];
    if (there) state.push(seen ? "seen" : "blank");
    if (seen?.real) state.push(seen.generated ? "pinned" : "real");
    if (number < this.#reach) state.push("lost");
    if (number === this.#history.newest) state.push("now");
    if (number === this.#chosen) state.push("chosen");
    if (this.#chosen !== null && number > this.#chosen) state.push("after");
    if (this.#recording !== null && there && number >= this.#recording) state.push("taped");
    const mark = marks.at(-1) ?? (there && this.#history.seam(number) ? "seam" : "");
    const name = ["cell", ...state].join(" ");
    if (cell.className !== name) cell.className = name;
    if ((cell.dataset.mark ?? "") !== mark) cell.dataset.mark = mark;
    const label = seen ? String(seen.label) : "";
    if (cell.dataset.label !== label) {
      cell.dataset.label = label;
      cell.style.setProperty("--colour", seen ? labelColour(seen.label) : "");
    }
  }

  /** "block 37, left, real frames, rewound to here" */
  #about(number) {
    const seen = this.#history.block(number);
    const words = [`block ${number}`];
    if (seen) words.push(seen.real && !seen.generated ? "real frames" : labelName(this.#labels, seen.label));
    if (seen?.real && seen.generated) words.push("pinned frames");
    if (this.#history.seam(number)) words.push("real frames end");
    return [...words, ...this.#history.marks(number).map((mark) => WORDS[mark])].join(", ");
  }

  /** Shows the picture of the block under the pointer, or of the one chosen by the keys. */
  #point() {
    const strip = element("timeline");
    const focused = strip.matches(":focus-visible") ? this.#chosen : null;
    const block = this.#drag?.moved ? (this.#chosen ?? this.#block - 1) : (this.#hovered ?? focused);
    const there = block !== null && block >= this.#first && block <= this.#last;
    element("preview").hidden = !there;
    if (!there) return;
    element("preview-picture").hidden = !this.#thumbnails.show(block, element("preview-picture"));
    write("preview-text", this.#drag?.moved ? this.#promise() : this.#about(block));
    const half = element("preview").offsetWidth / 2;
    const at = (block - this.#first + 0.5) * PITCH;
    element("preview").style.left = `${Math.min(Math.max(at, half), Math.max(strip.clientWidth - half, half))}px`;
  }

  #promise() {
    return this.#chosen === null ? "let go to stay" : `let go to rewind to block ${this.#chosen}`;
  }

  #hover(block) {
    if (block === this.#hovered) return;
    this.#hovered = block;
    this.#point();
  }

  #at({ clientX }) {
    const offset = clientX - element("timeline").getBoundingClientRect().left;
    return this.#first + Math.floor(offset / PITCH);
  }

  #down(event) {
    if (!this.#ready || event.button !== 0) return;
    element("timeline").setPointerCapture(event.pointerId);
    this.#drag = { from: event.clientX, before: this.#chosen, moved: false };
  }

  #move(event) {
    const block = this.#at(event);
    if (!this.#drag) return this.#hover(event.pointerType === "mouse" ? block : null);
    this.#drag.moved ||= Math.abs(event.clientX - this.#drag.from) > STRAY;
    if (!this.#drag.moved) return;
    // Past the left end the strip moves along.
    if (block < this.#first) this.#first = Math.max(this.#reach, block);
    this.choose(Math.max(block, this.#reach));
  }

  #up(event) {
    const drag = this.#drag;
    if (!drag) return;
    this.#drag = null;
    // After the mouse the arrow keys steer again.
    element("timeline").blur();
    const block = this.#at(event);
    if (!drag.moved) return this.choose(block === this.#chosen ? null : block);
    this.#hover(null);
    if (this.#chosen === null) this.#render();
    else this.#on.rewind(this.#chosen);
  }

  #cancel() {
    const drag = this.#drag;
    this.#drag = null;
    if (drag) this.choose(drag.before);
  }

  #key(event) {
    if (!this.#ready || event.ctrlKey || event.metaKey || event.altKey) return;
    const from = this.#chosen ?? this.#block;
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -PAGE, PageUp: PAGE, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.choose(Math.max(from + steps[event.key], this.#reach));
    else if (event.key === "Escape" && (this.#drag || this.#chosen !== null)) this.#drag ? this.#cancel() : this.choose(null);
    else if (event.key === "Enter" && this.#chosen !== null) this.#on.rewind(this.#chosen);
    else return;
    event.preventDefault();
  }
}
