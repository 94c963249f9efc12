// Going back: a block to go back to, chosen with the slider or eight at a time, and what to do there.
//
// The slider spans what the server can still reach and stands at now until somebody moves it; a block that was chosen
// stays chosen while the world goes on.

const BACK = 8;

const element = (id) => document.getElementById(id);

export class Rewind {
  #ready = false;
  #block = 0;
  #reach = 0;
  /** `null` is now, wherever that is. */
  #chosen = null;

  /** `rewind(block)` and `fork(block)` ask the server for it. */
  constructor({ rewind, fork }) {
    const at = element("at");
    const go = (block) => {
      this.#choose(null);
      rewind(block);
    };
    element("back").append(` ${BACK}`, element("back").querySelector("kbd"));
    element("back").onclick = () => go(Math.max(this.#reach, this.#block - BACK));
    element("rewind").onsubmit = (event) => {
      event.preventDefault();
      if (this.#chosen !== null) go(this.#chosen);
    };
    element("fork").onclick = () => fork(this.#chosen ?? this.#block);
    at.oninput = () => this.#choose(at.valueAsNumber);
    // After the mouse the arrow keys steer again.
    at.onpointerup = () => at.blur();
  }

  /** Only a connected page can ask for anything. */
  enable(ready) {
    this.#ready = ready;
    this.#show();
  }

  /** Follows what the server announces. */
  follow({ block, reach }) {
    this.#block = block;
    this.#reach = reach;
    this.#choose(this.#chosen);
  }

  #choose(block) {
    this.#chosen = block === null || block >= this.#block ? null : Math.max(block, this.#reach);
    this.#show();
  }

  #show() {
    const at = element("at");
    const now = this.#chosen === null;
    const text = now ? `now, block ${this.#block}` : `block ${this.#chosen}, ${this.#block - this.#chosen} back`;
    at.min = this.#reach;
    at.max = this.#block;
    at.value = this.#chosen ?? this.#block;
    // Read aloud whenever it changes: now stays now.
    at.setAttribute("aria-valuetext", now ? "now" : text);
    element("at-text").textContent = text;
    element("reach").textContent = `reaches block ${this.#reach}`;
    const past = this.#ready && this.#block > this.#reach;
    at.disabled = element("back").disabled = !past;
    element("rewind").querySelector("[type=submit]").disabled = !past || now;
    element("fork").disabled = !this.#ready;
  }
}
