// Real frames into the world: chosen, seen as the model will get them, and sent for the next block, or for every next one.
//
// A clip that shall be continued goes to the server as a file instead: it decodes more than browsers do.

import { call } from "/api.mjs";
import { element, size, write } from "/dom.mjs";
import { clipsOf, here } from "/place.mjs";
import { openCamera, openFile } from "/pixels.mjs";
import { Receipt } from "/receipt.mjs";

const HINT = "Pictures and videos stay on this machine until you send them";

export class Inject {
  #send;
  #info = null;
  #limit = Infinity;
  #ready = false;
  #source = null;
  #file = null;
  #receipt = new Receipt(element("inject-answer"));
  /** Counts sources, so that one which opens late is let go. */
  #turn = 0;
  #busy = false;
  #held = false;
  #block = 0;
  /** The next block to hold frames in. */
  #next = 0;

  /** `send(frames, answers)` injects RGB24 frames. */
  constructor(send) {
    this.#send = send;
    const input = element("real-file");
    input.onchange = () => {
      if (input.files.length) this.open(input.files[0]);
      input.value = "";
    };
    element("camera").onclick = () => this.#openCamera();
    element("real-close").onclick = () => this.#close();
    element("seek").oninput = () => this.#seek();
    element("inject").onclick = () => this.#inject();
    element("hold").onclick = () => this.#hold(!this.#held);
    element("continue").onclick = () => this.upload(this.#file);
    this.#watchDrops();
    this.#show();
    this.#receipt.say(HINT);
  }

  /** Another world may take frames of another size. */
  reset(info, limit) {
    const changed = JSON.stringify(info.input) !== JSON.stringify(this.#info?.input);
    this.#info = info;
    this.#limit = limit;
    this.#hold(false);
    if (changed) this.#close();
    this.#offerCounts(info.frames_per_block);
    write("continue-hint", `up to ${size(limit)}`);
    this.#show();
  }

  enable(ready) {
    this.#ready = ready;
    if (!ready) this.#hold(false);
    this.#show();
  }

  /** Follows what the server announces: a held source is sent for each block. */
  follow({ block }) {
    this.#block = block;
    if (this.#held && !this.#busy && block >= this.#next) this.#inject();
  }

  shown(header) {
    this.#receipt.shown(header);
  }

  /** Takes a picture or a video from a file. */
  async open(file) {
    this.#file = file.type.startsWith("image/") ? null : file;
    await this.#use(file.name, () => openFile(file, this.#info.input));
  }

  /** A file that was dropped on the picture is used at once: a picture is injected, a video continued. */
  async drop(file) {
    if (!file.type.startsWith("image/")) return this.upload(file);
    await this.open(file);
    if (this.#source) await this.#inject();
  }

  /** Sends a video file, which the world then goes on from. */
  async upload(file) {
    if (!file) return;
    const what = file.name;
    if (file.size > this.#limit) return this.#receipt.say(`${what} is larger than ${size(this.#limit)}`, "refused");
    const answers = this.#receipt.follow(what, { visible: true, anew: true });
    try {
      answers.applied(await call("POST", clipsOf(here()), file));
    } catch (error) {
      answers.refused(error);
    }
  }

  async #openCamera() {
    this.#file = null;
    await this.#use("Camera", () => openCamera(this.#info.input));
  }

  async #use(name, open) {
    if (!this.#info?.input) return this.#receipt.say("This server takes no frames, only clips to continue from", "");
    this.#letGo();
    const turn = ++this.#turn;
    this.#receipt.say(`${name}: opening`, "sent");
    write("real-name", name);
    try {
      const source = await open();
      if (turn !== this.#turn) return source.close();
      this.#source = source;
      write("real-about", source.about);
      this.#receipt.say("This is what the model will see");
      const preview = element("real-preview");
      const { width, height } = this.#info.input;
      Object.assign(preview, { width: 192, height: Math.round((192 * height) / width) });
      element("seek").max = source.duration ?? 0;
      element("seek").value = 0;
      this.#paint();
    } catch (error) {
      if (turn !== this.#turn) return;
      write("real-about", this.#file ? "the server may read it all the same" : "");
      this.#receipt.say(`${name}: ${error.message}`, this.#file ? "" : "refused");
      if (!this.#file) this.#turn++;
    }
    this.#show();
  }

  /** The camera's preview moves; others are painted when they change. */
  #paint() {
    if (!this.#source) return;
    this.#source.draw(element("real-preview").getContext("2d", { alpha: false }));
    if (this.#source.live) requestAnimationFrame(() => this.#paint());
  }

  async #seek() {
    const source = this.#source;
    await source.seek(element("seek").valueAsNumber).catch(() => {});
    if (source === this.#source) this.#paint();
  }

  async #inject() {
    const source = this.#source;
    if (!source || this.#busy) return;
    this.#busy = true;
    this.#show();
    const count = Number(element("inject-count").querySelector(":checked").value);
    const what = count === this.#info.frames_per_block ? "Whole block" : `${count} pinned`;
    let frames;
    try {
      frames = await source.grab(count, 1 / this.#info.frames_per_second);
    } catch (error) {
      this.#done(0);
      return this.#receipt.say(`${what}: ${error.message}`, "refused");
    }
    if (source === this.#source && !source.live) {
      element("seek").value = source.at ?? 0;
      this.#paint();
    }
    this.#send(
      frames,
      this.#receipt.follow(what, {
        visible: true,
        applied: ({ block }) => this.#done(block + 1),
        refused: () => {
          this.#hold(false);
          this.#done(0);
        },
      }),
    );
  }

  #done(next) {
    this.#busy = false;
    this.#next = next;
    this.#show();
    this.follow({ block: this.#block });
  }

  #hold(held) {
    this.#held = held && this.#source !== null;
    this.#show();
    if (this.#held && !this.#busy) this.#inject();
  }

  #letGo() {
    this.#turn++;
    this.#held = false;
    this.#source?.close();
    this.#source = null;
  }

  #close() {
    this.#letGo();
    this.#file = null;
    this.#receipt.say(HINT);
    this.#show();
  }

  #offerCounts(frames) {
    const group = element("inject-count");
    const radios = [...group.querySelectorAll("input")];
    if (radios.length === frames) return;
    const options = Array.from({ length: frames }, (_, index) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "inject-count", value: index + 1 });
      radio.checked = index + 1 === frames;
      radio.onchange = () => this.#show();
      const text = document.createElement("span");
      text.textContent = index + 1 === frames ? `${frames}, all` : index + 1;
      label.append(radio, text);
      return label;
    });
    group.querySelector(".segments").replaceChildren(...options);
  }

  #show() {
    const open = this.#source !== null;
    element("real").hidden = !open && !this.#file;
    element("real-preview").hidden = !open;
    element("real-open").hidden = open || this.#file !== null;
    element("inject-count").hidden = element("inject").hidden = element("hold").hidden = !open;
    element("seek").hidden = !(open && this.#source.duration);
    element("real-file").disabled = element("camera").disabled = !this.#ready;
    element("inject").disabled = !this.#ready || this.#held || this.#busy;
    element("hold").disabled = !this.#ready;
    element("hold").setAttribute("aria-pressed", String(this.#held));
    write("hold-text", this.#held ? "Let go" : "Hold");
    element("continue").hidden = !this.#file;
    element("continue").disabled = !this.#ready;
    const checked = element("inject-count").querySelector(":checked");
    const all = !checked || Number(checked.value) === this.#info?.frames_per_block;
    write("inject-hint", all ? "They replace the next block" : "The next block begins with them");
  }

  #watchDrops() {
    const stage = element("stage");
    const carriesFile = (event) => this.#ready && event.dataTransfer?.types.includes("Files");
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
      if (file && this.#ready) this.drop(file);
    });
  }
}
