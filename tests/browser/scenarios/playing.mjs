// The stream plays, also for late comers, and without WebCodecs or with a decoder that fails.

import { distinctPictures, until } from "../harness.mjs";

export default async function (stage) {
  const page = await stage.live({ address: "/?glass" });
  await until(page, "it plays over WebCodecs", () => __acdit.kind === "h264");
  await distinctPictures(page, 30);
  await until(page, "?glass says where the time goes", () => document.querySelectorAll("#glass-bar .part").length === 7 && document.getElementById("glass-total").textContent.endsWith("ms"));
  await stage.shot(page, "glass");

  const late = await stage.live();
  await until(late, "a second page joins the same stream", () => __acdit.drawn > 4);
  await late.close();

  const plain = await stage.live({ prepare: (page) => page.addInitScript(() => {
    for (const name of ["VideoDecoder", "MediaSource", "ManagedMediaSource"]) delete globalThis[name];
  }) });
  await until(plain, "without WebCodecs it plays as JPEG", () => __acdit.kind === "jpeg");
  await distinctPictures(plain, 8);
  await plain.close();

  const broken = await stage.open({ prepare: (page) => page.addInitScript(breakDecoder) });
  await until(broken, "a decoder that fails is replaced by JPEG", () => /live|slow/.test(__acdit.state) && __acdit.kind === "jpeg");
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
