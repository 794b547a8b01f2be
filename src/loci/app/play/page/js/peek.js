// Peeks: a fork of the walk turns aside, what is generated there is shown, and it is thrown away.

const ANGLES = { left: 90, behind: 180, right: -90 };
const WORDS = { left: "To the left", behind: "Behind", right: "To the right" };

export class Peek {
  constructor(walk, { buttons, figure, say }) {
    Object.assign(this, { walk, figure, say });
    this.buttons = Object.values(buttons);
    this.asked = null;
    for (const [side, button] of Object.entries(buttons)) button.addEventListener("click", () => this.ask(side));
    walk.addEventListener("peek", ({ detail }) => this.play(detail.frames));
    for (const event of ["error", "lost", "ready"]) walk.addEventListener(event, () => this.done());
    walk.addEventListener("ready", ({ detail }) => (this.figure.hidden ||= detail.frames === 1)); // of a former walk
  }

  ask(side) {
    this.asked = side;
    for (const button of this.buttons) button.disabled = true;
    this.say(`Peeking: ${WORDS[side].toLowerCase()} …`);
    const degrees = this.walk.info.turn_degrees || 7.5;
    this.walk.send({ type: "peek", turns: Math.round(ANGLES[side] / degrees) });
  }

  done() {
    this.asked = null;
    for (const button of this.buttons) button.disabled = false;
  }

  async play(frames) {
    const caption = `${WORDS[this.asked] ?? "A peek"}: generated from memory on a fork that was thrown away, so nothing of it is remembered.`;
    this.done();
    this.walk.emit("held");
    for (const frame of frames) {
      const bytes = Uint8Array.from(atob(frame), (letter) => letter.charCodeAt(0));
      this.show(URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })), caption);
      await new Promise((done) => setTimeout(done, 1000 / this.walk.fps));
    }
  }

  // A picture under the map, with what it is.
  show(url, caption) {
    const image = this.figure.querySelector("img");
    image.src = url;
    image.onload = () => url.startsWith("blob:") && URL.revokeObjectURL(url);
    image.alt = caption;
    this.figure.querySelector("figcaption").textContent = caption;
    this.figure.hidden = false;
  }
}
