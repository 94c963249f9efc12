// Labels by key and by button, pause, single steps, restarts.

import assert from "node:assert/strict";
import { receipt, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live();
  await page.keyboard.press("ArrowRight");
  await receipt(page, "answer", "shown", "right");
  await until(page, "the picture of that block is on screen", () => Number(document.getElementById("answer").dataset.block) <= __acdit.header.block);
  await until(page, "the label shown is the one asked for", () => document.getElementById("label").textContent === "right");
  await page.getByRole("button", { name: "left" }).click();
  await until(page, "a label button works as well", () => document.getElementById("label").textContent === "left");
  await stage.shot(page, "live");

  await page.keyboard.press("Space");
  await until(page, "Space pauses", () => __acdit.state === "paused");
  await receipt(page, "answer", "applied", "Pause");
  await until(page, "the last picture before the next block is on screen", () => {
    const { block, frame } = __acdit.header;
    return block === Number(document.getElementById("answer").dataset.block) - 1 && frame % 4 === 3;
  });
  const still = await page.evaluate(() => __acdit.drawn);
  await stage.shot(page, "paused");
  await page.getByRole("button", { name: "Step" }).click();
  await until(page, "a step shows its block", () => {
    const { textContent, dataset } = document.getElementById("answer");
    const block = Number(dataset.block);
    return textContent.startsWith("Step: applied") && __acdit.header.block === block && __acdit.next === block + 1;
  });
  const drawn = await page.evaluate(() => __acdit.drawn - __acdit.header.frame % 4 - 1);
  assert.ok(drawn <= still, "nothing but the step's frames was drawn since the pause");
  await page.keyboard.press("Space");
  await until(page, "Space resumes", () => /live|slow/.test(__acdit.state));

  const last = await page.evaluate(() => __acdit.header.generation);
  await page.locator("#seed").fill("42");
  await page.getByRole("button", { name: "Restart" }).click();
  await until(page, "a restart begins a new generation", (last) => __acdit.header.generation > last, last);
  await until(page, "the seed is shown", () => document.getElementById("seed").placeholder.includes("42"));
  await page.locator("#seed").fill("4x");
  await page.getByRole("button", { name: "Restart" }).click();
  await until(page, "a seed that is no number is not sent", () => document.querySelector("#seed:user-invalid") !== null);
}
