// The server goes away and comes back.

import { until } from "../harness.mjs";

export default async function (stage) {
  const refused = /WebSocket connection to .* failed|net::ERR_CONNECTION_REFUSED/;
  const page = await stage.live({ tolerate: [refused] });
  await stage.server.stop();
  await until(page, "the page says that it reconnects", () => __acdit.state === "lost");
  await stage.shot(page, "lost");
  const drawn = await page.evaluate(() => __acdit.drawn);
  await stage.server.start();
  await until(page, "a restarted server is found again", (drawn) => /live|slow/.test(__acdit.state) && __acdit.connects > 1 && __acdit.drawn > drawn, drawn);
  await until(page, "the timeline shows the past of the new one", () => Number(document.getElementById("timeline-text").textContent.split(" ").at(-1)) <= __acdit.next);
}
