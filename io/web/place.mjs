// Which session this page shows: `?session=ID`, else the main one. It changes without loading the page anew.

export const MAIN = "main";
/** As a session's id in the address: begin one of one's own, waiting for a place if there is none. */
export const NEW = "new";

const listeners = new Set();

const read = () => new URLSearchParams(location.search).get("session") || MAIN;
let current = read();

/** The session on the page. */
export const here = () => current;

/** The address of the page that shows a session, as this one is shown. */
export function pageOf(id) {
  const url = new URL(location);
  if (id === MAIN) url.searchParams.delete("session");
  else url.searchParams.set("session", id);
  return url.href;
}

/** Where a session's WebSocket is. */
export function socketOf(id) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return `${scheme}://${location.host}${id === MAIN ? "/ws" : `/ws/${encodeURIComponent(id)}`}`;
}

/** Where a session's clips go up to. */
export function clipsOf(id) {
  return id === MAIN ? "/api/clip" : `/api/sessions/${encodeURIComponent(id)}/clip`;
}

/** Calls back with the new session whenever it changes. */
export const onPlace = (listener) => listeners.add(listener);

/** Goes to a session; the browser's back button returns. `replace`: it does not. */
export function go(id, { replace = false } = {}) {
  if (id === current) return;
  history[replace ? "replaceState" : "pushState"](null, "", pageOf(id));
  arrive(id);
}

/** Makes a link go there on a plain click, and in a tab of its own on any other. */
export function lead(link, id) {
  link.href = pageOf(id);
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(id);
  };
  return link;
}

function arrive(id) {
  current = id;
  for (const listener of listeners) listener(id);
}

addEventListener("popstate", () => read() !== current && arrive(read()));
