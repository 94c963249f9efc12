// Steps and guidance change from the next block on, and the charts follow.

import { receipt, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live();
  const own = await page.locator("#steps-text").textContent();
  await page.getByRole("slider", { name: "Steps" }).fill("2");
  await receipt(page, "answer", "applied", "steps 2");
  // "off" is 1
  const guidance = ((Number(await page.locator("#guidance-text").textContent()) || 1) + 0.1).toFixed(1);
  await page.getByRole("slider", { name: "Guidance" }).focus();
  await page.keyboard.press("ArrowUp");
  await receipt(page, "answer", "applied", `guidance ${guidance}`);
  const other = await stage.live();
  await until(other, "another page shows what is in effect", (guidance) => document.getElementById("steps-text").textContent === "2" && document.getElementById("guidance-text").textContent === guidance, guidance);
  await other.close();
  await page.getByRole("button", { name: "Reset" }).click();
  await until(page, "a reset brings the world's own back", (own) => document.getElementById("steps-text").textContent === own && document.getElementById("sampling-reset").hidden, own);
  await until(page, "the charts have lines", () => [...document.querySelectorAll(".chart .line")].every((line) => line.getAttribute("points").split(" ").length > 2));
}
