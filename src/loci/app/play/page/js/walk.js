// The walk: a socket, a queue of frames, and a clock that paints them at the world's rate.

const HEADER = 18; // bytes: first frame, number of frames, key message answered, seconds

export class Walk extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.fps = 15;
    this.queue = new Map(); // frame number -> { image, answers }
    this.painted = 0; // number of the frame on the screen
    this.last = 0; // number of the newest frame received
    this.end = 0; // number of the last frame of the newest chunk that is complete
    this.live = false; // whether there is a walk to send keys to
    this.held = new Set();
    this.keysId = 0;
    this.pressedAt = new Map(); // key message -> time of the key event
    this.latencies = [];
    this.paints = [];
    this.due = 0;
    this.generation = 0;
    this.session = sessionStorage.getItem("loci-session");
    this.connect();
    requestAnimationFrame((now) => this.tick(now));
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.retry = 250;
      this.send({ type: "hello", session: this.session });
    };
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.told(JSON.parse(data)) : this.received(data));
    this.socket.onclose = () => {
      this.release();
      this.live = false;
      if (this.elsewhere) return;
      this.emit("lost");
      this.retry = Math.min((this.retry || 250) * 2, 4000);
      setTimeout(() => this.connect(), this.retry);
    };
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  emit(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  told(message) {
    if (message.type === "ready") {
      this.fps = message.fps;
      this.session = message.session;
      sessionStorage.setItem("loci-session", message.session);
      [this.canvas.width, this.canvas.height] = message.size;
      this.live = true;
    }
    if (message.type === "elsewhere") this.elsewhere = true;
    if (message.type === "memory") this.end = message.frames - 1;
    this.emit(message.type, message);
  }

  received(buffer) {
    const bytes = new DataView(buffer);
    const first = bytes.getUint32(0, true);
    const count = bytes.getUint16(4, true);
    const answers = bytes.getUint32(6, true);
    const seconds = bytes.getFloat64(10, true);
    const generation = ++this.generation;
    let at = HEADER;
    for (const number of [...this.queue.keys()]) if (number >= first) this.queue.delete(number);
    for (let k = 0; k < count; k++) {
      const length = bytes.getUint32(at, true);
      const blob = new Blob([new Uint8Array(buffer, at + 4, length)], { type: "image/jpeg" });
      at += 4 + length;
      const entry = { image: null, answers: k === 0 ? answers : null, generation };
      this.queue.set(first + k, entry);
      createImageBitmap(blob).then((image) => {
        entry.image = image;
      });
    }
    this.last = first + count - 1;
    if (count === 1 && seconds === 0) {
      // the frame where a walk begins or goes on: shown at once
      this.painted = first - 1;
      this.due = 0;
    }
  }

  tick(now) {
    const next = this.queue.get(this.painted + 1);
    if (next?.image && now >= this.due) {
      this.due = Math.max(this.due, now - 1000 / this.fps) + 1000 / this.fps;
      this.paint(next, now);
    }
    requestAnimationFrame((later) => this.tick(later));
  }

  paint(entry, now) {
    this.painted += 1;
    this.context.drawImage(entry.image, 0, 0, this.canvas.width, this.canvas.height);
    entry.image.close();
    this.queue.delete(this.painted);
    this.paints.push(now);
    while (now - this.paints[0] > 2000) this.paints.shift();
    const pressed = this.pressedAt.get(entry.answers);
    if (pressed !== undefined) {
      this.latencies.push(performance.now() - pressed);
      if (this.latencies.length > 100) this.latencies.shift();
      for (const id of this.pressedAt.keys()) if (id <= entry.answers) this.pressedAt.delete(id);
    }
    this.send({ type: "painted", frame: this.painted });
    this.emit("painted", { frame: this.painted });
  }

  press(key) {
    if (this.live && !this.held.has(key)) this.hold(new Set(this.held).add(key));
  }

  letGo(key) {
    const held = new Set(this.held);
    if (held.delete(key)) this.hold(held);
  }

  release() {
    if (this.held.size) this.hold(new Set());
  }

  hold(held) {
    if (!this.held.size) this.paints = []; // the rate is that of walking, without pauses
    this.held = held;
    this.keysId += 1;
    if (held.size) this.pressedAt.set(this.keysId, performance.now());
    this.send({ type: "keys", keys: [...held].join(""), id: this.keysId, painted: this.painted });
    this.emit("held");
  }

  get rate() {
    const [first, last] = [this.paints[0], this.paints[this.paints.length - 1]];
    const recent = this.paints.length > 4 && performance.now() - last < 1000;
    return recent ? ((this.paints.length - 1) * 1000) / (last - first) : 0;
  }

  // A quantile of the delays from key to picture in milliseconds, as `loci bench play` computes it.
  latency(share) {
    if (!this.latencies.length) return null;
    const sorted = [...this.latencies].sort((a, b) => a - b);
    const at = share * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
    return low + (high - low) * (at - Math.floor(at));
  }
}
