// The page in real Chromium, against a real server that this script starts, kills and starts again.
//
//   node tests/browser/page.mjs CLIP -- SERVER ARGUMENT… {port}
//
// `{port}` in the arguments becomes a free port. Every wait is for a condition on the page; a failed one ends the
// script with what the page last said. Run by tests/browser.rs.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** Milliseconds after which a condition counts as never coming true; only a broken page waits so long. */
const PATIENCE = 90_000;

const [clip, , ...command] = process.argv.slice(2);
const port = await freePort();
const origin = `http://127.0.0.1:${port}`;

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** Starts the server and returns once it has printed its address and says that it is ready. */
async function startServer() {
  const [program, ...rest] = command.map((word) => word.replace("{port}", String(port)));
  const server = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] });
  await new Promise((resolve, reject) => {
    let said = "";
    const listen = (part) => {
      process.stderr.write(part);
      if ((said += part).includes(origin)) resolve();
    };
    server.stdout.on("data", listen);
    server.stderr.on("data", listen);
    server.once("exit", (code) => reject(new Error(`the server ended with ${code} before it was ready`)));
  });
  assert.ok((await fetch(`${origin}/readyz`)).ok, "the server prints its address once it is ready");
  return server;
}

async function stopServer(server) {
  const exit = once(server, "exit");
  server.kill("SIGTERM");
  await exit;
}

/** A page that fails the script on console errors, exceptions and requests to anywhere else. */
async function openPage(browser, { tolerate = [], init, address = origin } = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  const faults = watch(page, tolerate);
  if (init) await page.addInitScript(init);
  await page.goto(address);
  return { page, faults };
}

/** What goes wrong on a page from now on. */
function watch(page, tolerate) {
  const faults = [];
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !tolerate.some((pattern) => pattern.test(text))) faults.push(`console: ${text}`);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(origin) && !/^(data|blob):/.test(request.url())) faults.push(`request: ${request.url()}`);
  });
  return faults;
}

/** Waits until the page's own figures satisfy a predicate, which runs in the page. */
async function until(page, what, predicate, argument) {
  try {
    await page.waitForFunction(predicate, argument, { polling: 20 });
  } catch {
    const said = await page.evaluate(() => [JSON.stringify(globalThis.__acdit), document.body.innerText]);
    assert.fail(`never came true: ${what}\n${said.join("\n")}`);
  }
  console.log(`ok: ${what}`);
}

/** Hashes the canvas whenever a frame was drawn, until `count` different pictures were seen. */
async function distinctPictures(page, count) {
  await page.evaluate(() => {
    const canvas = document.getElementById("stream");
    const context = canvas.getContext("2d");
    const seen = (globalThis.__pictures = new Set());
    let drawn = -1;
    const look = async () => {
      requestAnimationFrame(look);
      if (__acdit.drawn === drawn) return;
      drawn = __acdit.drawn;
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      const digest = new Uint32Array(await crypto.subtle.digest("SHA-256", data));
      seen.add(digest.join());
    };
    look();
  });
  await until(page, `${count} different pictures were drawn`, (count) => __pictures.size >= count, count);
}

/** Runs in the page: a VideoDecoder that accepts everything and decodes nothing. */
function breakDecoder() {
  const { isConfigSupported } = globalThis.VideoDecoder;
  globalThis.VideoDecoder = class {
    static isConfigSupported = isConfigSupported;
    state = "configured";
    decodeQueueSize = 0;
    constructor({ error }) {
      this.decode = () => error(new Error("a decoder made to fail"));
    }
    configure() {}
    close() {}
  };
}

const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
let server = await startServer();
try {
  const refused = /WebSocket connection to .* failed|net::ERR_CONNECTION_REFUSED/;
  const { page, faults } = await openPage(browser, { tolerate: [refused] });

  await until(page, "the stream is live over WebCodecs", () => __acdit.state === "live" && __acdit.kind === "h264");
  await distinctPictures(page, 60);

  await page.keyboard.press("ArrowRight");
  await until(page, "the arrow key was applied at a block and its picture is on screen", () => {
    const { phase, block } = document.getElementById("answer").dataset;
    return phase === "shown" && Number(block) <= __acdit.header.block;
  });
  await until(page, "the label shown is the one asked for", () => document.getElementById("label").textContent === "right");
  await page.getByRole("button", { name: "left" }).click();
  await until(page, "a label button works as well", () => document.getElementById("label").textContent === "left");

  await page.keyboard.press("Space");
  await until(page, "Space pauses", () => __acdit.state === "paused");
  await until(page, "pausing was applied", () => document.getElementById("answer").dataset.phase === "applied");
  await page.getByRole("button", { name: "Step" }).click();
  await until(page, "a step shows its block", () => {
    const { textContent, dataset } = document.getElementById("answer");
    const block = Number(dataset.block);
    return textContent.startsWith("Step: applied") && __acdit.header.block === block && __acdit.next === block + 1;
  });

  const generation = () => page.evaluate(() => __acdit.header.generation);
  const at = await page.evaluate(() => __acdit.next);
  await page.keyboard.press("Backspace");
  await until(page, "Backspace goes eight blocks back", (block) => __acdit.next === block, at - 8);
  await page.keyboard.press(".");
  await until(page, "the block on screen is one from before", (block) => {
    return document.getElementById("block").textContent === String(block) && __acdit.next === block + 1;
  }, at - 8);
  let last = await generation();
  await page.locator("#at").focus();
  for (let press = 0; press < 3; press++) await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Enter");
  await until(page, "the slider goes back to the block chosen", (block) => __acdit.next === block, at - 10);

  const [fork] = await Promise.all([page.waitForEvent("popup"), page.getByRole("button", { name: "Fork" }).click()]);
  const forkFaults = watch(fork, [/the server responded with a status of 404/]);
  await fork.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(fork, "a fork opens and shows its own pictures", (block) => __acdit.state === "live" && __acdit.header.block >= block, at - 10);
  assert.equal(await page.evaluate(() => __acdit.next), at - 10, "the session that was forked stays where it was");
  await page.getByText("Sessions", { exact: true }).click();
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: "Delete session" }).click();
  await until(page, "the list shows that the fork is deleted", () => document.getElementById("session-list").childElementCount === 1);
  await until(fork, "the fork's page says that its session is gone", () => __acdit.state === "gone");
  assert.deepEqual(forkFaults, []);
  await fork.close();

  await page.getByLabel("private").check();
  const [own] = await Promise.all([page.waitForEvent("popup"), page.getByRole("button", { name: "New session" }).click()]);
  await own.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(own, "a private session begins in a page of its own", () => __acdit.state === "live");
  const other = await openPage(browser, { tolerate: [/Unexpected response code: 403/], address: own.url() });
  await until(other.page, "another page is told that the session is private", () => __acdit.state === "taken");
  await own.close();
  await until(other.page, "it joins when the place is free", () => __acdit.state === "live");
  assert.deepEqual(other.faults, []);
  await other.page.close();

  await page.getByRole("button", { name: "Resume" }).click();
  await until(page, "it resumes from the block chosen", (last) => __acdit.state === "live" && __acdit.header.generation > last, last);

  last = await generation();
  await page.locator("#seed").fill("42");
  await page.getByRole("button", { name: "Restart" }).click();
  await until(page, "a restart begins a new generation", (last) => __acdit.header.generation > last, last);
  await until(page, "the seed is shown", () => document.getElementById("seed").placeholder.includes("42"));

  last = await generation();
  await page.setInputFiles("#clip", clip);
  await until(page, "frames of the clip appear", (last) => __acdit.header.generation > last && __acdit.header.injected, last);
  await until(page, "the upload was answered", () => document.getElementById("upload-answer").dataset.phase === "applied");
  await until(page, "generated frames follow", (last) => __acdit.header.generation === last + 1 && __acdit.header.generated && !__acdit.header.injected, last);

  await page.setInputFiles("#clip", { name: "not-a-video.mp4", mimeType: "video/mp4", buffer: Buffer.from("no video at all") });
  const failed = /the server responded with a status of 415/;
  await until(page, "a file that is no video is refused", () => document.getElementById("upload-answer").dataset.phase === "refused");

  const late = await openPage(browser);
  await until(late.page, "a second page joins the same stream", () => __acdit.state === "live" && __acdit.drawn > 4);
  assert.deepEqual(late.faults, []);
  await late.page.close();

  await stopServer(server);
  await until(page, "the page says that it reconnects", () => __acdit.state === "lost");
  server = await startServer();
  const drawn = await page.evaluate(() => __acdit.drawn);
  await until(page, "a restarted server is found again", (drawn) => __acdit.state === "live" && __acdit.connects > 1 && __acdit.drawn > drawn, drawn);
  assert.deepEqual(faults.filter((fault) => !failed.test(fault)), []);
  await page.close();

  const plain = await openPage(browser, { init: () => delete globalThis.VideoDecoder && delete globalThis.MediaSource });
  await until(plain.page, "without WebCodecs and MediaSource the stream is live as JPEG", () => __acdit.state === "live" && __acdit.kind === "jpeg");
  await distinctPictures(plain.page, 8);
  assert.deepEqual(plain.faults, []);
  await plain.page.close();

  const broken = await openPage(browser, { init: breakDecoder });
  await until(broken.page, "a decoder that fails is replaced by JPEG", () => __acdit.state === "live" && __acdit.kind === "jpeg");
  assert.deepEqual(broken.faults, []);
} finally {
  await browser.close();
  server.kill("SIGKILL");
}
