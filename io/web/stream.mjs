// A session's pictures on a canvas: connection and player together, with the way back from every failure of either.

import { Connection } from "/connection.mjs";
import { Player, bestKind, wireKind } from "/player.mjs";

/** After so many failures in a row H.264 counts as something that this browser cannot decode. */
const DECODE_FAILURES = 2;

export class Stream {
  #canvas;
  #on;
  #forced;
  #player = null;
  #failures = 0;
  #roundTrip = 0;
  #connection;
  /** Counts what ended, so that a hello that took its time is not followed up afterwards. */
  #epoch = 0;
  connects = 0;
  kind = null;
  info = null;

  /**
   * Handlers, all optional: `connecting()`, `hello(message, kind)`, `drawn(header)`, `passed(header)`, `state(state)`, `gap(message)`,
   * `lost({ retryIn })`, `refused(reason)`. `kind`: `h264`, `mse` or `jpeg` whatever the browser can do.
   */
  constructor(canvas, handlers, kind = null) {
    this.#canvas = canvas;
    this.#on = handlers;
    this.#forced = kind;
    this.#connection = new Connection("", {
      connecting: () => handlers.connecting?.(),
      hello: (message) => this.#hello(message),
      packet: (packet) => this.#player?.push(packet),
      state: (state) => handlers.state?.(state),
      gap: (message) => handlers.gap?.(message),
      roundTrip: (milliseconds) => (this.#roundTrip = milliseconds),
      lost: (why) => this.#end(() => handlers.lost?.(why)),
      refused: (reason) => this.#end(() => handlers.refused?.(reason)),
    });
  }

  /** Shows what comes from this address, and nothing of another one any more. */
  open(url) {
    this.close();
    this.connects = 0;
    this.#connection.url = url;
    this.#connection.connect();
  }

  /** Tries again now. */
  retry() {
    this.#connection.connect();
  }

  close() {
    this.#connection.close();
    this.#end();
  }

  /** Catches up to before a block: it stands still there, and so shall what is seen. */
  catchUp({ generation, block }) {
    this.#player?.catchUp(generation, block);
  }

  send(...request) {
    this.#connection.send(...request);
  }

  inject(...request) {
    this.#connection.inject(...request);
  }

  /** Whether pictures can come. */
  get playing() {
    return this.#player !== null;
  }

  /** The player's figures and the last round trip, in milliseconds; null while nothing plays. */
  get numbers() {
    return this.#player && { ...this.#player.numbers, roundTrip: this.#roundTrip };
  }

  async #hello(message) {
    const { info } = message;
    const failing = this.#failures >= DECODE_FAILURES;
    const epoch = this.#epoch;
    const kind = this.#forced ?? (failing ? "jpeg" : await bestKind(info.codec));
    if (epoch !== this.#epoch) return wireKind(kind);
    this.kind = kind;
    this.info = info;
    this.connects++;
    this.#player?.close();
    this.#player = new Player(this.#canvas, info, kind, {
      onDraw: (header) => {
        this.#failures = 0;
        this.#on.drawn?.(header);
      },
      onPass: (header) => this.#on.passed?.(header),
      onError: (error) => this.#failed(error),
    });
    this.#on.hello?.(message, kind);
    return wireKind(kind);
  }

  /** A new connection starts at a keyframe; one that fails again is tried with JPEG. */
  #failed(error) {
    console.warn("decoding:", error.message);
    this.#failures++;
    this.#connection.reconnect();
  }

  #end(tell) {
    this.#epoch++;
    this.#player?.close();
    this.#player = null;
    tell?.();
  }
}
