// What came of a request, in one line that changes: sent, received, applied at block n, on screen, or why not.
//
// What was asked for is shown at once, what is in effect only when the server says so. A line tells of the newest
// request alone; what an older one brings is still done, but no longer said.

export class Receipt {
  #line;
  #turn = 0;
  #awaited = null;
  /** Of the newest frame on screen. */
  #generation = -1;

  /** `line`: the element that says it, a live region. */
  constructor(line) {
    this.#line = line;
  }

  /**
   * Begins to tell of `what` and returns the answers for a request. Those of `more` are called first; `visible`: what was
   * asked for can be seen, from its block on; `anew`: in a new generation.
   */
  follow(what, more = {}) {
    const turn = ++this.#turn;
    const asked = performance.now();
    const after = more.anew ? this.#generation : -1;
    this.#awaited = null;
    const say = (text, phase, block) => turn === this.#turn && this.say(`${what}: ${text}`, phase, block);
    say("sent", "sent");
    return {
      received: () => {
        more.received?.();
        say("received", "received");
      },
      applied: (message) => {
        more.applied?.(message);
        const told = say(`applied at block ${message.block}`, "applied", message.block);
        if (told && more.visible) this.#awaited = { what, asked, after, block: message.block };
      },
      refused: (why) => {
        more.refused?.(why);
        say(why.message, "refused");
      },
    };
  }

  /** A frame is on screen: what the line waits for may have arrived. */
  shown({ block, generation }) {
    this.#generation = generation;
    const awaited = this.#awaited;
    if (!awaited || block < awaited.block || generation <= awaited.after) return;
    this.#awaited = null;
    const took = Math.round(performance.now() - awaited.asked);
    this.say(`${awaited.what}: on screen at block ${block}, ${took} ms`, "shown", awaited.block);
  }

  /** Says something of its own. */
  say(text, phase = "", block) {
    this.#line.textContent = text;
    this.#line.dataset.phase = phase;
    if (block === undefined) delete this.#line.dataset.block;
    else this.#line.dataset.block = block;
    return true;
  }
}
