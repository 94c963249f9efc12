// Futures side by side: one for each label, or for each seed; going on in one of them; letting the others go.

import assert from "node:assert/strict";
import { until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live({ tolerate: [/status of 404/] });
  const sessions = async () => (await (await fetch(`${stage.server.origin}/api/sessions`)).json()).map(({ session }) => session);
  const playing = (count) => until(page, `${count} futures play`, (count) => {
    const all = [...document.querySelectorAll(".future")];
    return all.length === count && all.every(({ dataset }) => dataset.state === "live");
  }, count);

  await page.getByRole("button", { name: "Futures" }).click();
  await stage.shot(page, "futures-setup");
  await page.getByRole("button", { name: "Show 5 futures" }).click();
  await playing(5);
  const names = await page.locator(".future-name").allTextContents();
  assert.deepEqual(names, ["none", "down", "up", "left", "right"], "one future for each label");
  assert.equal((await sessions()).length, 6);
  await stage.shot(page, "futures");
  await stage.accessible(page, "the futures grid");

  await page.keyboard.press("Escape");
  await until(page, "closing the grid closes it", () => !document.getElementById("futures").open);
  await page.waitForFunction(async () => (await (await fetch("/api/sessions")).json()).length === 1);
  console.log("ok: futures that nobody goes on in are let go");

  await page.getByRole("button", { name: "Futures" }).click();
  await page.getByRole("radio", { name: "A seed each" }).check();
  await page.getByRole("slider", { name: "Futures" }).fill("3");
  await page.getByRole("button", { name: "Show 3 futures" }).click();
  await playing(3);
  const [, second] = await page.getByRole("button", { name: "Go on with seed" }).all();
  const seed = (await second.textContent()).match(/\d+/)[0];
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(page, "Enter goes on in one of them", (seed) => /live|slow/.test(__acdit.state) && document.getElementById("seed").placeholder.endsWith(` ${seed}`), seed);
  await until(page, "its timeline has the past that it shares", () => document.querySelector('.cell[data-mark="futures"]') !== null && document.querySelector(".cell.seen") !== null);
  assert.deepEqual((await sessions()).sort(), ["main", new URL(page.url()).searchParams.get("session")].sort(), "the others are gone");
  await stage.shot(page, "gone-on");
  await fetch(page.url().replace(/\/\?session=/, "/api/sessions/"), { method: "DELETE" });
}
