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
  #keys;
  series;

  /** Fills a figure. `lines`: their names, several of which are told apart below; `limit`: how many values each keeps. */
  constructor(figure, { title, lines = [""], limit }) {
    this.#limit = limit;
    this.#title = title;
    this.series = lines.map(() => new Series(limit));
    this.#lines = this.series.map((_, at) => draw("polyline", { class: `line line-${at}` }));
    this.#svg.append(this.#mark, ...this.#lines);
    const caption = make("figcaption", {}, make("span", {}, title), this.#value);
    this.#keys = lines.map((_, at) => make("span", { className: `line-key line-key-${at}` }));
    figure.replaceChildren(caption, this.#svg, make("p", { className: "note" }, ...(lines.length > 1 ? this.#keys : [this.#note])));
  }

  clear() {
    for (const series of this.series) series.clear();
  }

  /**
   * `value`: what stands beside the title; `notes`: what stands below, one for each line; `range`: lowest and highest value;
   * `mark`: where the dashed line is, null for none.
   */
  show({ value, notes, range, mark = null }) {
    write(this.#value, value);
    if (this.#keys.length > 1) this.#keys.forEach((key, at) => write(key, notes[at]));
    else write(this.#note, notes[0]);
    this.#svg.setAttribute("aria-label", [`${this.#title}: ${value}`, ...notes].join(", "));
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
