// One small picture of each recent block, in one canvas: what the timeline shows where somebody points.

const TILE = 96;
const ACROSS = 24;
const TILES = 576;

export class Thumbnails {
  #atlas = Object.assign(document.createElement("canvas"), { width: TILE * ACROSS, height: (TILE * TILES) / ACROSS });
  #context = this.#atlas.getContext("2d", { alpha: false });
  #owners = new Array(TILES).fill(null);

  reset() {
    this.#owners.fill(null);
  }

  /** Keeps what is on the canvas as the picture of a block. */
  keep(block, canvas) {
    const slot = block % TILES;
    this.#owners[slot] = block;
    this.#context.drawImage(canvas, ...this.#place(slot));
  }

  /** Forgets the blocks from here on: they are made again. */
  cut(from) {
    this.#owners.forEach((owner, slot) => owner !== null && owner >= from && (this.#owners[slot] = null));
  }

  /** Draws a block's picture, if there is one, over all of the canvas. */
  show(block, canvas) {
    const slot = block % TILES;
    if (this.#owners[slot] !== block) return false;
    canvas.getContext("2d", { alpha: false }).drawImage(this.#atlas, ...this.#place(slot), 0, 0, canvas.width, canvas.height);
    return true;
  }

  #place(slot) {
    return [(slot % ACROSS) * TILE, Math.floor(slot / ACROSS) * TILE, TILE, TILE];
  }
}
