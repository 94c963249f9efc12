// Where real frames come from: a picture, a video or the camera, each as RGB24 of the size that the model takes.
//
// Everything is decoded by the browser; only finished pixels leave it. A source has `draw(context)`, which covers the
// canvas with what it shows now, and `grab(count, interval)`, which gives frames `interval` seconds apart.

/** How long a video may take to show another moment, in milliseconds. */
const SEEK_LIMIT = 5000;

/** The middle of a picture, as large as fits, over all of a canvas. */
export function cover({ width, height }, canvas) {
  const scale = Math.min(width / canvas.width, height / canvas.height);
  const [w, h] = [canvas.width * scale, canvas.height * scale];
  return [(width - w) / 2, (height - h) / 2, w, h];
}

/** RGBA to RGB24. */
export function toRgb(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

class Source {
  #canvas = document.createElement("canvas");
  #context = this.#canvas.getContext("2d", { alpha: false, willReadFrequently: true });

  /** `input`: width and height of the frames. */
  constructor(input) {
    Object.assign(this.#canvas, { width: input.width, height: input.height });
  }

  draw(context) {
    const { canvas } = context;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, ...cover(this.size, canvas), 0, 0, canvas.width, canvas.height);
  }

  frame() {
    this.draw(this.#context);
    return toRgb(this.#context.getImageData(0, 0, this.#canvas.width, this.#canvas.height).data);
  }
}

/** One picture, as often as it is asked for. */
class Still extends Source {
  constructor(bitmap, input) {
    super(input);
    this.picture = bitmap;
    this.size = bitmap;
  }

  get about() {
    return `picture, ${this.size.width} × ${this.size.height}`;
  }

  async grab(count) {
    const frame = this.frame();
    return new Array(count).fill(frame);
  }

  close() {
    this.picture.close();
  }
}

class Moving extends Source {
  constructor(video, input) {
    super(input);
    this.picture = video;
  }

  get size() {
    return { width: this.picture.videoWidth, height: this.picture.videoHeight };
  }
}

/** A video file. Each grab goes on where the last one ended, and begins again after the end. */
class Film extends Moving {
  #address;

  constructor(video, input, address) {
    super(video, input);
    this.#address = address;
  }

  get about() {
    return `video, ${this.size.width} × ${this.size.height}, ${this.duration.toFixed(1)} s`;
  }

  get duration() {
    return this.picture.duration;
  }

  get at() {
    return this.picture.currentTime;
  }

  seek(time) {
    return reach(this.picture, Math.min(Math.max(time, 0), Math.max(this.duration - 0.001, 0)));
  }

  async grab(count, interval) {
    const frames = [];
    for (let taken = 0; taken < count; taken++) {
      frames.push(this.frame());
      const next = this.at + interval;
      await this.seek(next < this.duration ? next : 0);
    }
    return frames;
  }

  close() {
    this.picture.removeAttribute("src");
    this.picture.load();
    URL.revokeObjectURL(this.#address);
  }
}

/** The camera, as it is now. */
class Camera extends Moving {
  live = true;

  get about() {
    return `camera, ${this.size.width} × ${this.size.height}`;
  }

  async grab(count, interval) {
    const frames = [this.frame()];
    while (frames.length < count) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * interval));
      frames.push(this.frame());
    }
    return frames;
  }

  close() {
    for (const track of this.picture.srcObject?.getTracks() ?? []) track.stop();
    this.picture.srcObject = null;
  }
}

/** A picture or a video from a file; an error in words if the browser can show neither. */
export async function openFile(file, input) {
  if (!file.type.startsWith("video/")) {
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (bitmap) return new Still(bitmap, input);
  }
  const address = URL.createObjectURL(file);
  const video = muted();
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new Error("this browser cannot show it"));
      video.src = address;
    });
    if (!video.videoWidth || !Number.isFinite(video.duration)) throw new Error("it has no pictures");
  } catch (error) {
    URL.revokeObjectURL(address);
    throw error;
  }
  return new Film(video, input, address);
}

/** The camera; an error in words if there is none or it may not be used. */
export async function openCamera(input) {
  const devices = navigator.mediaDevices;
  if (!devices) throw new Error("browsers give the camera only to pages from this machine or over https");
  const stream = await devices.getUserMedia({ video: true, audio: false }).catch((error) => {
    throw new Error(error.name === "NotAllowedError" ? "the browser was told not to give it" : "no camera was found");
  });
  const video = muted();
  video.srcObject = stream;
  await video.play();
  return new Camera(video, input);
}

function muted() {
  return Object.assign(document.createElement("video"), { muted: true, playsInline: true, preload: "auto" });
}

function reach(video, time) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the video does not go there")), SEEK_LIMIT);
    video.onseeked = () => {
      clearTimeout(timer);
      resolve();
    };
    video.currentTime = time;
  });
}
