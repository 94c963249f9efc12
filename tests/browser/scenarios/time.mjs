// The timeline: eight back, a block chosen by keys and by a click, a drag, a fork.

import assert from "node:assert/strict";
import { pause, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live();
  await until(page, "there is a past to go back to", () => __acdit.next >= 17);
  await pause(page);

  const at = await page.evaluate(() => __acdit.next);
  await page.keyboard.press("Backspace");
  await until(page, "Backspace goes eight blocks back", (block) => __acdit.next === block, at - 8);
  await page.keyboard.press(".");
  await until(page, "the block on screen is one from before", (block) => {
    return document.getElementById("block").textContent === String(block) && __acdit.next === block + 1;
  }, at - 8);
  await until(page, "the timeline says where it was rewound to", (block) => {
    const first = Number(document.getElementById("timeline-text").textContent.match(/\d+/)[0]);
    return document.querySelectorAll(".cell")[block - first].dataset.mark === "rewind";
  }, at - 8);

  const strip = page.getByRole("slider", { name: "Block to go back to" });
  await strip.focus();
  for (let press = 0; press < 3; press++) await page.keyboard.press("ArrowLeft");
  await until(page, "the arrow keys choose a block", (block) => document.getElementById("moment").textContent === `block ${block}`, at - 10);
  await stage.shot(page, "chosen");
  await page.keyboard.press("Escape");
  await until(page, "Escape goes back to now", () => document.getElementById("moment").textContent === "now");
  for (let press = 0; press < 3; press++) await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Enter");
  await until(page, "Enter goes back to the block chosen", (block) => __acdit.next === block, at - 10);

  const cell = (block) => page.locator(".cell").nth(block - first);
  const first = await page.evaluate(() => Number(document.getElementById("timeline-text").textContent.match(/\d+/)?.[0] ?? 0));
  await cell(at - 12).click();
  await until(page, "a click chooses a block", (block) => document.getElementById("moment").textContent === `block ${block}`, at - 12);
  await page.getByRole("button", { name: "Rewind" }).click();
  await until(page, "the button goes back there", (block) => __acdit.next === block, at - 12);

  const [from, to] = [await cell(at - 13).boundingBox(), await cell(at - 16).boundingBox()];
  await page.mouse.move(from.x + 3, from.y + 10);
  await page.mouse.down();
  await page.mouse.move(to.x + 3, to.y + 10, { steps: 4 });
  await until(page, "a drag says where it goes back to", (block) => document.getElementById("preview-text").textContent === `let go to rewind to block ${block}`, at - 16);
  await stage.shot(page, "dragging");
  await page.mouse.up();
  await until(page, "a drag goes back to where it ends", (block) => __acdit.next === block, at - 16);

  const [fork] = await Promise.all([page.waitForEvent("popup"), page.getByRole("button", { name: "Fork" }).click()]);
  stage.watch(fork, [/status of 404/]);
  await fork.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(fork, "a fork opens and shows its own pictures", (block) => /live|slow/.test(__acdit.state) && __acdit.header.block >= block, at - 16);
  assert.equal(await page.evaluate(() => __acdit.next), at - 16, "the session that was forked stays where it was");
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: `Delete session ${new URL(fork.url()).searchParams.get("session")}` }).click();
  await until(fork, "the fork's page says that its session is gone", () => __acdit.state === "gone");
  await until(page, "the list shows that the fork is deleted", () => document.getElementById("session-list").childElementCount === 1);
  await stage.shot(fork, "gone");

  await page.getByRole("button", { name: "Resume" }).click();
  await until(page, "it resumes from there", (block) => /live|slow/.test(__acdit.state) && __acdit.header.block >= block, at - 15);
}
