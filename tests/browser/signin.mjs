// Signing in, in real Chromium, at a server that asks for a token.
//
//   node tests/browser/signin.mjs ORIGIN TOKEN SCREENSHOT
//
// Run by tests/cli/exposing.rs.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const [origin, token, screenshot] = process.argv.slice(2);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath, args });

/** A page with nothing signed in, and whatever went wrong on it. */
async function freshPage() {
  const context = await browser.newContext({ viewport: { width: 900, height: 600 } });
  context.setDefaultTimeout(90_000);
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("request", (request) => request.url().startsWith(origin) || page.problems.push(request.url()));
  return page;
}

/** The stream plays, and the address holds no token. */
async function plays(page) {
  await page.waitForFunction(() => globalThis.__acdit?.drawn > 0);
  assert.ok(!page.url().includes("token"), page.url());
}

// By the form, a wrong token first.
const page = await freshPage();
assert.equal((await page.goto(`${origin}/?session=main`)).status(), 401);
await page.screenshot({ path: screenshot });
await page.getByLabel("Token of this server").fill(`${token}x`);
await page.getByRole("button", { name: "Sign in" }).click();
await page.getByText("That is not the token").waitFor();
await page.getByLabel("Token of this server").fill(` ${token} `);
await page.keyboard.press("Enter");
await plays(page);
assert.equal(page.url(), `${origin}/?session=main`);
const cookies = await page.context().cookies();
assert.deepEqual(cookies.map(({ httpOnly, sameSite }) => [httpOnly, sameSite]), [[true, "Strict"]]);
assert.ok(!JSON.stringify(cookies).includes(token));
assert.deepEqual(page.problems, []);

// By a link from another site, which the cookie does not come along with.
const other = createServer((_, response) => {
  response.setHeader("content-type", "text/html");
  response.end(`<a href="${origin}/">to the world</a>`);
});
other.listen(0, "localhost");
await once(other, "listening");
await page.goto(`http://localhost:${other.address().port}/`);
await page.getByText("to the world").click();
await plays(page);

// By a link that holds the token.
const linked = await freshPage();
await linked.addInitScript(() => {
  const Native = WebSocket;
  globalThis.WebSocket = class extends Native {
    constructor(...address) {
      super(...address);
      globalThis.newestSocket = this;
    }
  };
});
await linked.goto(`${origin}/?token=${token}&session=main`);
await plays(linked);
assert.equal(linked.url(), `${origin}/?session=main`);

// A cookie that is no longer good is asked for again, once the connection ends.
await linked.context().clearCookies();
await linked.evaluate(() => newestSocket.close());
await linked.getByLabel("Token of this server").fill(token);
await linked.keyboard.press("Enter");
await plays(linked);
assert.deepEqual(linked.problems, []);

other.close();
await browser.close();
console.log("signed in by form, by a link from elsewhere, by a link with the token, and again");
