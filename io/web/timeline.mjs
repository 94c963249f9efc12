// The strip of recent blocks: one cell each, coloured by label, striped where frames came from a clip.

const CELLS = 48;

/** Hues a golden angle apart: any number of labels, neighbours far from each other. */
export function labelColour(index) {
  return `oklch(0.7 0.14 ${(40 + index * 137.508) % 360})`;
}

export class Timeline {
  #list;
  #text;
  #labels;
  #generation = null;
  #cells = new Map();

  constructor(list, text) {
    this.#list = list;
    this.#text = text;
    this.#labels = [];
  }

  reset(labels) {
    this.#labels = labels;
    this.#cells.clear();
    this.#list.replaceChildren();
    this.#generation = null;
  }

  /** Notes that a frame of a block was drawn. */
  show({ generation, block, label, injected }) {
    if (generation !== this.#generation) {
      this.#cells.clear();
      for (const cell of this.#list.children) cell.classList.add("past");
      this.#generation = generation;
    }
    const cell = this.#cells.get(block) ?? this.#add(block);
    cell.style.setProperty("--colour", labelColour(label));
    cell.classList.toggle("injected", injected || cell.classList.contains("injected"));
    const name = injected ? "clip" : this.#labels[label]?.name;
    cell.title = `block ${block} · ${name}`;
    this.#text.textContent = `Last ${this.#list.childElementCount} blocks`;
  }

  #add(block) {
    const cell = document.createElement("li");
    this.#list.append(cell);
    this.#cells.set(block, cell);
    while (this.#list.childElementCount > CELLS) this.#list.firstElementChild.remove();
    this.#cells.delete(block - CELLS);
    return cell;
  }
}
