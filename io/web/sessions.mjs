// The list of sessions: look at one, begin one (waiting in line if need be), end one.

import { beginSession, call, endSession, listSessions, sessionPath } from "/api.mjs";
import { count, element, labelColour, labelName, make, write } from "/dom.mjs";
import { MAIN, go, here, lead, onPlace, pageOf } from "/place.mjs";
import { Receipt } from "/receipt.mjs";

const EVERY = 3000;

/** Opens a session in a new tab, and leaves a link to it in case the browser does not allow that. */
export function openTab(id, answer) {
  const link = make("a", { href: pageOf(id), target: "_blank" }, `open ${id}`);
  answer.append(" · ", link);
  window.open(link.href, "_blank");
}

const OBSTACLES = { no_session: "gone", token_needed: "signed out" };

/** Why a session cannot be watched, which a refused WebSocket does not tell: "gone", "taken", "signed out" or null. */
export async function obstacle(id) {
  try {
    const { private: alone, viewers } = await call("GET", sessionPath(id));
    return alone && viewers > 0 ? "taken" : null;
  } catch (error) {
    return OBSTACLES[error.code] ?? null;
  }
}

export class SessionList {
  #labels = [];
  #receipt = new Receipt(element("sessions-answer"));
  #waiting = null;
  /** A server that does not answer is not asked again before it says hello. */
  #reachable = true;

  constructor() {
    element("begin").onsubmit = (event) => {
      event.preventDefault();
      this.#begin();
    };
    element("leave-line").onclick = () => this.#waiting?.abort();
    onPlace(() => this.refresh());
    setInterval(() => this.#reachable && !document.hidden && this.refresh(), EVERY);
  }

  /** Offers the world's labels to begin with. */
  reset({ labels }) {
    const options = labels.map(({ name }, index) => new Option(name, index));
    if (JSON.stringify(labels) !== JSON.stringify(this.#labels)) {
      element("begin-label").replaceChildren(new Option("any", ""), ...options);
    }
    this.#labels = labels;
    this.refresh();
  }

  async refresh() {
    const list = element("session-list");
    try {
      const listed = await listSessions();
      this.#reachable = true;
      const rows = new Map([...list.children].map((row) => [row.dataset.session, row]));
      const next = listed.map((one) => this.#fill(rows.get(one.session) ?? this.#row(one.session), one));
      // Rows that stay are not touched: somebody may be on one with the keyboard.
      if (next.length !== list.children.length || next.some((row, at) => row !== list.children[at])) list.replaceChildren(...next);
      write("session-count", count(listed.length, "session"));
    } catch {
      this.#reachable = false;
      write("session-count", "");
    }
  }

  #row(id) {
    const link = lead(make("a"), id);
    const row = make("li", {}, make("span", { className: "swatch" }), link, make("span", { className: "about" }));
    link.append(make("span", { className: "name" }, id === MAIN ? "main" : id));
    row.dataset.session = id;
    if (id === MAIN) return row;
    const end = make("button", { type: "button", className: "icon", title: "Delete", "aria-label": `Delete session ${id}` }, "×");
    end.onclick = () => this.#delete(id);
    row.append(end);
    return row;
  }

  #fill(row, { session: id, private: alone, unattended, ephemeral, viewers, state }) {
    const words = [labelName(this.#labels, state.label), `block ${state.block}`, count(viewers, "viewer")];
    const traits = { private: alone, unattended, "a future": ephemeral, paused: state.paused, recording: state.recording };
    words.push(...Object.keys(traits).filter((trait) => traits[trait]));
    write(row.querySelector(".about"), words.filter(Boolean).join(" · "));
    row.querySelector(".swatch").style.setProperty("--colour", labelColour(state.label));
    const link = row.querySelector("a");
    if (id === here()) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    return row;
  }

  async #delete(id) {
    if (!confirm(`Delete session ${id}, and what was saved of it?`)) return;
    try {
      await endSession(id);
      this.#receipt.say(`${id}: deleted`, "applied");
    } catch (error) {
      this.#receipt.say(`${id}: ${error.message}`, "refused");
    }
    await this.refresh();
  }

  async #begin() {
    const label = element("begin-label").value;
    const seed = element("begin-seed").value.trim();
    const fields = { private: element("begin-private").checked };
    if (label) fields.label = Number(label);
    if (seed) fields.seed = Number(seed);
    this.#receipt.say("New session: sent", "sent");
    const waiting = (this.#waiting = new AbortController());
    element("begin-send").disabled = true;
    try {
      const clip = element("begin-clip").files[0];
      const onPlace = (place) => this.#queued(place);
      const id = await beginSession(fields, { clip, onPlace, signal: waiting.signal });
      this.#receipt.say(`${id}: begun`, "applied");
      element("begin").reset();
      go(id);
    } catch (error) {
      if (waiting.signal.aborted) this.#receipt.say("You left the line");
      else this.#receipt.say(`New session: ${error.message}`, "refused");
    } finally {
      this.#waiting = null;
      element("begin-send").disabled = false;
      this.#queued(null);
    }
  }

  /** Where the session that was asked for stands in line; null: it does not. */
  #queued(place) {
    element("queued").hidden = place === null;
    if (place !== null) write("queued-place", place);
  }
}
