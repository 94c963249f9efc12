// H.264 through MediaSource, where WebCodecs is missing: on plain http from another machine the page is no secure context.
//
// The browser's own player decodes and keeps the pace; each picture that it presents goes on to the canvas like any other.
// Frames are numbered through, whatever the stream's timestamps do, so that they stay in one buffer without holes.

import { concat, fragment, initSegment, nalUnits, parameterSets, removable } from "/fmp4.mjs";

const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;
/** Ticks in a frame. */
const TICKS = 1000;
/** Fragments waiting to be taken. More means that this machine cannot play as fast as the stream comes. */
const WAITING = 128;
/** Frames whose pictures have not been seen yet; a hidden page sees none, and the oldest are forgotten. */
const UNSEEN = 256;
/** Seconds behind the picture that are kept in the browser's buffer, and how many more may gather before they are removed. */
const PAST = 4;
/** How much faster to play while more than the buffer needs is waiting. */
const HURRY = 1.1;
/** Milliseconds without a new frame after which the newest is shown, as when the world is paused. */
const STILL = 400;
/** Milliseconds after which a picture that was announced too early is asked for again. */
const SOON = 10;
/** Milliseconds after which a player that has not presented any picture counts as one that never will. */
const PATIENCE = 5000;

function type(codec) {
  return `video/mp4; codecs="${codec}"`;
}

/** Whether this browser can. */
export function canPlay(codec) {
  return Boolean(Source?.isTypeSupported(type(codec)) && HTMLVideoElement.prototype.requestVideoFrameCallback);
}

export class Mse {
  #info;
  #onPicture;
  #onError;
  #video = document.createElement("video");
  #source = new Source();
  #buffer = null;
  #waiting = [];
  #headers = new Map();
  #sets = null;
  #number = 0;
  /** Numbers of the keyframes in the buffer, and of those that are to come into it. */
  #keys = [];
  #presentedLast = -1;
  #began = performance.now();
  #generation = null;
  /** A frame to go to as soon as it is in the buffer. */
  #jump = null;
  #still = 0;
  #closed = false;

  /** As the other decoders; its pictures are due when they come. */
  constructor(info, onPicture, onError) {
    this.#info = info;
    this.#onPicture = onPicture;
    this.#onError = (error) => this.#closed || onError(error);
    const video = this.#video;
    video.muted = true;
    video.playsInline = true;
    video.disableRemotePlayback = true;
    video.onerror = () => this.#onError(new Error(video.error?.message || "the video cannot be played"));
    this.#source.onsourceopen = () => this.#opened();
    video.src = URL.createObjectURL(this.#source);
    video.requestVideoFrameCallback((_, { mediaTime }) => this.#presented(mediaTime));
    // Refused only where even silent pictures need a click: the next fragment asks again.
    video.play().catch(() => {});
  }

  decode(data, header) {
    if (this.#closed) return;
    if (this.#waiting.length > WAITING) return this.#onError(new Error("playing is too slow"));
    // A hidden page is shown nothing.
    if (document.hidden || !this.#number || this.#presentedLast >= 0) this.#began = performance.now();
    else if (performance.now() - this.#began > PATIENCE) return this.#onError(new Error("the player shows no pictures"));
    const units = nalUnits(data);
    const sets = parameterSets(units);
    if (sets && !same(sets, this.#sets)) {
      this.#sets = { sps: sets.sps.slice(), pps: sets.pps.slice() };
      this.#waiting.push(initSegment(this.#sets, this.#info.frame, this.#timescale));
    }
    if (!this.#sets) return;
    const number = this.#number++;
    if (this.#generation !== header.generation) this.#jump = number;
    this.#generation = header.generation;
    if (header.keyframe) this.#keys.push(number);
    this.#headers.set(number, header);
    this.#headers.delete(number - UNSEEN);
    const time = number * TICKS;
    this.#waiting.push(fragment(units, { sequence: number + 1, time, duration: TICKS, keyframe: header.keyframe }));
    clearTimeout(this.#still);
    this.#still = setTimeout(() => this.#showNewest(), STILL);
    this.#append();
  }

  /** The world stands still: what is there already has waited long enough. */
  catchUp() {
    this.#showNewest();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#still);
    URL.revokeObjectURL(this.#video.src);
    this.#video.removeAttribute("src");
    this.#video.load();
  }

  get #timescale() {
    return Math.round(TICKS * this.#info.frames_per_second);
  }

  /** Seconds from a frame to the next. */
  get #frame() {
    return TICKS / this.#timescale;
  }

  #opened() {
    if (this.#closed) return;
    this.#source.duration = Infinity;
    this.#buffer = this.#source.addSourceBuffer(type(this.#info.codec));
    this.#buffer.onupdateend = () => {
      this.#keepUp();
      this.#append();
    };
    this.#append();
  }

  #append() {
    if (this.#closed || !this.#buffer || this.#buffer.updating) return;
    try {
      const { buffered } = this.#buffer;
      const past = this.#video.currentTime - PAST;
      const full = buffered.length && buffered.start(0) < past - PAST;
      const outdated = full ? removable(this.#keys, buffered.start(0), past, this.#frame) : 0;
      if (outdated) {
        this.#keys = this.#keys.filter((number) => number * this.#frame > outdated);
        this.#buffer.remove(0, outdated);
      } else if (this.#waiting.length) this.#buffer.appendBuffer(concat(...this.#waiting.splice(0)));
    } catch (error) {
      this.#onError(error);
    }
  }

  /** Stays near the newest frame: jumps where much is waiting, plays a little faster where it is less. */
  #keepUp() {
    if (this.#closed || !this.#buffer.buffered.length) return;
    const video = this.#video;
    const end = this.#buffer.buffered.end(this.#buffer.buffered.length - 1);
    const block = this.#info.frames_per_block * this.#frame;
    if (this.#jump !== null && end > this.#jump * this.#frame) {
      video.currentTime = Math.max(video.currentTime, this.#jump * this.#frame);
      this.#jump = null;
    }
    const ahead = end - video.currentTime;
    if (ahead > 3 * block) video.currentTime = end - block;
    video.playbackRate = ahead > 1.5 * block ? HURRY : 1;
    if (video.paused) video.play().catch(() => {});
  }

  /** A player stops some frames before the end of its buffer. */
  #showNewest() {
    if (this.#closed || !this.#number) return;
    this.#video.currentTime = (this.#number - 0.5) * this.#frame;
  }

  async #presented(mediaTime) {
    if (this.#closed) return;
    this.#video.requestVideoFrameCallback((_, { mediaTime }) => this.#presented(mediaTime));
    // After a seek Firefox gives the time that was asked for, in the middle of the frame.
    const number = Math.floor(mediaTime / this.#frame + 0.25);
    const header = this.#headers.get(number);
    for (const before of this.#headers.keys()) if (before <= number) this.#headers.delete(before);
    if (!header) return;
    this.#presentedLast = number;
    try {
      // During a seek Firefox announces a picture before it can be had.
      while (this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) {
        await new Promise((resolve) => setTimeout(resolve, SOON));
        if (this.#closed || this.#presentedLast !== number) return;
      }
      const picture = await createImageBitmap(this.#video);
      if (this.#closed) picture.close();
      else this.#onPicture(picture, { ...header, paced: true });
    } catch (error) {
      // Firefox animates a page no more whose video ends within this callback.
      setTimeout(() => this.#onError(error));
    }
  }
}

function same(a, b) {
  const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
  return b !== null && equal(a.sps, b.sps) && equal(a.pps, b.pps);
}
