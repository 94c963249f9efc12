// The panel: label buttons and keys, pause, step, restart, and the clip to continue from. What others ask for is said here, too.
//
// What was asked for is shown at once, what is in effect only when the server says so: a button is "pending" until its
// request is applied, and the line below tells received, applied at block n, on screen.

import { labelColour } from "/timeline.mjs";

const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };
const KEY_FACES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "Space" };

const mebibytes = (bytes) => `${Math.floor(bytes / 2 ** 20)} MiB`;
const element = (id) => document.getElementById(id);

export class Controls {
  #send;
  #clips;
  #labels = [];
  #buttons = [];
  #paused = false;
  #ready = false;
  #awaited = null;
  #uploadLimit = Infinity;

  /** `send(type, fields, answers)` as in Connection; `clips`: whether this session takes them. */
  constructor(send, { clips }) {
    this.#send = send;
    this.#clips = clips;
    element("pause").onclick = () => this.#togglePause();
    element("step").onclick = () => this.ask("step", "Step");
    element("restart").onsubmit = (event) => {
      event.preventDefault();
      const seed = element("seed").value.trim();
      this.ask("restart", seed ? `Restart with seed ${seed}` : "Restart", seed ? { seed: Number(seed) } : {});
    };
    document.addEventListener("keydown", (event) => this.#key(event));
    this.#watchUploads();
  }

  /** Builds the label buttons. Four arrow keys make a cross, with a lone other label in its middle. */
  reset({ labels }, uploadLimit) {
    this.#labels = labels;
    this.#uploadLimit = uploadLimit;
    element("upload-answer").textContent = this.#clips
      ? `MP4, AVI, MKV or WebM, up to ${mebibytes(uploadLimit)}`
      : "Only the main session takes clips";
    this.#awaited = null;
    const cross = Object.keys(ARROWS).every((key) => labels.some((label) => label.key === key));
    const others = labels.filter((label) => !ARROWS[label.key]).length;
    const group = element("labels");
    group.classList.toggle("cross", cross);
    this.#buttons = labels.map(({ name, key }, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.style.setProperty("--colour", labelColour(index));
      if (cross && (ARROWS[key] || others === 1)) button.dataset.place = ARROWS[key] ?? "middle";
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      button.append(swatch, name);
      if (key) {
        const cap = document.createElement("kbd");
        cap.textContent = KEY_FACES[key] ?? key;
        button.append(cap);
        button.setAttribute("aria-keyshortcuts", key);
      }
      button.onclick = (event) => {
        this.#choose(index);
        // After a click with the mouse the space bar means pause again, not this button.
        if (event.detail > 0) button.blur();
      };
      return button;
    });
    group.replaceChildren(...this.#buttons);
  }

  /** Only a connected page can ask for anything. */
  enable(ready) {
    this.#ready = ready;
    for (const button of this.#buttons) button.disabled = !ready;
    element("pause").disabled = !ready;
    element("step").disabled = !ready || !this.#paused;
    element("restart").querySelector("button").disabled = !ready;
    const uploads = ready && this.#clips;
    element("clip").disabled = !uploads;
    element("upload").classList.toggle("disabled", !uploads);
  }

  /** Follows what the server announces. */
  follow({ label, paused, seed }) {
    this.#paused = paused;
    this.#buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === label)));
    element("pause-text").textContent = paused ? "Resume" : "Pause";
    element("seed").placeholder = `new, now ${seed}`;
    this.enable(this.#ready);
  }

  /** A frame is on screen: the control that waits for it has arrived. */
  shown({ block, generation }) {
    const awaited = this.#awaited;
    if (!awaited || awaited.block === undefined || block < awaited.block || generation < awaited.generation) return;
    this.#awaited = null;
    const took = Math.round(performance.now() - awaited.asked);
    this.#say(`${awaited.what}: on screen at block ${block}, after ${took} ms`, "shown");
  }

  #choose(index) {
    const button = this.#buttons[index];
    button.classList.add("pending");
    this.ask("label", this.#labels[index].name, { index }, { settled: () => button.classList.remove("pending") });
  }

  #togglePause() {
    this.ask(this.#paused ? "resume" : "pause", this.#paused ? "Resume" : "Pause");
  }

  /** Sends a request and tells how it goes. `applied(session, answer)` may add to the line that says so. */
  ask(type, what, fields = {}, { settled, applied } = {}) {
    const awaited = { what, asked: performance.now(), generation: 0 };
    this.#awaited = null;
    this.#say(`${what}: sent`, "sent");
    this.#send(type, fields, {
      received: () => this.#say(`${what}: received`, "received"),
      applied: (block, session) => {
        settled?.();
        this.#say(`${what}: applied at block ${block}`, "applied", block);
        applied?.(session, element("answer"));
        if (type === "label") this.#awaited = { ...awaited, block };
      },
      refused: ({ message }) => {
        settled?.();
        this.#say(`${what}: ${message}`, "refused");
      },
    });
  }

  #say(text, phase, block) {
    const answer = element("answer");
    answer.textContent = text;
    answer.dataset.phase = phase;
    if (block !== undefined) answer.dataset.block = block;
  }

  #key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !this.#ready) return;
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
    const label = this.#labels.findIndex(({ key }) => key === event.key);
    const act =
      label >= 0
        ? () => this.#choose(label)
        : event.key === " " && !event.target.closest("button, summary")
          ? () => this.#togglePause()
          : event.key === "." && this.#paused
            ? () => element("step").click()
            : event.key === "Backspace"
              ? () => element("back").click()
              : null;
    if (!act) return;
    event.preventDefault();
    if (!event.repeat) act();
  }

  #watchUploads() {
    const input = element("clip");
    input.onchange = () => {
      if (input.files.length) this.#upload(input.files[0]);
      input.value = "";
    };
    const stage = element("stage");
    const carriesFile = (event) => this.#clips && event.dataTransfer?.types.includes("Files");
    let depth = 0;
    document.addEventListener("dragenter", (event) => {
      if (carriesFile(event) && ++depth === 1) stage.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (carriesFile(event) && --depth === 0) stage.classList.remove("dropping");
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      depth = 0;
      stage.classList.remove("dropping");
      const file = event.dataTransfer?.files[0];
      if (file && this.#ready && this.#clips) this.#upload(file);
    });
  }

  async #upload(file) {
    const answer = element("upload-answer");
    const say = (text, phase) => {
      answer.textContent = text;
      answer.dataset.phase = phase;
    };
    if (file.size > this.#uploadLimit) {
      return say(`${file.name} is larger than ${mebibytes(this.#uploadLimit)}`, "refused");
    }
    say(`Uploading ${file.name}`, "sent");
    try {
      const response = await fetch("/api/clip", { method: "POST", body: file });
      const body = await response.json();
      if (response.ok) say(`${file.name}: applied at block ${body.block}`, "applied");
      else say(`${file.name}: ${body.error} (${body.request_id})`, "refused");
    } catch {
      say(`${file.name}: the upload did not reach the server`, "refused");
    }
  }
}
