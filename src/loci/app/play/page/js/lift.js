// Lifting: select an object in the view, wait for the job, look at the result in 3D.

export class Lift {
  constructor(walk, elements) {
    this.walk = walk;
    this.elements = elements;
    elements.select.addEventListener("click", () => this.select());
    elements.screen.addEventListener("pointerdown", (event) => this.selecting && this.begin(event));
    addEventListener("keydown", (event) => this.key(event), { capture: true });
  }

  get source() {
    return document.querySelector("input[name=source]:checked").value;
  }

  say(text) {
    this.elements.status.textContent = text;
    if (text && !this.walk.held.size) this.elements.told.textContent = text; // its panel may be out of sight
  }

  // What is selected in: the view, or the start picture shown in its place.
  get target() {
    return this.source === "picture" ? this.elements.picture : this.walk.canvas;
  }

  async select() {
    this.walk.release();
    const { picture, screen } = this.elements;
    if (this.source === "picture") {
      picture.src = `/api/sessions/${this.walk.session}/picture?${Date.now()}`;
      await picture.decode();
    }
    this.selecting = true;
    screen.classList.add("selecting");
    picture.hidden = this.source !== "picture";
    this.walk.canvas.hidden = !picture.hidden;
    screen.scrollIntoView({ block: "nearest" });
    this.say("Drag a box over the object, or click it. Enter selects what is in the middle, Escape ends this.");
  }

  stop() {
    const { picture, box, screen } = this.elements;
    this.selecting = false;
    screen.classList.remove("selecting");
    box.hidden = picture.hidden = true;
    this.walk.canvas.hidden = false;
  }

  key(event) {
    if (!this.selecting || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    this.stop();
    this.say("");
    this.walk.emit("held");
    if (event.key === "Enter") this.start({ point: [0.5, 0.5] });
  }

  begin(event) {
    event.preventDefault();
    const { screen, box } = this.elements;
    const around = screen.getBoundingClientRect();
    const target = this.target.getBoundingClientRect();
    screen.setPointerCapture(event.pointerId);
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    const place = (at) => [within(at.clientX - target.left, target.width), within(at.clientY - target.top, target.height)];
    const from = place(event);
    const rectangle = (at) => {
      const [x, y] = place(at);
      const [left, right] = [from[0], x].sort((a, b) => a - b);
      const [top, bottom] = [from[1], y].sort((a, b) => a - b);
      return [left, top, right, bottom];
    };
    const move = (at) => {
      const [left, top, right, bottom] = rectangle(at);
      const [x, y] = [target.left - around.left + left, target.top - around.top + top];
      Object.assign(box.style, { left: `${x}px`, top: `${y}px`, width: `${right - left}px`, height: `${bottom - top}px` });
      box.hidden = false;
    };
    const ends = new AbortController();
    const end = (at) => {
      ends.abort();
      const [left, top, right, bottom] = rectangle(at);
      const scaled = [left / target.width, top / target.height, right / target.width, bottom / target.height];
      const small = right - left < 6 || bottom - top < 6;
      this.stop();
      this.start(small ? { point: scaled.slice(0, 2) } : { box: scaled });
    };
    screen.addEventListener("pointermove", move, { signal: ends.signal });
    screen.addEventListener("pointerup", end, { signal: ends.signal });
    screen.addEventListener("pointercancel", () => (ends.abort(), (box.hidden = true)), { signal: ends.signal });
  }

  async start(selection) {
    this.elements.files.replaceChildren();
    this.say("Lifting …");
    this.elements.status.scrollIntoView({ block: "nearest" });
    const body = JSON.stringify({ ...selection, source: this.source, frame: this.walk.painted });
    const answer = await fetch(`/api/sessions/${this.walk.session}/lift`, { method: "POST", body });
    const begun = await answer.json();
    if (begun.error) return this.say(begun.error);
    for (;;) {
      await new Promise((done) => setTimeout(done, 500));
      const progress = await (await fetch(`/api/lifts/${begun.job}`)).json();
      if (progress.error) return this.say(progress.error);
      if (progress.done) return this.show(begun.job, progress.files);
      this.say(`Lifting: ${progress.line}`);
    }
  }

  async show(job, files) {
    const url = (name) => `/api/lifts/${job}/${name}`;
    this.say("Lifted. Drag to turn it.");
    this.elements.files.closest("details").open = true;
    for (const name of files) {
      const link = Object.assign(document.createElement("a"), { href: url(name), download: name, textContent: name });
      link.className = "button";
      this.elements.files.append(link);
    }
    const { viewer, turntable } = this.elements;
    try {
      const { showMesh } = await import("./viewer.js");
      viewer.hidden = false;
      turntable.hidden = true;
      await showMesh(viewer, url("mesh.glb"), files.includes("splat.ply") ? url("splat.ply") : null);
    } catch (error) {
      this.say("Lifted. This browser draws no 3D, so here is a video of it.");
      viewer.hidden = true;
      turntable.hidden = false;
      turntable.src = url("turntable.mp4");
    }
    this.elements.files.scrollIntoView({ block: "nearest" });
  }
}
