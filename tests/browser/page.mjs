// The page in real Chromium, against a real server that this script starts, stops and starts again.
//
//   node tests/browser/page.mjs SHOTS CLIP PICTURE -- SERVER ARGUMENT… {port}
//
// `{port}` in the arguments becomes a free port. Every wait is for a condition on the page; a failed one ends the
// script with what the page last said. Screenshots of every state go to the folder SHOTS. `ONLY=futures,inject` runs those
// scenarios alone. Run by tests/browser.rs.

import { mkdirSync } from "node:fs";
import { Server, Stage, launch } from "./harness.mjs";

const SCENARIOS = ["playing", "steering", "time", "sampling", "sessions", "futures", "inject", "states", "looks", "trouble"];

const [shots, clip, picture, , ...command] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
const only = process.env.ONLY?.split(",");
const server = await Server.prepare(command);
const browser = await launch();
try {
  await server.start();
  const stage = new Stage({ browser, server, shots, files: { clip, picture } });
  for (const name of SCENARIOS.filter((name) => !only || only.includes(name))) {
    const { default: scenario } = await import(`./scenarios/${name}.mjs`);
    const began = performance.now();
    await scenario(stage);
    await stage.close();
    console.log(`-- ${name}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }
} finally {
  await browser.close();
  server.kill();
}
