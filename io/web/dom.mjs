// Small helpers for the page's elements.

export const element = (id) => document.getElementById(id);

/** Live regions speak whenever they are written, so write only what is new. */
export function write(id, text) {
  const target = typeof id === "string" ? element(id) : id;
  if (target.textContent !== String(text)) target.textContent = text;
}

/** A new element: names with a dash and `role` are attributes, all others properties. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Hues a golden angle apart: any number of labels, neighbours far from each other. */
export function labelColour(index) {
  return `oklch(0.7 0.14 ${(40 + index * 137.508) % 360})`;
}

/** A label's name. Streams begin without one, which has the index after the last. */
export function labelName(labels, index) {
  return labels[index]?.name ?? "no label";
}

/** A child in the colour of a label. */
export function swatch(index) {
  const dot = make("span", { className: "swatch" });
  dot.style.setProperty("--colour", labelColour(index));
  return dot;
}

const UNITS = ["bytes", "KiB", "MiB", "GiB"];

/** 67108864 → "64 MiB". */
export function size(bytes) {
  const step = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), UNITS.length - 1);
  const value = bytes / 1024 ** step;
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${UNITS[step]}`;
}

/** 1 → "1 viewer", 2 → "2 viewers". */
export function count(number, word) {
  return number === 1 ? `1 ${word}` : `${number} ${word}s`;
}
