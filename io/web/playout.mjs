// When to show a frame: the stream's timestamps mapped onto this machine's clock.
//
// Blocks arrive whole, some early and some late. The first frame is shown at once; a late one moves the clock back by
// its lateness, so that the delay becomes what the line needs; and delay that was not needed for a while is taken off
// again. It never exceeds one block, for a picture that lags makes the controls feel dead.

/** Arrivals after which unneeded delay is looked at. */
const REVIEW = 16;

export class Playout {
  #block;
  #base = null;
  #spare = Infinity;
  #seen = 0;

  /** `block`: duration of a block in milliseconds, the longest delay. */
  constructor(block) {
    this.#block = block;
  }

  reset() {
    this.#base = null;
    this.#spare = Infinity;
    this.#seen = 0;
  }

  /** When the frame stamped `pts`, arriving `now`, is due. All in milliseconds. */
  schedule(pts, now) {
    this.#base ??= now - pts;
    const ahead = this.#base + pts - now;
    if (ahead < 0) this.#base -= ahead;
    else if (ahead > this.#block) this.#base -= ahead - this.#block;
    this.#review(Math.max(ahead, 0));
    return this.#base + pts;
  }

  #review(ahead) {
    this.#spare = Math.min(this.#spare, ahead);
    if (++this.#seen < REVIEW) return;
    this.#base -= this.#spare / 2;
    this.#spare = Infinity;
    this.#seen = 0;
  }
}
