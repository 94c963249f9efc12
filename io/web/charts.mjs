// How the stream does: gaps between frames on screen, time per block, and drift of the latents from those of real frames.

import { Chart } from "/chart.mjs";
import { element } from "/dom.mjs";
import { drift } from "/series.mjs";

/** Frames and blocks that a chart shows. */
const FRAMES = 240;
const BLOCKS = 160;
/** Drift of so many deviations fills half the chart's height; more makes room for itself. */
const DRIFT_SPAN = 0.25;
/** A longer gap is a pause, a hidden page or a lost line, and said elsewhere. */
const LONGEST_GAP = 5000;

const milliseconds = (value) => `${Math.round(value)} ms`;
const percent = (value) => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(0)} %`;

export class Charts {
  #gap = new Chart(element("chart-gap"), { title: "Frame gap", limit: FRAMES });
  #time = new Chart(element("chart-time"), { title: "Block time", limit: BLOCKS });
  #drift = new Chart(element("chart-drift"), { title: "Drift", lines: ["spread", "mean"], limit: BLOCKS });
  #info = null;
  #last = null;
  #block = null;

  reset(info) {
    this.#info = info;
    this.#last = null;
    this.#block = null;
    for (const chart of [this.#gap, this.#time, this.#drift]) chart.clear();
    this.render();
  }

  /** A pause is no gap. */
  paused() {
    this.#last = null;
  }

  /** A frame was drawn. */
  shown({ generation, drawn }) {
    const last = this.#last;
    this.#last = document.hidden ? null : { generation, drawn };
    const gap = drawn - last?.drawn;
    if (last?.generation === generation && gap < LONGEST_GAP) this.#gap.series[0].push(gap);
  }

  /** Follows what the server announces: one point for each new block. */
  follow({ generation, block, timings, latents }) {
    const moment = `${generation}/${block}`;
    if (moment === this.#block) return;
    this.#block = moment;
    const { denoise, context, decode, encode } = timings;
    const total = denoise + context + decode + encode;
    if (total > 0) this.#time.series[0].push(1000 * total);
    if (!latents) return;
    const { mean, spread } = this.#info.reference ? drift(latents, this.#info.reference) : { mean: latents.mean, spread: latents.deviation };
    this.#drift.series[0].push(spread);
    this.#drift.series[1].push(mean);
  }

  /** Draws what was pushed. */
  render() {
    if (!this.#info) return;
    const { frames_per_second, frames_per_block } = this.#info;
    const frame = 1000 / frames_per_second;
    this.#renderTimes(this.#gap, frame, `one frame lasts ${milliseconds(frame)}`);
    this.#renderTimes(this.#time, frame * frames_per_block, `one block lasts ${milliseconds(frame * frames_per_block)}`);
    this.#renderDrift();
  }

  #renderTimes(chart, target, note) {
    const [series] = chart.series;
    const high = Math.max(2 * target, (series.quantile(0.99) ?? 0) * 1.1);
    const value = series.values.length ? `${milliseconds(series.quantile(0.5))} · p99 ${milliseconds(series.quantile(0.99))}` : "–";
    chart.show({ value, notes: [note], range: [0, high], mark: target });
  }

  #renderDrift() {
    const [spread, mean] = this.#drift.series;
    const known = spread.values.length > 0;
    if (!this.#info.reference) {
      const all = [...spread.values, ...mean.values, 0, 1];
      const notes = known ? [`spread ${spread.last.toFixed(2)}`, `mean ${mean.last.toFixed(2)}`] : ["spread –", "mean –"];
      return this.#drift.show({ value: known ? "of the latents" : "not measured", notes, range: [Math.min(...all), Math.max(...all)] });
    }
    const span = Math.max(DRIFT_SPAN, ...spread.values.map(Math.abs), ...mean.values.map(Math.abs));
    const notes = known ? [`spread ${percent(spread.last)}`, `mean ${percent(mean.last)}`] : ["spread –", "mean –"];
    this.#drift.show({ value: "from real frames", notes, range: [-span, span], mark: 0 });
  }
}
