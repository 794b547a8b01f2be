// The memory tokens under the map: for each the frame that was shown in the middle of its time.

import { colourOf } from "./map.js";

const EVERY = 1000; // milliseconds between two changes while one walks

export const middle = ({ start, end }) => Math.floor((start + end - 1) / 2);
export const told = ({ level, start, end }) => `frames ${start} to ${end - 1}, ${level === 1 ? "not merged" : `level ${level}`}`;

export class Tokens {
  // `choose` is called with the token that was clicked, `mark` with the one pointed at, or null.
  constructor(walk, { list, text, legend }, choose, mark) {
    Object.assign(this, { walk, list, text, legend, choose, mark });
    this.buttons = new Map(); // frame and span -> button
    this.at = -EVERY;
    for (const event of ["ready", "moment"]) walk.addEventListener(event, () => this.forget());
    walk.addEventListener("memory", ({ detail }) => this.draw(detail));
  }

  // Other frames may stand where these did.
  forget() {
    this.buttons.clear();
    this.at = -EVERY;
  }

  draw(memory) {
    const count = memory.tokens.length;
    const size = `${Math.round(memory.bytes / 1000)} kB`;
    this.text.textContent = count
      ? `${count} memory tokens (${size}); each frame was shown in the middle of a token's time. Click one to see it larger.`
      : "Nothing is remembered yet: walk, and memory tokens appear.";
    const levels = new Map();
    for (const { level } of memory.tokens) levels.set(level, (levels.get(level) || 0) + 1);
    const parts = [...levels.keys()].sort((a, b) => a - b).map((level) => {
      const swatch = document.createElement("span");
      swatch.style.background = colourOf(level);
      return [swatch, `level\u00a0${level}:\u00a0${levels.get(level)} \u2003`];
    });
    this.legend.replaceChildren(...parts.flat());
    if (performance.now() - this.at < EVERY && this.walk.held.size) return;
    this.at = performance.now();
    const committed = memory.tokens.filter((token) => middle(token) >= 0 && middle(token) <= memory.committed);
    const shown = committed.map((token) => this.button(token));
    const same = shown.length === this.list.children.length && shown.every((item, k) => item === this.list.children[k]);
    if (same) return;
    const end = this.list.scrollLeft + this.list.clientWidth >= this.list.scrollWidth - 8;
    this.list.replaceChildren(...shown);
    if (end) this.list.scrollLeft = this.list.scrollWidth;
  }

  button(token) {
    const key = `${token.start} ${token.end} ${token.level}`;
    if (this.buttons.has(key)) return this.buttons.get(key);
    const [item, button, image] = ["li", "button", "img"].map((name) => document.createElement(name));
    const { walk } = this;
    image.src = `/api/sessions/${walk.session}/${walk.info.active}/frames/${middle(token)}.jpg?thumbnail`;
    image.alt = "";
    image.onerror = () => this.buttons.delete(key);
    button.title = `Shown then: frame ${middle(token)}; the token covers ${told(token)}`;
    button.setAttribute("aria-label", button.title);
    button.style.borderColor = colourOf(token.level);
    button.addEventListener("click", () => this.choose(token));
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => this.mark(token));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.mark(null));
    button.append(image);
    item.append(button);
    this.buttons.set(key, item);
    return item;
  }
}
