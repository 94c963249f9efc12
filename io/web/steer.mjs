// The label pad and the keys. Four arrow keys make a cross; all other labels are a grid of keys with their names.

import { element, make, swatch } from "/dom.mjs";

const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };
const KEY_FACES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "Space" };

export class Steer {
  #ask;
  #keys;
  #labels = [];
  #buttons = [];
  #ready = false;

  /** `ask(what, index, settled)` asks for a label; `keys`: what other keys do, where no label has them. */
  constructor({ ask, keys }) {
    this.#ask = ask;
    this.#keys = keys;
    document.addEventListener("keydown", (event) => this.#key(event));
    // After a click with the mouse the space bar means pause again, not the button that was clicked.
    document.addEventListener("click", ({ detail, target }) => detail > 0 && target.closest("main button")?.blur());
  }

  /** Builds the buttons of a world's labels. A lone label without an arrow stands in the middle of the cross. */
  reset({ labels }) {
    this.#labels = labels;
    const cross = Object.keys(ARROWS).every((key) => labels.some((label) => label.key === key));
    const others = labels.filter((label) => !ARROWS[label.key]).length;
    element("labels").classList.toggle("cross", cross);
    this.#buttons = labels.map(({ name, key }, index) => {
      const button = make("button", { type: "button" }, swatch(index), make("span", { className: "name" }, name));
      button.style.setProperty("--colour", button.firstElementChild.style.getPropertyValue("--colour"));
      if (cross && (ARROWS[key] || others === 1)) button.dataset.place = ARROWS[key] ?? "middle";
      if (key) {
        button.append(make("kbd", {}, KEY_FACES[key] ?? key));
        button.setAttribute("aria-keyshortcuts", key);
      }
      button.onclick = () => this.#choose(index);
      return button;
    });
    element("labels").replaceChildren(...this.#buttons);
  }

  enable(ready) {
    this.#ready = ready;
    for (const button of this.#buttons) button.disabled = !ready;
  }

  follow({ label }) {
    this.#buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === label)));
  }

  /** A button is pending until its request is settled. */
  #choose(index) {
    const button = this.#buttons[index];
    button.classList.add("pending");
    this.#ask(this.#labels[index].name, index, () => button.classList.remove("pending"));
  }

  #key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !this.#ready) return;
    if (event.target.closest("input, select") || document.querySelector(":modal")) return;
    if (event.key === " " && event.target.closest("button, summary, a")) return;
    const label = this.#labels.findIndex(({ key }) => key === event.key);
    const act = label >= 0 ? () => this.#choose(label) : this.#keys[event.key];
    if (!act) return;
    event.preventDefault();
    if (!event.repeat) act();
  }
}
