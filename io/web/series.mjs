// Numbers over time, and what they amount to. Pure: tested in node.

export class Series {
  #limit;
  values = [];

  /** Keeps the newest `limit` numbers. */
  constructor(limit) {
    this.#limit = limit;
  }

  push(value) {
    this.values.push(value);
    if (this.values.length > this.#limit) this.values.shift();
  }

  clear() {
    this.values = [];
  }

  get last() {
    return this.values.at(-1);
  }

  /** The value that a share of all lies at or below; undefined if there are none. */
  quantile(share) {
    const sorted = [...this.values].sort((a, b) => a - b);
    return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  }
}

/** Points of a line from left to right in a box of `width` × `height`; the newest is at the right edge. */
export function points(values, limit, [low, high], width, height) {
  const step = width / Math.max(limit - 1, 1);
  const left = width - (values.length - 1) * step;
  const span = high - low || 1;
  const y = (value) => height - (Math.min(Math.max((value - low) / span, 0), 1)) * height;
  return values.map((value, at) => `${(left + at * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}

/** How far latents are from those of real frames, in deviations of theirs: of the mean, and of the spread. */
export function drift({ mean, deviation }, reference) {
  return { mean: (mean - reference.mean) / reference.deviation, spread: deviation / reference.deviation - 1 };
}
