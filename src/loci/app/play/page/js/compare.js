// Two branches of a walk side by side, frame by frame from where they part.

export class Compare {
  constructor(walk, elements) {
    this.walk = walk;
    this.elements = elements;
    this.figures = [...elements.figures.querySelectorAll("figure")];
    elements.other.addEventListener("change", () => this.ask());
    elements.frame.addEventListener("input", () => (this.stop(), this.show(Number(elements.frame.value))));
    elements.play.addEventListener("click", () => (this.playing ? this.stop() : this.play()));
    walk.addEventListener("compare", ({ detail }) => this.begin(detail));
    walk.addEventListener("ready", ({ detail }) => this.offer(detail));
  }

  // The other branches, to choose from.
  offer({ branches, active }) {
    const { other } = this.elements;
    const chosen = other.value;
    const names = branches.filter((name) => name !== active);
    other.replaceChildren(new Option("nothing", ""), ...names.map((name) => new Option(name, name)));
    other.value = names.includes(chosen) ? chosen : "";
    this.ask();
  }

  ask() {
    const { panel, other } = this.elements;
    this.stop();
    panel.hidden = !other.value;
    if (other.value) this.walk.send({ type: "compare", name: other.value });
  }

  begin({ branches, lengths, part }) {
    const { frame } = this.elements;
    [this.branches, this.lengths] = [branches, lengths];
    frame.min = Math.min(part, ...lengths.map((length) => length - 1));
    frame.max = Math.max(...lengths) - 1;
    frame.value = frame.max;
    this.show(Number(frame.max));
  }

  // Resolves when both frames are there; the shorter branch stands still at its end.
  async show(number) {
    const { frame, text } = this.elements;
    frame.value = number;
    text.textContent = number;
    const loaded = this.figures.map((figure, k) => {
      const at = Math.min(number, this.lengths[k] - 1);
      const image = figure.querySelector("img");
      image.src = `/api/sessions/${this.walk.session}/${this.branches[k]}/frames/${at}.jpg`;
      image.alt = figure.querySelector("figcaption").textContent = `Branch ${this.branches[k]}, frame ${at}`;
      return image.decode().catch(() => null);
    });
    await Promise.all(loaded);
  }

  async play() {
    const { frame, play } = this.elements;
    this.playing = true;
    play.textContent = "Stop";
    for (let number = Number(frame.min); this.playing && number <= Number(frame.max); number++) {
      const next = new Promise((done) => setTimeout(done, 1000 / this.walk.fps));
      await this.show(number);
      await next;
    }
    this.stop();
  }

  stop() {
    this.playing = false;
    this.elements.play.textContent = "Play both";
  }
}
