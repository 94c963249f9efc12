// Requests to the server beside the WebSocket. What is refused becomes an error in the server's words.

const SESSIONS = "/api/sessions";

export const sessionPath = (id) => `${SESSIONS}/${encodeURIComponent(id)}`;

/** A request that was refused, or that never arrived (code "offline"). */
export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Sends a request and returns what the answer holds. An object travels as JSON, a file or a form as it is. */
export async function call(method, path, body, options = {}) {
  const response = await ask(method, path, body, options);
  return response.status === 204 ? null : response.json();
}

async function ask(method, path, body, options) {
  const plain = body !== undefined && !(body instanceof Blob || body instanceof FormData);
  const request = plain
    ? { method, body: JSON.stringify(body), headers: { "content-type": "application/json" } }
    : { method, body };
  const response = await fetch(path, { ...request, ...options }).catch((error) => {
    if (options.signal?.aborted) throw error;
    throw new Refused("the server does not answer", "offline");
  });
  if (response.ok) return response;
  const { error, code, request_id } = await response.json().catch(() => ({}));
  throw new Refused(error ? `${error} (${request_id})` : `the server answered ${response.status}`, code);
}

/**
 * Begins a session and returns its id, waiting in line if need be: `onPlace(place)` tells where one stands, and `signal`
 * leaves the line. With a clip it is the clip's continuation, and there must be a place.
 */
export async function beginSession(fields, { clip, onPlace, signal } = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  if (clip) form.append("clip", clip);
  const body = clip ? form : { ...fields, wait: true };
  const response = await ask("POST", SESSIONS, body, { signal });
  if (response.status !== 202) return (await response.json()).session;
  for await (const line of lines(response.body)) {
    const { place, session, error, code } = JSON.parse(line);
    if (session) return session;
    if (error) throw new Refused(error, code);
    onPlace?.(place);
  }
  throw new Refused("the line ended without a place", "offline");
}

/** All sessions. */
export const listSessions = () => call("GET", SESSIONS);

/** The blocks of a session that can be gone back to. */
export const pastBlocks = (id) => call("GET", `${sessionPath(id)}/blocks`);

/** Ends a session. `keepalive`: even if this page goes away meanwhile. */
export const endSession = (id, options) => call("DELETE", sessionPath(id), undefined, options);

/** The lines of a body, as they come. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    yield* whole.filter(Boolean);
  }
  if (rest.trim()) yield rest;
}
