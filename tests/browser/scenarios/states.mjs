// States that a healthy server does not bring about by itself: their messages are put before the real ones.

import { until } from "../harness.mjs";

export default async function (stage) {
  const silent = await stage.open({ prepare: (page) => page.routeWebSocket(/\/ws/, () => {}) });
  await until(silent, "a server that does not answer yet is being connected to", () => __acdit.state === "connecting");
  await stage.shot(silent, "connecting");
  await silent.close();

  const stranger = await stage.open({
    prepare: (page) => page.routeWebSocket(/\/ws/, (socket) => socket.send(JSON.stringify({ type: "hello", version: 99 }))),
  });
  await until(stranger, "another version of the protocol is refused in words", () => __acdit.state === "refused" && document.getElementById("veil-text").textContent.includes("99"));
  await stage.shot(stranger, "refused");
  await stranger.close();

  const slow = await stage.open({
    prepare: (page) => page.routeWebSocket(/\/ws/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((message) => {
        socket.send(message);
        if (typeof message !== "string") socket.send(JSON.stringify({ type: "gap", dropped: 3 }));
      });
    }),
  });
  await until(slow, "frames that were left out make it slow", () => __acdit.state === "slow" && __acdit.dropped >= 3);
  await stage.shot(slow, "slow");
  await slow.close();

  const gaveUp = (message) => message.replace('"paused":false', '"paused":true').replace('"gave_up":null', '"gave_up":"decode"');
  const stopped = await stage.open({
    prepare: (page) => page.routeWebSocket(/\/ws/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((message) => socket.send(typeof message === "string" ? gaveUp(message) : message));
    }),
  });
  await until(stopped, "a session that gave up says so", () => __acdit.state === "stopped" && document.getElementById("veil-text").textContent.includes("Resume"));
  await stage.shot(stopped, "stopped");
  await stopped.close();

  const queue = await stage.open({ address: "/?session=new", prepare: (page) => page.addInitScript(holdLine) });
  await until(queue, "who waits for a session is told the place in line", () => __acdit.state === "queued" && document.getElementById("veil-title").textContent.includes("3"));
  await stage.shot(queue, "queued");
  await queue.evaluate(() => __line({ place: 1 }));
  await until(queue, "and when it moves up", () => document.getElementById("status-text").textContent.endsWith("1"));
  await queue.evaluate(() => __line({ session: "main" }));
  await until(queue, "and then the session plays", () => /live|slow/.test(__acdit.state));
  await queue.close();

  const panel = await stage.live({ prepare: (page) => page.addInitScript(holdLine) });
  await panel.getByText("New session", { exact: true }).click();
  await panel.getByRole("button", { name: "Begin" }).click();
  await until(panel, "the list says where one stands", () => document.getElementById("queued-place").textContent === "3");
  await stage.shot(panel, "queued-beside");
  await panel.getByRole("button", { name: "Leave the line" }).click();
  await until(panel, "the line can be left", () => document.getElementById("queued").hidden && !document.getElementById("begin-send").disabled);
}

/** Runs in the page: whoever asks for a session stands third in line, and `__line(line)` tells more. */
function holdLine() {
  const real = globalThis.fetch;
  globalThis.fetch = async (path, request) => {
    if (path !== "/api/sessions" || request?.method !== "POST") return real(path, request);
    const encoder = new TextEncoder();
    const body = new ReadableStream({
      start(controller) {
        globalThis.__line = (line) => controller.enqueue(encoder.encode(`${JSON.stringify(line)}\n`));
        request.signal.addEventListener("abort", () => controller.error(new DOMException("left", "AbortError")));
        globalThis.__line({ place: 3 });
      },
    });
    return new Response(body, { status: 202 });
  };
}
