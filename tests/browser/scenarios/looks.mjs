// How it looks on every kind of screen, in light and dark, and what axe-core says of it.

import assert from "node:assert/strict";
import { until } from "../harness.mjs";

const SCREENS = {
  desktop: { width: 1440, height: 900 },
  laptop: { width: 1100, height: 760 },
  phone: { width: 390, height: 844 },
};
/** Smallest side of what a finger hits, in CSS pixels. */
const FINGER = 44;

export default async function (stage) {
  for (const touch of [false, true]) {
    const page = await stage.live({ touch });
    await page.getByText("New session", { exact: true }).click();
    await page.setInputFiles("#real-file", stage.files.picture);
    await until(page, "the panels are open", () => !document.getElementById("inject").hidden);
    for (const [name, screen] of Object.entries(SCREENS).filter(([name]) => (name === "phone") === touch)) {
      await page.setViewportSize(screen);
      for (const scheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.evaluate(() => scrollTo(0, 0));
        await stage.shot(page, `${name}-${scheme}`);
        await stage.shot(page, `${name}-${scheme}-whole`, { fullPage: true });
        await stage.accessible(page, `${name} in ${scheme}`);
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name}: nothing is wider than the screen, by ${wide} pixels`);
      if (touch) assert.deepEqual(await page.evaluate(small, FINGER), [], "everything is large enough for a finger");
    }
    await page.close();
  }
  const calm = await stage.live({ prepare: (page) => page.emulateMedia({ reducedMotion: "reduce" }) });
  assert.equal(await calm.evaluate(() => document.getAnimations().length), 0, "nothing moves by itself where motion is unwanted");
}

/** Runs in the page: what can be hit but is smaller than it should be. A label counts with what it is for. */
function small(finger) {
  const hits = [...document.querySelectorAll("button, select, summary, input:not([type=checkbox], [type=radio]), label:has(input), [role=slider]")];
  return hits.flatMap((hit) => {
    if (hit.closest(".file") && hit.tagName === "INPUT") return [];
    const { width, height } = hit.getBoundingClientRect();
    if (!hit.checkVisibility() || (height >= finger - 0.5 && width >= finger - 0.5)) return [];
    return [`${hit.outerHTML.slice(0, 80)}: ${width.toFixed(0)} × ${height.toFixed(0)}`];
  });
}
