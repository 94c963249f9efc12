// A small line chart: a title, the newest value in words, one or two lines, and a dashed line to judge them by.

import { make, write } from "/dom.mjs";
import { Series, points } from "/series.mjs";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 48;

function draw(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export class Chart {
  #limit;
  #svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #mark = draw("line", { class: "mark", x1: 0, x2: WIDTH });
  #lines;
  #title;
  #value = make("strong");
  #note = make("span");
  series;

  /** Fills a figure. `lines`: the names of more than one; `limit`: how many values each keeps. */
  constructor(figure, { title, lines = [""], limit }) {
    this.#limit = limit;
    this.#title = title;
    this.series = lines.map(() => new Series(limit));
    this.#lines = this.series.map((_, at) => draw("polyline", { class: `line line-${at}` }));
    this.#svg.append(this.#mark, ...this.#lines);
    const caption = make("figcaption", {}, make("span", {}, title), this.#value);
    const keys = lines.map((name, at) => name && make("span", { className: `line-key line-key-${at}` }, name));
    figure.replaceChildren(caption, this.#svg, make("p", { className: "note" }, this.#note, ...keys));
  }

  clear() {
    for (const series of this.series) series.clear();
  }

  /** `range`: lowest and highest value; `mark`: where the dashed line is, null for none. */
  show({ value, note, range, mark = null }) {
    write(this.#value, value);
    write(this.#note, note);
    this.#svg.setAttribute("aria-label", `${this.#title}: ${value}, ${note}`);
    this.series.forEach(({ values }, at) => {
      this.#lines[at].setAttribute("points", points(values, this.#limit, range, WIDTH, HEIGHT));
    });
    this.#mark.style.display = mark === null ? "none" : "";
    if (mark === null) return;
    const y = HEIGHT - ((mark - range[0]) / (range[1] - range[0])) * HEIGHT;
    this.#mark.setAttribute("y1", y);
    this.#mark.setAttribute("y2", y);
  }
}
