// Which session this page shows, and the list of all of them: look, begin one, end one.

const MAIN = "main";
const PATH = "/api/sessions";

const element = (id) => document.getElementById(id);

/** The session of this page: `?session=ID`, else the main one. */
export const session = new URLSearchParams(location.search).get("session") || MAIN;
export const isMain = session === MAIN;
export const socketPath = isMain ? "/ws" : `/ws/${encodeURIComponent(session)}`;

/** The address of the page that shows a session, as this one is shown. */
export function pageOf(id) {
  const url = new URL(location);
  if (id === MAIN) url.searchParams.delete("session");
  else url.searchParams.set("session", id);
  return url.href;
}

/** Opens a session in a new tab, and leaves a link to it in case the browser does not allow that. */
export function openSession(id, answer) {
  const link = document.createElement("a");
  Object.assign(link, { href: pageOf(id), target: "_blank", textContent: `open ${id}` });
  answer.append(" · ", link);
  window.open(link.href, "_blank");
}

/** Why this page's session cannot be watched, which a refused WebSocket does not tell: "gone", "taken" or null. */
export async function obstacle() {
  if (isMain) return null;
  try {
    const response = await fetch(`${PATH}/${encodeURIComponent(session)}`);
    if (response.status === 404) return "gone";
    const { private: alone, viewers } = await response.json();
    return alone && viewers > 0 ? "taken" : null;
  } catch {
    return null;
  }
}

/** Sends a request and returns what the answer holds; what was refused is an error in words. */
async function call(method, path, body) {
  const request = { method, body: body && JSON.stringify(body) };
  const response = await fetch(path, request).catch(() => {
    throw new Error("the server does not answer");
  });
  if (response.status === 204) return null;
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export class SessionList {
  #labels = [];

  constructor() {
    element("session").textContent = session;
    element("sessions").ontoggle = () => element("sessions").open && this.refresh();
    element("refresh").onclick = () => this.refresh();
    element("begin").onsubmit = (event) => {
      event.preventDefault();
      this.#begin();
    };
  }

  /** Offers the world's labels to begin with. */
  reset({ labels }) {
    this.#labels = labels;
    const options = labels.map(({ name }, index) => new Option(name, index));
    element("begin-label").replaceChildren(new Option("any", ""), ...options);
  }

  async refresh() {
    try {
      const listed = await call("GET", PATH);
      element("session-list").replaceChildren(...listed.map((one) => this.#row(one)));
      this.#say(listed.length === 1 ? "One session" : `${listed.length} sessions`);
    } catch (error) {
      this.#say(error.message, "refused");
    }
  }

  #row({ session: id, private: alone, unattended, viewers, state }) {
    const row = document.createElement("li");
    const link = document.createElement("a");
    Object.assign(link, { href: pageOf(id), textContent: id });
    if (id === session) link.setAttribute("aria-current", "page");
    const about = document.createElement("span");
    const words = [`block ${state.block}`, viewers === 1 ? "1 viewer" : `${viewers} viewers`];
    const label = this.#labels[state.label]?.name;
    if (label) words.splice(1, 0, label);
    if (alone) words.push("private");
    if (unattended) words.push("unattended");
    about.textContent = words.join(" · ");
    row.append(link, about);
    if (id !== MAIN) row.append(this.#deleteButton(id));
    return row;
  }

  #deleteButton(id) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: "Delete" });
    button.setAttribute("aria-label", `Delete session ${id}`);
    button.onclick = async () => {
      if (!confirm(`Delete session ${id}, and what was saved of it?`)) return;
      try {
        await call("DELETE", `${PATH}/${encodeURIComponent(id)}`);
        await this.refresh();
        this.#say(`${id}: deleted`, "applied");
      } catch (error) {
        this.#say(`${id}: ${error.message}`, "refused");
      }
    };
    return button;
  }

  async #begin() {
    const label = element("begin-label").value;
    const seed = element("begin-seed").value.trim();
    const wanted = { private: element("begin-private").checked };
    if (label) wanted.label = Number(label);
    if (seed) wanted.seed = Number(seed);
    this.#say("New session: sent", "sent");
    try {
      const { session: id } = await call("POST", PATH, wanted);
      await this.refresh();
      this.#say(`${id}: begun`, "applied");
      openSession(id, element("sessions-answer"));
    } catch (error) {
      this.#say(`New session: ${error.message}`, "refused");
    }
  }

  #say(text, phase = "") {
    element("sessions-answer").textContent = text;
    element("sessions-answer").dataset.phase = phase;
  }
}
