// Real frames: a picture, a video, the camera, held ones; and clips that the world goes on from.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { receipt, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live({ tolerate: [/status of 415/, /status of 404/] });
  const inject = page.getByRole("button", { name: "Inject now" });

  await page.setInputFiles("#real-file", stage.files.picture);
  await until(page, "a picture is seen as the model will get it", () => !document.getElementById("real-preview").hidden);
  await inject.click();
  await receipt(page, "inject-answer", "shown", "Whole block");
  await until(page, "its block is striped on the timeline", () => document.querySelector(".cell.real") !== null);
  await until(page, "the seam is marked", () => document.querySelector('.cell[data-mark="seam"]') !== null);
  await stage.shot(page, "injected");

  await page.getByRole("radio", { name: "2" }).check();
  await inject.click();
  await receipt(page, "inject-answer", "shown", "2 pinned");
  await until(page, "a pinned block is striped in part", () => document.querySelector(".cell.pinned") !== null);

  await page.setInputFiles("#real-file", stage.files.clip);
  await until(page, "a video can be moved through", () => !document.getElementById("seek").hidden);
  await page.getByRole("radio", { name: "4, all" }).check();
  await page.getByRole("slider", { name: "Moment of the video" }).fill("1");
  await inject.click();
  await receipt(page, "inject-answer", "shown", "Whole block");

  await page.getByRole("button", { name: "Close" }).click();
  await page.getByRole("button", { name: "Camera" }).click();
  await until(page, "the camera is seen", () => document.getElementById("real-about").textContent.startsWith("camera"));
  await page.getByRole("radio", { name: "1" }).check();
  const hold = page.getByRole("button", { name: "Hold" });
  const from = await page.evaluate(() => __acdit.next);
  await hold.click();
  await until(page, "held frames are in one block after another", (from) => {
    const pinned = [...document.querySelectorAll(".cell.pinned")];
    return pinned.filter(({ nextElementSibling }) => nextElementSibling?.classList.contains("pinned")).length >= 2 && __acdit.header.block > from + 3;
  }, from);
  await stage.shot(page, "camera");
  await page.getByRole("button", { name: "Let go" }).click();
  await page.getByRole("button", { name: "Close" }).click();
  await until(page, "it can be let go", () => !document.getElementById("real-open").hidden);

  // Under a label of the world: whole real blocks under none are taken for what a world begins with.
  await page.getByRole("button", { name: "left" }).click();
  await receipt(page, "answer", "shown", "left");
  let last = await page.evaluate(() => __acdit.header.generation);
  await page.setInputFiles("#real-file", stage.files.clip);
  await page.getByRole("button", { name: "Continue from the clip" }).click();
  await until(page, "frames of the clip appear", (last) => __acdit.header.generation > last && __acdit.header.injected, last);
  await receipt(page, "inject-answer", "shown", "clip.mp4");
  await until(page, "generated frames follow", (last) => __acdit.header.generation === last + 1 && __acdit.header.generated && !__acdit.header.injected, last);
  await until(page, "the clip's seam is marked", () => document.querySelector('.cell[data-mark="seam"]') !== null);
  await stage.shot(page, "clip");

  const late = await stage.live();
  await until(late, "who comes later sees what was real", () => document.querySelector('.cell[data-mark="seam"]') !== null);
  await until(late, "and what every block was made with, but those that are still to be shown", () => {
    const cells = [...document.querySelectorAll(".cell")].filter(({ className }) => /seen|blank/.test(className));
    return cells.length > 6 && cells.slice(0, -3).every(({ classList }) => classList.contains("seen"));
  });
  await late.close();

  await page.setInputFiles("#real-file", { name: "not-a-video.mp4", mimeType: "video/mp4", buffer: Buffer.from("no video at all") });
  await page.getByRole("button", { name: "Continue from the clip" }).click();
  await receipt(page, "inject-answer", "refused", "not-a-video.mp4");

  last = await page.evaluate(() => __acdit.header.generation);
  await drop(page, "dropped.mp4", "video/mp4", stage.files.clip);
  await until(page, "a clip dropped on the picture is continued", (last) => __acdit.header.generation > last && __acdit.header.injected, last);
  await drop(page, "dropped.png", "image/png", stage.files.picture);
  await receipt(page, "inject-answer", "shown", "1 pinned");

  // A session of one's own that begins with a clip.
  await page.getByText("New session", { exact: true }).click();
  await page.setInputFiles("#begin-clip", stage.files.clip);
  await page.getByRole("button", { name: "Begin" }).click();
  await page.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(page, "a session begins as the continuation of a clip", () => /live|slow/.test(__acdit.state) && document.querySelector(".cell.real") !== null);
  const own = page.url();
  await page.setInputFiles("#real-file", stage.files.clip);
  last = await page.evaluate(() => __acdit.header.generation);
  await page.getByRole("button", { name: "Continue from the clip" }).click();
  await until(page, "another session than the main one takes clips", (last) => __acdit.header.generation > last && __acdit.header.injected, last);
  assert.ok((await fetch(own.replace(/\/\?session=/, "/api/sessions/"), { method: "DELETE" })).ok);
}

/** Drops a file on the page as a person does, as far as a script can. */
async function drop(page, name, type, path) {
  const bytes = [...readFileSync(path)];
  await page.evaluate(([name, type, bytes]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
    for (const event of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(event, { dataTransfer, bubbles: true, cancelable: true }));
    }
  }, [name, type, bytes]);
}
