// What came of a request, in one line that changes: sent, received, applied at block n, on screen, or why not.
//
// What was asked for is shown at once, what is in effect only when the server says so. A line tells of the newest
// request alone; what an older one brings is still done, but no longer said.

export class Receipt {
  #line;
  #turn = 0;
  #awaited = null;

  /** `line`: the element that says it, a live region. */
  constructor(line) {
    this.#line = line;
  }

  /** Begins to tell of `what` and returns the answers for a request. Each of `more` is called first. */
  follow(what, more = {}) {
    const turn = ++this.#turn;
    const asked = performance.now();
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
        if (say(`applied at block ${message.block}`, "applied", message.block) === false) return;
        if (more.visible) this.#awaited = { what, asked, block: message.block };
      },
      refused: (why) => {
        more.refused?.(why);
        say(why.message, "refused");
      },
    };
  }

  /** A frame is on screen: what the line waits for may have arrived. */
  shown({ block }) {
    const awaited = this.#awaited;
    if (!awaited || block < awaited.block) return;
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
