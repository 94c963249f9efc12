// `?glass`: where the time goes from the model to the screen, as one stacked bar.
//
// The server tells what a block took in each stage; the way to here is half a round trip; the rest is the player's own
// measurement. A block is computed before the one on screen ends, so the stages before the network are its age when it
// leaves, not what somebody waits.

import { element, make, write } from "/dom.mjs";

const STAGES = [
  ["denoise", "denoise"],
  ["context", "context"],
  ["vae", "VAE"],
  ["encode", "encode"],
  ["network", "network"],
  ["decode", "decode"],
  ["queue", "queue"],
];

export class Glass {
  #on = new URLSearchParams(location.search).has("glass");
  #timings = null;
  #parts = new Map();

  constructor() {
    element("glass").hidden = !this.#on;
    document.body.classList.toggle("with-glass", this.#on);
    if (!this.#on) return;
    for (const [stage, name] of STAGES) {
      const bar = make("span", { className: "part" });
      const value = make("dd");
      bar.dataset.stage = stage;
      element("glass-bar").append(bar);
      const key = make("span", { className: "key" });
      key.dataset.stage = stage;
      element("glass-legend").append(make("div", {}, make("dt", {}, key, name), value));
      this.#parts.set(stage, { bar, value });
    }
  }

  follow({ timings }) {
    this.#timings = timings;
  }

  /** `numbers`: of the stream. */
  render(numbers) {
    if (!this.#on || !this.#timings || !numbers) return;
    const { denoise, context, decode, encode } = this.#timings;
    const split = {
      denoise: 1000 * denoise,
      context: 1000 * context,
      vae: 1000 * decode,
      encode: 1000 * encode,
      network: numbers.roundTrip / 2,
      decode: numbers.decode,
      queue: numbers.wait,
    };
    const total = Object.values(split).reduce((sum, value) => sum + value, 0);
    for (const [stage, value] of Object.entries(split)) {
      const part = this.#parts.get(stage);
      part.bar.style.flexGrow = value;
      write(part.value, value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`);
    }
    write("glass-total", `${Math.round(total)} ms`);
    const words = STAGES.map(([stage, name]) => `${name} ${Math.round(split[stage])} ms`);
    element("glass-bar").setAttribute("aria-label", words.join(", "));
  }
}
