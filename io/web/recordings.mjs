// Recording the session, and the films that the server keeps.

import { Refused, call } from "/api.mjs";
import { count, element, make, size, write } from "/dom.mjs";

const PATH = "/api/recordings";
const SHOWN = 6;

export class Recordings {
  #ask;
  #since = undefined;
  #block = 0;
  #kept = false;
  #blockSeconds = 0;

  /** `ask(type, what, fields, settled)` asks the server. */
  constructor(ask) {
    this.#ask = ask;
    element("record").onclick = () => {
      const on = !this.#recording;
      ask("record", on ? "Record" : "Stop recording", { on }, () => this.refresh());
    };
  }

  get #recording() {
    return this.#since !== undefined && this.#since !== null;
  }

  reset({ frames_per_block, frames_per_second }) {
    this.#blockSeconds = frames_per_block / frames_per_second;
    this.refresh();
  }

  enable(ready) {
    element("record").disabled = !ready || !this.#kept;
  }

  follow({ block, recording }) {
    const since = recording?.since ?? null;
    const ended = this.#recording && since === null;
    this.#since = since;
    this.#block = block;
    const on = this.#recording;
    const seconds = on ? Math.max(0, Math.round((block - since) * this.#blockSeconds)) : 0;
    write("record-text", on ? "Stop" : "Record");
    element("record").setAttribute("aria-pressed", String(on));
    element("taping").hidden = !on;
    write("taping-text", `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
    if (ended) this.refresh();
  }

  /** Asks what there is. A server that keeps no recordings says so by having no such page. */
  async refresh() {
    let films = [];
    try {
      films = await call("GET", PATH);
      this.#kept = true;
    } catch (error) {
      if (error instanceof Refused && error.code === "offline") return;
      this.#kept = false;
    }
    element("record").disabled = !this.#kept;
    element("record").title = this.#kept ? "Keep what follows as a film" : "This server keeps no recordings";
    element("no-recordings").hidden = this.#kept;
    const finished = films.filter(({ open }) => !open).slice(-SHOWN).reverse();
    element("films").replaceChildren(...finished.map((film) => this.#row(film)));
    element("films").hidden = !finished.length;
    element("kept-recordings").hidden = !this.#kept || finished.length > 0;
  }

  #row({ name, blocks: [first, next], bytes }) {
    const path = `${PATH}/${encodeURIComponent(name)}`;
    const film = make("a", { href: `${path}.mp4`, download: `${name}.mp4` }, name);
    const sidecar = make("a", { href: `${path}.json`, download: `${name}.json`, className: "sidecar", "aria-label": `Sidecar of ${name}` }, "JSON");
    const about = `${count(next - first, "block")} · ${size(bytes)}`;
    return make("li", {}, film, make("span", { className: "about" }, about), sidecar);
  }
}
