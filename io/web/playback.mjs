// Pause, one step, and a restart with a seed; and how many steps and how much guidance the next blocks get.

import { element, write } from "/dom.mjs";

/** A slider that is being moved sends no more often than this, in milliseconds: each block takes only the last. */
const SETTLE = 150;
const MAX_GUIDANCE = 10;

export class Playback {
  #ask;
  #paused = false;
  #ready = false;

  /** `ask(type, what, fields)` asks the server. */
  constructor(ask) {
    this.#ask = ask;
    element("pause").onclick = () => this.toggle();
    element("step").onclick = () => this.step();
    element("restart").onsubmit = (event) => {
      event.preventDefault();
      const seed = element("seed").value.trim();
      ask("restart", seed ? `Restart with seed ${seed}` : "Restart", seed ? { seed: Number(seed) } : {});
    };
  }

  toggle() {
    this.#ask(this.#paused ? "resume" : "pause", this.#paused ? "Resume" : "Pause");
  }

  /** One block, while paused. */
  step() {
    if (this.#paused) this.#ask("step", "Step");
  }

  enable(ready) {
    this.#ready = ready;
    element("pause").disabled = !ready;
    element("step").disabled = !ready || !this.#paused;
    element("restart").querySelector("button").disabled = !ready;
  }

  follow({ paused, seed }) {
    this.#paused = paused;
    write("pause-text", paused ? "Resume" : "Pause");
    element("seed").placeholder = `now ${seed}`;
    this.enable(this.#ready);
  }
}

/** Two sliders that apply live. They follow the server except while somebody moves them. */
export class Sampling {
  #ask;
  #defaults = null;
  #current = null;
  #wanted = {};
  #timer = 0;
  #awaited = 0;

  constructor(ask) {
    this.#ask = ask;
    for (const name of ["steps", "guidance"]) {
      element(name).oninput = () => this.#move({ [name]: element(name).valueAsNumber });
    }
    element("sampling-reset").onclick = () => this.#move(this.#defaults);
  }

  /** A server that tells nothing of sampling cannot change it. */
  reset({ sampling }) {
    element("sampling").hidden = !sampling;
    this.#awaited = 0;
    this.#wanted = {};
    clearTimeout(this.#timer);
    if (!sampling) return;
    const { steps, guidance, max_steps } = sampling;
    this.#defaults = { steps, guidance };
    element("steps").max = max_steps;
    element("guidance").min = Math.min(1, guidance);
    element("guidance").max = Math.max(MAX_GUIDANCE, guidance);
    this.follow({ sampling });
  }

  enable(ready) {
    element("sampling").disabled = !ready;
  }

  follow({ sampling }) {
    if (!sampling) return;
    this.#current = sampling;
    if (!this.#awaited && !Object.keys(this.#wanted).length) this.#show(sampling);
  }

  #move(fields) {
    Object.assign(this.#wanted, fields);
    this.#show({ steps: element("steps").valueAsNumber, guidance: element("guidance").valueAsNumber, ...fields });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#send(), SETTLE);
  }

  #send() {
    const fields = this.#wanted;
    this.#wanted = {};
    this.#awaited++;
    const settled = (done) => {
      this.#awaited = Math.max(0, this.#awaited - 1);
      if (!done) this.follow({ sampling: this.#current });
    };
    const words = Object.entries(fields).map(([name, value]) => `${name} ${value}`);
    this.#ask("sampling", words.join(", "), fields, settled);
  }

  #show({ steps, guidance }) {
    for (const [name, value] of Object.entries({ steps, guidance })) {
      const slider = element(name);
      slider.value = value;
      slider.style.setProperty("--at", (value - slider.min) / (slider.max - slider.min));
    }
    write("steps-text", steps);
    write("guidance-text", guidance === 1 ? "off" : guidance.toFixed(1));
    element("guidance").setAttribute("aria-valuetext", element("guidance-text").textContent);
    element("sampling-reset").hidden = steps === this.#defaults.steps && guidance === this.#defaults.guidance;
  }
}
