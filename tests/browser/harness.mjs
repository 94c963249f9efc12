// What every scenario has: a real browser, a real server that can be stopped and started again, pages that fail the
// scenario on whatever goes wrong in them, and a folder for screenshots.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A camera that shows a test picture, and nobody who must allow it.
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
];
/** Milliseconds after which a condition counts as never coming true; only a broken page waits so long. Who mends one waits less. */
const PATIENCE = Number(process.env.PATIENCE ?? 90_000);

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: FLAGS });

/** A server on a port of its own, the same one each time that it is started. `{port}` in its arguments becomes that. */
export class Server {
  #command;
  #process = null;
  origin;

  static async prepare(command) {
    const server = new Server();
    const port = await freePort();
    server.#command = command.map((word) => word.replace("{port}", String(port)));
    server.origin = `http://127.0.0.1:${port}`;
    return server;
  }

  /** Returns once it has printed its address and says that it is ready. */
  async start() {
    const [program, ...rest] = this.#command;
    const started = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"] });
    await new Promise((resolve, reject) => {
      let said = "";
      const listen = (part) => {
        process.stderr.write(part);
        if ((said += part).includes(this.origin)) resolve();
      };
      started.stdout.on("data", listen);
      started.stderr.on("data", listen);
      started.once("exit", (code) => reject(new Error(`the server ended with ${code} before it was ready`)));
    });
    this.#process = started;
    assert.ok((await fetch(`${this.origin}/readyz`)).ok, "the server prints its address once it is ready");
  }

  async stop() {
    const exit = once(this.#process, "exit");
    this.#process.kill("SIGTERM");
    await exit;
    this.#process = null;
  }

  /** Ends it as a power failure would. */
  async crash() {
    const exit = once(this.#process, "exit");
    this.kill();
    await exit;
    this.#process = null;
  }

  kill() {
    this.#process?.kill("SIGKILL");
  }
}

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** What a scenario works with. */
export class Stage {
  /** `files`: paths of the clip and the picture that scenarios send; `shots`: the folder for screenshots. */
  constructor({ browser, server, files, shots }) {
    Object.assign(this, { browser, server, files });
    this.#shots = shots;
  }
  #shots;
  #pages = [];

  /**
   * Opens a page that fails the scenario on console errors, exceptions and requests to anywhere else. `prepare(page)` comes
   * before it loads; `tolerate`: patterns of console errors that belong to the scenario.
   */
  async open({ address = "/", width = 1280, height = 800, scheme = "light", touch = false, tolerate = [], prepare } = {}) {
    const context = await this.browser.newContext({
      viewport: { width, height },
      colorScheme: scheme,
      hasTouch: touch,
      isMobile: touch,
      deviceScaleFactor: touch ? 2 : 1,
    });
    const page = await context.newPage();
    this.watch(page, tolerate);
    await prepare?.(page);
    await page.goto(new URL(address, this.server.origin).href);
    return page;
  }

  /** Opens a page and waits until it plays, slowly or not. */
  async live(options) {
    const page = await this.open(options);
    await until(page, "the page plays", () => /live|slow/.test(__acdit.state));
    return page;
  }

  /** Notes what goes wrong on a page from now on. */
  watch(page, tolerate = []) {
    const faults = [];
    page.setDefaultTimeout(PATIENCE);
    page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
    page.on("console", (message) => {
      const text = `${message.text()} ${message.location().url}`;
      if (message.type() === "error" && !tolerate.some((pattern) => pattern.test(text))) faults.push(`console: ${text}`);
    });
    page.on("request", (request) => {
      const own = request.url().startsWith(this.server.origin) || /^(data|blob):/.test(request.url());
      if (!own) faults.push(`request: ${request.url()}`);
    });
    this.#pages.push({ page, faults });
    return page;
  }

  /** Keeps a picture for somebody to look at. */
  async shot(page, name, options = {}) {
    await page.screenshot({ path: join(this.#shots, `${name}.png`), animations: "disabled", ...options });
  }

  /** Fails on what axe-core calls serious or critical. */
  async accessible(page, what) {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
    const words = grave.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.map(({ html, failureSummary }) => `${html}\n  ${failureSummary}`).join("\n  ")}`);
    assert.deepEqual(words, [], `axe-core on ${what}`);
    console.log(`ok: axe-core has nothing serious to say on ${what}`);
  }

  /** Closes all pages; any fault on one of them fails the scenario. */
  async close() {
    const pages = this.#pages.splice(0);
    for (const { page } of pages) await page.context().close();
    assert.deepEqual(pages.flatMap(({ faults }) => faults), []);
  }
}

/** Waits until something on the page is true. The predicate runs in the page. */
export async function until(page, what, predicate, argument) {
  try {
    await page.waitForFunction(predicate, argument, { polling: 20 });
  } catch {
    const said = await page.evaluate(() => [JSON.stringify(globalThis.__acdit), document.body.innerText]).catch(() => ["the page is gone"]);
    assert.fail(`never came true: ${what}\n${said.join("\n")}`);
  }
  console.log(`ok: ${what}`);
}

/** Waits until a receipt says a phase, of a request that begins with some words if any are given. */
export function receipt(page, id, phase, words = "") {
  return until(page, `#${id} says ${words} ${phase}`, ([id, phase, words]) => {
    const { textContent, dataset } = document.getElementById(id);
    return dataset.phase === phase && textContent.startsWith(words);
  }, [id, phase, words]);
}

/** Pauses, and waits until nothing moves any more. */
export async function pause(page) {
  await page.locator("#pause").click();
  await until(page, "it pauses", () => __acdit.state === "paused" && document.getElementById("answer").dataset.phase === "applied");
}

/** Hashes the canvas whenever a frame was drawn, until `count` different pictures were seen. */
export async function distinctPictures(page, count) {
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
