// The page over plain http from "another machine", in real Chromium: no secure context, so no WebCodecs, and MediaSource plays.
//
//   node tests/browser/mse.mjs SERVER ARGUMENT…
//
// The server is for this machine only; a proxy gives its page another name. Run by tests/browser.rs.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { chromium } from "playwright-core";
import { CHROMIUM, FLAGS } from "./harness.mjs";

const NAME = "world.test";
const PATIENCE = 90_000;

const [program, ...rest] = process.argv.slice(2);
const server = spawn(program, rest, { stdio: ["ignore", "pipe", "inherit"] });
const address = await new Promise((resolve, reject) => {
  let said = "";
  server.stdout.on("data", (part) => {
    const found = /http:\/\/(127\.0\.0\.1:\d+)/.exec((said += part));
    if (found) resolve(found[1]);
  });
  server.once("exit", (code) => reject(new Error(`the server ended with ${code} before it was ready`)));
});

/** Passes connections on to the server, under its own name. */
const proxy = createServer((near) => {
  const far = connect(Number(address.split(":")[1]), "127.0.0.1");
  // Headers come whole: requests of a page are short. What follows an upgrade has no such lines.
  near.on("data", (part) => {
    const text = part.toString("latin1");
    const renamed = text.replaceAll(`Host: ${named}`, `Host: ${address}`).replaceAll(`Origin: http://${named}`, `Origin: http://${address}`);
    far.write(Buffer.from(renamed, "latin1"));
  });
  far.on("data", (part) => near.write(part));
  for (const [socket, other] of [[near, far], [far, near]]) {
    socket.on("error", () => other.destroy());
    socket.on("close", () => other.destroy());
  }
}).listen(0, "127.0.0.1");
await once(proxy, "listening");
const named = `${NAME}:${proxy.address().port}`;

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: [...FLAGS, `--host-resolver-rules=MAP ${NAME} 127.0.0.1`],
});
try {
  const page = await browser.newPage();
  const faults = [];
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && faults.push(`console: ${message.text()}`));
  const until = async (what, predicate, argument) => {
    try {
      await page.waitForFunction(predicate, argument, { polling: 20 });
    } catch {
      assert.fail(`never came true: ${what}\n${await page.evaluate(() => JSON.stringify(globalThis.__acdit))}\n${faults}`);
    }
    console.log(`ok: ${what}`);
  };
  const colours = () =>
    page.evaluate(() => {
      const canvas = document.getElementById("stream");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    });

  await page.goto(`http://${named}`);
  assert.deepEqual(await page.evaluate(() => [isSecureContext, typeof VideoDecoder]), [false, "undefined"]);
  await until("without a secure context the stream is live through MediaSource", () => __acdit.state === "live" && __acdit.kind === "mse");
  await until("it goes on", () => __acdit.drawn > 40);
  assert.ok((await colours()) > 50, "the canvas shows a picture");

  const generation = await page.evaluate(() => __acdit.header.generation);
  await page.keyboard.press("Backspace");
  await until("a rewind is shown", (before) => __acdit.header.generation > before, generation);
  await page.keyboard.press("Space");
  await until("a pause ends on the newest picture", () => __acdit.state === "paused" && __acdit.header.block === __acdit.next - 1);
  assert.equal(await page.evaluate(() => __acdit.connects), 1, "one connection was enough");
  assert.deepEqual(faults, []);

  await page.goto(`http://${address}/?kind=mse`);
  await until("it can be asked for, too", () => __acdit.kind === "mse" && __acdit.drawn > 4);
  assert.deepEqual(faults, []);
} finally {
  await browser.close();
  proxy.close();
  server.kill("SIGKILL");
}
