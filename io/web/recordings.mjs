// Recording the session, and the films that the server keeps.
//
// Whether it keeps any is known only once it was asked: when somebody records, or opens the list.

import { Refused, call } from "/api.mjs";
import { count, element, make, size, write } from "/dom.mjs";

const PATH = "/api/recordings";
const SHOWN = 12;

export class Recordings {
  #since = null;
  #kept = true;
  #ready = false;
  #blockSeconds = 0;

  /** `ask(type, what, fields, settled)` asks the server. */
  constructor(ask) {
    element("record").onclick = () => {
      const on = this.#since === null;
      ask("record", on ? "Record" : "Stop recording", { on }, () => this.refresh());
    };
    element("recordings").ontoggle = () => element("recordings").open && this.refresh();
  }

  /** Another server may keep some. */
  reset({ frames_per_block, frames_per_second }) {
    this.#blockSeconds = frames_per_block / frames_per_second;
    this.#kept = true;
    if (element("recordings").open) this.refresh();
  }

  enable(ready) {
    this.#ready = ready;
    element("record").disabled = !ready || !this.#kept;
  }

  follow({ block, recording }) {
    const since = recording?.since ?? null;
    const ended = this.#since !== null && since === null;
    this.#since = since;
    const on = since !== null;
    const seconds = on ? Math.max(0, Math.round((block - since) * this.#blockSeconds)) : 0;
    write("record-text", on ? "Stop" : "Record");
    element("record").setAttribute("aria-pressed", String(on));
    element("taping").hidden = !on;
    write("taping-text", `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    if (ended) this.refresh();
  }

  /** Asks what there is. */
  async refresh() {
    let films = [];
    try {
      films = await call("GET", PATH);
      this.#kept = true;
    } catch (error) {
      if (error instanceof Refused && error.code === "offline") return;
      this.#kept = false;
    }
    this.enable(this.#ready);
    const shown = films.filter(({ open }) => !open).slice(-SHOWN).reverse();
    element("films").replaceChildren(...shown.map((film) => this.#row(film)));
    element("films").hidden = !shown.length;
    write("films-hint", !this.#kept ? "This server keeps none: start it with --recordings DIR" : shown.length ? "" : "None yet: Record keeps what follows");
    if (shown.length) element("recordings").open = true;
  }

  #row({ name, blocks, bytes, error }) {
    const path = `${PATH}/${encodeURIComponent(name)}`;
    const row = make("li", {}, make("a", { href: `${path}.mp4`, download: `${name}.mp4` }, name));
    const words = [blocks ? count(blocks[1] - blocks[0], "block") : "broken off", size(bytes)];
    if (error) words.push(error);
    row.append(make("span", { className: "about" }, words.join(" · ")));
    const title = "What the film was made of: acdit-world replay computes it again";
    const sidecar = { href: `${path}.json`, download: `${name}.json`, className: "sidecar", title, "aria-label": `JSON sidecar of ${name}` };
    if (blocks) row.append(make("a", sidecar, "JSON"));
    return row;
  }
}
