// The server goes away and comes back: in order, and as after a power failure.

import assert from "node:assert/strict";
import { until } from "../harness.mjs";

export default async function (stage) {
  // A server that ends resets connections; one that is gone refuses them.
  const refused = /WebSocket connection to .* failed|net::ERR_CONNECTION_(REFUSED|RESET|CLOSED)|net::ERR_EMPTY_RESPONSE/;
  const page = await stage.live({ tolerate: [refused] });
  await stage.server.stop();
  await until(page, "the page says that it reconnects", () => __acdit.state === "lost");
  await stage.shot(page, "lost");
  await found(page, stage.server, "a restarted server is found again");
  await until(page, "the timeline shows the past of the new one", () => Number(document.getElementById("timeline-text").textContent.split(" ").at(-1)) <= __acdit.next);

  const saved = await fetch(`${stage.server.origin}/api/sessions/main/snapshot`, { method: "POST" });
  const { block } = await saved.json();
  await stage.server.crash();
  await until(page, "the page says that it reconnects again", () => __acdit.state === "lost");
  await found(page, stage.server, "one that was killed is found again, too");
  const next = await page.evaluate(() => __acdit.next);
  assert.ok(next >= block, `block ${next} comes after ${block}, which was saved`);
}

/** Starts the server and waits for its first picture. */
async function found(page, server, what) {
  const { drawn, connects } = await page.evaluate(() => ({ ...__acdit }));
  await server.start();
  const ready = performance.now();
  await until(page, what, ({ drawn, connects }) => /live|slow/.test(__acdit.state) && __acdit.connects > connects && __acdit.drawn > drawn, { drawn, connects });
  console.log(`   first picture ${Math.round(performance.now() - ready)} ms after it was ready`);
}
