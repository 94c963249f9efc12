// One WebSocket that comes back: hello, numbered requests with their two answers, and reconnecting with back-off.

import { VERSION, injection, parseMessage, parsePacket, request } from "/protocol.mjs";

/** Waits before each attempt, in milliseconds; the last repeats. Jitter keeps many pages from coming at once. */
const BACK_OFF = [250, 500, 1000, 2000];
const JITTER = 0.2;
const PING_EVERY = 2000;
/** With a ping every two seconds, a server that says nothing for so long is gone. */
const SILENCE_LIMIT = 8000;
const PROTOCOL_ERROR = 1002;

export class Connection {
  #url;
  #on;
  #socket = null;
  #open = new Map();
  #nextId = 1;
  #attempt = 0;
  #heard = 0;
  #timers = { retry: 0, ping: 0 };

  /**
   * Handlers: `connecting()`, `hello(message)` → kind (may be a promise), `packet(packet)`, `state(message)`,
   * `gap(message)`, `roundTrip(milliseconds)`, `lost({ retryIn })`, `refused(reason)`.
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#on = handlers;
  }

  connect() {
    clearTimeout(this.#timers.retry);
    this.#drop();
    this.#on.connecting();
    const socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#heard = performance.now();
    this.#timers.ping = setInterval(() => this.#beat(), PING_EVERY);
    const current = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onmessage = current((event) => this.#receive(event.data));
    socket.onclose = current((event) => this.#closed(event));
  }

  /** Another session's address, from the next `connect()` on. */
  set url(url) {
    this.#url = url;
    this.#attempt = 0;
  }

  /** Starts over after the first wait: what came could not be used. */
  reconnect() {
    this.#closed({ code: 1006 });
  }

  /** Ends it for good, or until `connect()`. */
  close() {
    clearTimeout(this.#timers.retry);
    this.#drop();
  }

  /** Sends a request. `answers` may have `received()`, `applied(message)` and `refused({ code, message })`. */
  send(type, fields = {}, answers = {}) {
    const last = type === "ping" || type === "hello";
    this.#send((id) => request(id, type, fields), answers, last);
  }

  /** Sends frames to inject, as RGB24 pictures. They are answered like any request. */
  inject(frames, answers = {}) {
    this.#send((id) => injection(id, frames), answers);
  }

  #send(message, answers, last = false) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      answers.refused?.({ code: "offline", message: "not connected" });
      return;
    }
    const id = this.#nextId++;
    this.#open.set(id, { ...answers, sent: performance.now(), last });
    this.#socket.send(message(id));
  }

  #receive(data) {
    this.#heard = performance.now();
    try {
      if (typeof data === "string") this.#message(parseMessage(data));
      else this.#on.packet(parsePacket(data));
    } catch (error) {
      this.#refuse(error.message);
    }
  }

  #message(message) {
    const { id } = message;
    const open = this.#open.get(id);
    switch (message.type) {
      case "hello":
        return this.#hello(message).catch((error) => this.#refuse(error.message));
      case "received":
        if (open) this.#on.roundTrip(performance.now() - open.sent);
        open?.received?.();
        if (open?.last) this.#open.delete(id);
        return;
      case "applied":
        this.#open.delete(id);
        return open?.applied?.(message);
      case "refused":
        this.#open.delete(id);
        return open?.refused?.(message);
      case "state":
        return this.#on.state(message);
      case "gap":
        return this.#on.gap(message);
    }
  }

  async #hello(message) {
    if (message.version !== VERSION) return this.#refuse(`the server speaks protocol version ${message.version}`);
    const socket = this.#socket;
    const kind = await this.#on.hello(message);
    if (this.#socket !== socket) return;
    this.#attempt = 0;
    this.send("hello", { version: VERSION, kind });
  }

  #beat() {
    if (performance.now() - this.#heard > SILENCE_LIMIT) this.reconnect();
    else if (this.#socket?.readyState === WebSocket.OPEN) this.send("ping");
  }

  #closed({ code, reason }) {
    if (code === PROTOCOL_ERROR) return this.#refuse(reason);
    this.#drop();
    const wait = BACK_OFF[Math.min(this.#attempt++, BACK_OFF.length - 1)];
    const retryIn = wait * (1 + JITTER * Math.random());
    this.#timers.retry = setTimeout(() => this.connect(), retryIn);
    this.#on.lost({ retryIn });
  }

  #refuse(reason) {
    this.#drop();
    this.#on.refused(reason);
  }

  #drop() {
    clearInterval(this.#timers.ping);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const { refused } of this.#open.values()) refused?.({ code: "lost", message: "the connection was lost" });
    this.#open.clear();
  }
}
