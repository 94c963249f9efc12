// Packets to pictures: decode, hold each until it is due, draw.
//
// All decoders feed one queue of { picture, header, due }; pictures are closed as soon as they are drawn or passed
// over, because a browser decodes only a handful ahead of those still open.

import { Mse, canPlay } from "/mse.mjs";
import { Playout } from "/playout.mjs";

/** Pictures waiting to be drawn; further ones push out the oldest. More than two blocks of any world so far. */
const QUEUE = 48;
/** Packets inside the decoder. More means that this machine cannot decode as fast as the stream comes. */
const DECODING = 64;
/** Seconds over which frames per second are counted. */
const RATE_SPAN = 2;

/** `h264` where WebCodecs can decode it, `mse` where only the browser's player can, else `jpeg`. */
export async function bestKind(codec) {
  const last = canPlay(codec) ? "mse" : "jpeg";
  if (!globalThis.VideoDecoder) return last;
  const { supported } = await VideoDecoder.isConfigSupported(config(codec)).catch(() => ({ supported: false }));
  return supported ? "h264" : last;
}

/** How pictures of a kind travel. */
export function wireKind(kind) {
  return kind === "mse" ? "h264" : kind;
}

function config(codec) {
  return { codec, optimizeForLatency: true };
}

export class Player {
  #context;
  #decoder;
  #playout;
  #queue = [];
  #generation = -1;
  #newest = -1;
  /** Pictures of earlier blocks than this are due at once. */
  #overdue = 0;
  #drawn = [];
  #onDraw;
  #onPass;

  /**
   * `onDraw(header)` after each picture, with when it `arrived`, was `decoded` and `drawn`; `onPass(header)` for one that
   * was due but had a newer one to give way to; `onError(error)` when decoding cannot go on: a new connection starts at a
   * keyframe.
   */
  constructor(canvas, info, kind, { onDraw, onPass, onError }) {
    canvas.width = info.display.width;
    canvas.height = info.display.height;
    this.#context = canvas.getContext("2d", { alpha: false });
    this.#context.imageSmoothingQuality = "high";
    this.#playout = new Playout((1000 * info.frames_per_block) / info.frames_per_second);
    this.#onDraw = onDraw;
    this.#onPass = onPass;
    const onPicture = (picture, header) => this.#enqueue(picture, header);
    if (kind === "h264") this.#decoder = new H264(info.codec, onPicture, onError);
    else if (kind === "mse") this.#decoder = new Mse(info, onPicture, onError);
    else this.#decoder = new Jpeg(onPicture, onError);
    this.#tick();
  }

  push({ header, payload }) {
    if (header.generation < this.#generation) return;
    if (header.generation > this.#generation) {
      this.#generation = header.generation;
      this.#newest = -1;
      this.#overdue = 0;
      this.#playout.reset();
      this.#clear();
    }
    this.#decoder.decode(payload, { ...header, arrived: performance.now() });
  }

  /** Shows the newest picture before a block at once, and passes over those that were still to be shown. */
  catchUp(generation, block) {
    if (generation !== this.#generation) return;
    this.#overdue = block;
    this.#decoder.catchUp?.();
    for (const waiting of this.#queue) if (waiting.header.block < block) waiting.due = 0;
  }

  /** Frames drawn per second, and mean milliseconds from arrival to a picture and from there to the screen. */
  get numbers() {
    const since = performance.now() - 1000 * RATE_SPAN;
    this.#drawn = this.#drawn.filter(({ drawn }) => drawn > since);
    const count = this.#drawn.length;
    const mean = (of) => this.#drawn.reduce((sum, header) => sum + of(header), 0) / Math.max(count, 1);
    return {
      rate: count / RATE_SPAN,
      decode: mean(({ arrived, decoded }) => decoded - arrived),
      wait: mean(({ decoded, drawn }) => drawn - decoded),
    };
  }

  close() {
    this.#decoder.close();
    this.#clear();
    this.#onDraw = null;
  }

  #enqueue(picture, header) {
    if (!this.#onDraw || header.generation < this.#generation) return picture.close();
    // A picture sent again, for somebody who joined, was on time the first time.
    const again = header.frame <= this.#newest;
    const due = again || header.paced || header.block < this.#overdue ? 0 : this.#playout.schedule(header.pts / 1000, performance.now());
    this.#newest = Math.max(this.#newest, header.frame);
    this.#queue.push({ picture, header: { ...header, decoded: performance.now() }, due });
    if (this.#queue.length > QUEUE) this.#pass(this.#queue.shift());
    // A hidden page gets no animation frames: keep the newest picture current and hold nothing.
    if (document.hidden) this.#draw(Infinity);
  }

  #tick() {
    if (!this.#onDraw) return;
    this.#draw(performance.now());
    requestAnimationFrame(() => this.#tick());
  }

  #draw(until) {
    let newest;
    while (this.#queue.length && this.#queue[0].due <= until) {
      if (newest) this.#pass(newest);
      newest = this.#queue.shift();
    }
    if (!newest) return;
    const { picture } = newest;
    const { width, height } = this.#context.canvas;
    this.#context.drawImage(picture, 0, 0, width, height);
    picture.close();
    const header = { ...newest.header, drawn: performance.now() };
    this.#drawn.push(header);
    this.#onDraw(header);
  }

  /** Has no time to be seen. */
  #pass({ picture, header }) {
    picture.close();
    this.#onPass(header);
  }

  #clear() {
    for (const { picture } of this.#queue.splice(0)) picture.close();
  }
}

/** WebCodecs. The timestamp given to a chunk is only a number to find its header by. */
class H264 {
  #decoder;
  #headers = new Map();
  #next = 0;
  #onError;

  constructor(codec, onPicture, onError) {
    this.#onError = onError;
    this.#decoder = new VideoDecoder({
      output: (frame) => {
        const header = this.#headers.get(frame.timestamp);
        this.#headers.delete(frame.timestamp);
        onPicture(frame, header);
      },
      error: onError,
    });
    this.#decoder.configure(config(codec));
  }

  decode(data, header) {
    if (this.#decoder.state !== "configured") return;
    if (this.#decoder.decodeQueueSize > DECODING) return this.#onError(new Error("decoding is too slow"));
    const timestamp = this.#next++;
    this.#headers.set(timestamp, header);
    this.#decoder.decode(new EncodedVideoChunk({ type: header.keyframe ? "key" : "delta", timestamp, data }));
  }

  close() {
    if (this.#decoder.state !== "closed") this.#decoder.close();
  }
}

/** One picture after another, in order. */
class Jpeg {
  #last = Promise.resolve();
  #decoding = 0;
  #onPicture;
  #onError;

  constructor(onPicture, onError) {
    this.#onPicture = onPicture;
    this.#onError = onError;
  }

  decode(data, header) {
    if (this.#decoding > DECODING) return;
    this.#decoding++;
    const picture = createImageBitmap(new Blob([data], { type: "image/jpeg" }));
    this.#last = this.#last
      .then(async () => this.#onPicture(await picture, header))
      .catch((error) => this.#onError(error))
      .finally(() => this.#decoding--);
  }

  close() {
    this.#onError = () => {};
  }
}
