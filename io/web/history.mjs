// What this page has seen of a session's blocks, and what happened between them. Pure: tested in node.

/** Blocks kept; the server reaches back no further than some five hundred. */
const KEPT = 640;

export class History {
  #blocks = new Map();
  #marks = new Map();
  #generation = null;
  #newest = -1;
  /** Where this generation began, if it was seen, and how many frames of that block it has. */
  #turn = null;
  #state = {};

  /** Forgets everything: another session, or a server that began anew. */
  reset() {
    this.#blocks.clear();
    this.#marks.clear();
    this.#generation = null;
    this.#newest = -1;
    this.#turn = null;
  }

  /** The newest block seen, or −1. */
  get newest() {
    return this.#newest;
  }

  /** Whether a session that stands there may have this past: a server that began anew counts from the beginning. */
  leadsTo({ generation, block }) {
    if (this.#generation === null || generation > this.#generation) return true;
    return generation === this.#generation && block > this.#newest;
  }

  /** `{ label, real, generated }` of a block that was seen; `real`: it has injected frames. */
  block(number) {
    return this.#blocks.get(number);
  }

  /** What happened just before a block: an array of words such as "rewind" and "fork". */
  marks(number) {
    return this.#marks.get(number) ?? [];
  }

  /** Takes in the header of a frame that was drawn. Says whether anything changed. */
  note({ generation, block, label, injected, generated }) {
    if (this.#generation !== null && generation < this.#generation) return false;
    const anew = this.#generation !== null && generation > this.#generation;
    if (anew) {
      this.#cut(block);
      if (block > 0) this.mark(block, "rewind");
      this.#turn = { block, frames: 0 };
    }
    this.#generation = generation;
    if (this.#turn?.block === block) this.#turn.frames++;
    this.#straighten();
    const known = this.#blocks.get(block);
    const next = { label, real: injected || (known?.real ?? false), generated: generated || (known?.generated ?? false) };
    if (!anew && known && known.label === label && known.real === next.real && known.generated === next.generated) return false;
    this.#blocks.set(block, next);
    this.#newest = Math.max(this.#newest, block);
    this.#forget(this.#newest - KEPT);
    return true;
  }

  /**
   * Fills in what came before a frame's block that this page saw: `blocks` as the server gives them, `frames` to a block.
   * What was seen is known better already.
   */
  recall({ generation, block }, blocks, frames) {
    if (generation !== this.#generation) return;
    for (const { block: number, label, injected } of blocks) {
      if (number >= block || this.#blocks.has(number)) continue;
      this.#blocks.set(number, { label, real: injected > 0, generated: injected < frames });
    }
  }

  /** Follows where the session stands. */
  follow(state) {
    this.#state = state;
    this.#straighten();
  }

  /** While paused, a rewind shows the last picture before its block: one frame, of a block that was not gone back to. */
  #straighten() {
    const { generation, block, paused } = this.#state;
    if (!paused || generation !== this.#generation || this.#turn?.frames !== 1 || block !== this.#turn.block + 1) return;
    const others = this.marks(this.#turn.block).filter((mark) => mark !== "rewind");
    this.#marks.set(this.#turn.block, others);
    this.mark(block, "rewind");
    this.#turn = null;
  }

  /** Notes that something happened just before a block. */
  mark(block, what) {
    const there = this.#marks.get(block) ?? [];
    if (!there.includes(what)) this.#marks.set(block, [...there, what]);
  }

  /** Goes on in another session that shares this one's past up to a block; `other`: what was seen of that one already. */
  branch(block, other) {
    this.#cut(block);
    for (const [number, seen] of other.#blocks) if (number >= block) this.#blocks.set(number, seen);
    this.#newest = Math.max(block - 1, other.#newest);
    this.#generation = other.#generation;
    this.mark(block, "futures");
  }

  /** Whether the frames from outside end just before this block: the seam of a clip. */
  seam(number) {
    const [before, now] = [this.#blocks.get(number - 1), this.#blocks.get(number)];
    return Boolean(before && now && before.real && !before.generated && now.generated);
  }

  /** A new generation goes on from here: what came later is no more. */
  #cut(from) {
    for (const kept of [this.#blocks, this.#marks]) {
      for (const number of kept.keys()) if (number >= from) kept.delete(number);
    }
    this.#newest = from;
  }

  #forget(before) {
    for (const kept of [this.#blocks, this.#marks]) {
      for (const number of kept.keys()) if (number < before) kept.delete(number);
    }
  }
}
