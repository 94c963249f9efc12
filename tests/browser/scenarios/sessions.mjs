// The list of sessions: private ones, changing between them, and waiting in line for one.

import { until } from "../harness.mjs";

export default async function (stage) {
  // Back in a private session that another page is in by now: its WebSocket is refused.
  const page = await stage.live({ tolerate: [/Unexpected response code: 403/] });
  await page.getByText("New session", { exact: true }).click();
  await page.getByLabel("private").check();
  await page.locator("#begin-label").selectOption({ label: "up" });
  await page.getByRole("button", { name: "Begin" }).click();
  await page.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(page, "a private session begins in place", () => __acdit.state === "live" && document.getElementById("label").textContent === "up");

  const other = await stage.open({ address: page.url(), tolerate: [/Unexpected response code: 403/, /status of 404/] });
  await until(other, "another page is told that the session is private", () => __acdit.state === "taken");
  await stage.shot(other, "taken");

  const own = new URL(page.url()).searchParams.get("session");
  await page.getByRole("link", { name: "main" }).click();
  await until(page, "a link in the list changes to its session", () => __acdit.session === "main" && __acdit.state === "live");
  await until(other, "the other page joins when the place is free", () => __acdit.state === "live");
  await page.goBack();
  await until(page, "the back button goes back to it", (own) => __acdit.session === own, own);
  await page.goForward();
  await until(page, "and forward", () => __acdit.session === "main" && __acdit.state === "live");
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: `Delete session ${own}` }).click();
  await until(page, "a session is deleted from the list", () => document.getElementById("session-list").childElementCount === 1);
  await other.close();

  // A session of one's own by the address alone.
  const mine = await stage.open({ address: "/?session=new", tolerate: [/status of 404/] });
  await mine.waitForURL(/\?session=[0-9a-f]{16}$/);
  await until(mine, "?session=new begins a session for this page", () => __acdit.state === "live");
  await fetch(`${stage.server.origin}/api/sessions/${new URL(mine.url()).searchParams.get("session")}`, { method: "DELETE" });
  await mine.close();
}
