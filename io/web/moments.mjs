// What to do at a moment: go back to it, fork there, look at its futures. The moment is now until one is chosen.

import { element, write } from "/dom.mjs";

const BACK = 8;

export class Moments {
  #on;
  #ready = false;
  #block = 0;
  #reach = 0;
  #chosen = null;

  /** `rewind(block)`, `fork(block)` and `futures(block)` ask for it. */
  constructor(on) {
    this.#on = on;
    element("back").onclick = () => this.back();
    element("rewind").onclick = () => this.#chosen !== null && on.rewind(this.#chosen);
    element("fork").onclick = () => on.fork(this.moment);
    element("look").onclick = () => on.futures(this.moment);
  }

  /** The block chosen, or the next one. */
  get moment() {
    return this.#chosen ?? this.#block;
  }

  back() {
    if (this.#ready && this.#block > this.#reach) this.#on.rewind(Math.max(this.#reach, this.#block - BACK));
  }

  /** Another block was chosen; null is now. */
  choose(block) {
    this.#chosen = block;
    this.#show();
  }

  enable(ready) {
    this.#ready = ready;
    this.#show();
  }

  follow({ block, reach }) {
    this.#block = block;
    this.#reach = reach;
    this.#show();
  }

  #show() {
    const now = this.#chosen === null;
    const past = this.#ready && this.#block > this.#reach;
    element("back").disabled = !past;
    element("rewind").disabled = !past || now;
    element("fork").disabled = element("look").disabled = !this.#ready;
    write("moment", now ? "now" : `block ${this.#chosen}`);
    write("moment-text", now ? `block ${this.#block}` : `${this.#block - this.#chosen} back`);
  }
}
