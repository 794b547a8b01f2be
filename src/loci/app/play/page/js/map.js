// The map from above: the dead-reckoned path, and the memory tokens that stand in memory now.

export const COLOURS = ["#3f8fd9", "#7cc4ff", "#b8dcff", "#f4d58a", "#ffb45c"];

export const colourOf = (level) => COLOURS[Math.min(level - 1, COLOURS.length - 1)];

// The radius of a token's wedge, in pixels.
const radiusOf = (level) => 12 + 5 * Math.min(level, COLOURS.length);

export class MemoryMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.memory = null;
  }

  // `marked`: the token to emphasise, if any.
  draw(memory, marked = null) {
    this.memory = memory;
    const { canvas, context } = this;
    const points = [...memory.path, memory.pose, ...memory.tokens.map((t) => t.pose).filter(Boolean)];
    const xs = points.map((p) => p[1]);
    const ys = points.map((p) => p[2]);
    const span = Math.max(Math.max(...xs) - Math.min(...xs), (Math.max(...ys) - Math.min(...ys)) * 1.33, 2);
    const scale = (canvas.width - 60) / span;
    const [cx, cy] = [(Math.max(...xs) + Math.min(...xs)) / 2, (Math.max(...ys) + Math.min(...ys)) / 2];
    this.place = (pose) => [canvas.width / 2 + (pose[1] - cx) * scale, canvas.height / 2 - (pose[2] - cy) * scale];
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const token of memory.tokens) this.wedge(token, token === marked);
    context.strokeStyle = "#8a93a3";
    context.lineWidth = 1.5;
    context.beginPath();
    for (const [k, pose] of [...memory.path, memory.pose].entries()) {
      const [x, y] = this.place(pose);
      k ? context.lineTo(x, y) : context.moveTo(x, y);
    }
    context.stroke();
    this.arrow(memory.pose);
  }

  wedge({ level, pose }, marked) {
    if (!pose) return;
    const { context } = this;
    const [x, y] = this.place(pose);
    const half = Math.min(Math.PI, (1.55 + (pose[3] ?? 0)) / 2);
    const colour = colourOf(level);
    context.fillStyle = colour + (marked ? "c0" : "30");
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, y);
    context.arc(x, y, radiusOf(level), -pose[0] - half, -pose[0] + half);
    context.closePath();
    context.fill();
    context.stroke();
  }

  arrow(pose) {
    const { context } = this;
    const [x, y] = this.place(pose);
    context.save();
    context.translate(x, y);
    context.rotate(-pose[0]);
    context.fillStyle = "#ffffff";
    context.beginPath();
    context.moveTo(9, 0);
    context.lineTo(-6, 5);
    context.lineTo(-6, -5);
    context.fill();
    context.restore();
  }

  // The token nearest to a click, or null.
  at(event) {
    if (!this.memory) return null;
    const bounds = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) * this.canvas.width) / bounds.width;
    const y = ((event.clientY - bounds.top) * this.canvas.height) / bounds.height;
    let [best, nearest] = [null, 40];
    for (const token of this.memory.tokens) {
      if (!token.pose) continue;
      const [tx, ty] = this.place(token.pose);
      const reach = 0.8 * radiusOf(token.level);
      const away = Math.hypot(tx + reach * Math.cos(token.pose[0]) - x, ty - reach * Math.sin(token.pose[0]) - y);
      if (away < nearest) [best, nearest] = [token, away];
    }
    return best;
  }
}
