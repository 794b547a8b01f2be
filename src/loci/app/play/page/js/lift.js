// Lifting: select an object in the view, wait for the job, look at the result in 3D.

export class Lift {
  constructor(walk, elements) {
    this.walk = walk;
    this.elements = elements;
    elements.select.addEventListener("click", () => this.select());
    elements.screen.addEventListener("pointerdown", (event) => this.selecting && this.begin(event));
  }

  get source() {
    return document.querySelector("input[name=source]:checked").value;
  }

  say(text) {
    this.elements.status.textContent = text;
  }

  select() {
    this.selecting = true;
    this.walk.release();
    this.say("Drag a box over the object in the view, or click it.");
  }

  begin(event) {
    event.preventDefault();
    const { screen, box } = this.elements;
    const canvas = this.walk.canvas.getBoundingClientRect();
    const from = [event.clientX - canvas.left, event.clientY - canvas.top];
    screen.setPointerCapture(event.pointerId);
    const rectangle = (at) => {
      const to = [at.clientX - canvas.left, at.clientY - canvas.top];
      const clamp = (value, most) => Math.min(Math.max(value, 0), most);
      const xs = [from[0], to[0]].map((x) => clamp(x, canvas.width)).sort((a, b) => a - b);
      const ys = [from[1], to[1]].map((y) => clamp(y, canvas.height)).sort((a, b) => a - b);
      return [xs[0], ys[0], xs[1], ys[1]];
    };
    const move = (at) => {
      const [left, top, right, bottom] = rectangle(at);
      box.hidden = false;
      Object.assign(box.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
    };
    const end = (at) => {
      screen.removeEventListener("pointermove", move);
      screen.removeEventListener("pointerup", end);
      screen.removeEventListener("pointercancel", cancel);
      this.selecting = false;
      box.hidden = true;
      const [left, top, right, bottom] = rectangle(at);
      const scaled = [left / canvas.width, top / canvas.height, right / canvas.width, bottom / canvas.height];
      const small = right - left < 6 || bottom - top < 6;
      this.start(small ? { point: [scaled[0], scaled[1]] } : { box: scaled });
    };
    const cancel = () => {
      screen.removeEventListener("pointermove", move);
      screen.removeEventListener("pointerup", end);
      box.hidden = true;
    };
    screen.addEventListener("pointermove", move);
    screen.addEventListener("pointerup", end);
    screen.addEventListener("pointercancel", cancel);
  }

  async start(selection) {
    this.elements.files.replaceChildren();
    this.say("Lifting …");
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
      viewer.hidden = true;
      turntable.hidden = false;
      turntable.src = url("turntable.mp4");
    }
  }
}
