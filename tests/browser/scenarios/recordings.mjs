// A recording is begun, said, ended, listed, and can be fetched with its sidecar.

import assert from "node:assert/strict";
import { receipt, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live();
  const record = page.locator("#record");
  await record.click();
  await receipt(page, "answer", "applied", "Record");
  await until(page, "the page says that it records", () => !document.getElementById("taping").hidden && document.querySelector(".cell.taped") !== null);
  const since = Number(await page.locator("#answer").getAttribute("data-block"));
  await until(page, "some blocks are recorded", (since) => __acdit.header.block >= since + 4, since);
  await stage.shot(page, "recording");
  await record.click();
  await receipt(page, "answer", "applied", "Stop recording");
  const next = Number(await page.locator("#answer").getAttribute("data-block"));
  await until(page, "it ends, and the film is listed", () => document.getElementById("taping").hidden && document.querySelector("#films a") !== null);
  assert.ok((await page.locator("#films .about").textContent()).startsWith(`${next - since} blocks`), "with the blocks that were recorded");

  const [film, sidecar] = await page.locator("#films a").all();
  const fetched = async (link) => fetch(new URL(await link.getAttribute("href"), stage.server.origin));
  const bytes = Buffer.from(await (await fetched(film)).arrayBuffer());
  assert.equal(bytes.toString("latin1", 4, 8), "ftyp", "the link leads to an MP4 file");
  const { version, blocks } = await (await fetched(sidecar)).json();
  assert.deepEqual([version, blocks], [1, [since, next]], "and the other one to what computes it again");
}
