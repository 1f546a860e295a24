/** Draft tokens fed and accepted, step by step. */

import { plural, shown } from "./dom.js";

export class Plot {
  constructor(canvas, note) {
    Object.assign(this, { canvas, note, fed: [], kept: [] });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  reset() {
    this.fed = [];
    this.kept = [];
  }

  add(fed, kept) {
    this.fed.push(fed);
    this.kept.push(kept);
  }

  /** Bars of at least 3 pixels; where there are more steps than that, each bar is the mean of several. */
  #bars(width) {
    const steps = this.fed.length;
    const span = Math.max(1, Math.ceil(steps / (width / 3)));
    const mean = (values, from) => values.slice(from, from + span).reduce((sum, value) => sum + value, 0) / Math.min(span, values.length - from);
    return Array.from({ length: Math.ceil(steps / span) }, (_, bar) => [mean(this.fed, bar * span), mean(this.kept, bar * span)]);
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0) return;
    const scale = devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [left, top, floor] = [28, 8, height - 18];
    const bars = this.#bars(width - left);
    const most = Math.max(4, ...bars.map(([fed]) => fed));
    const tick = [1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 500].find((size) => most / size <= 4) ?? most;
    const ceiling = Math.ceil(most / tick) * tick;
    const y = (value) => floor - (value / ceiling) * (floor - top);
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = colour("--muted");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let value = 0; value <= ceiling; value += tick) {
      pen.fillText(String(value), left - 6, y(value));
      this.#line(pen, colour(value ? "--line" : "--edge"), left, width, y(value));
    }
    const pitch = Math.min(12, (width - left) / Math.max(bars.length, 1));
    const bar = (value, place, name, inset) => {
      pen.fillStyle = colour(name);
      const thickness = Math.max(1, pitch - (pitch > 4 ? 2 : 0.5) - 2 * inset);
      pen.fillRect(left + place * pitch + inset + 0.5, y(value), thickness, floor - y(value));
    };
    const inset = pitch > 7 ? 1.5 : 0;
    bars.forEach(([fed, kept], place) => {
      bar(fed, place, "--fed", 0);
      bar(kept, place, "--kept", inset);
    });
    this.#describe(pen, colour("--muted"), left, Math.max(left + bars.length * pitch, left + 90), height);
  }

  #line(pen, colour, from, to, at) {
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(from, Math.round(at) + 0.5);
    pen.lineTo(to, Math.round(at) + 0.5);
    pen.stroke();
  }

  #describe(pen, colour, left, right, height) {
    const steps = this.fed.length;
    const mean = (values) => shown(values.reduce((sum, value) => sum + value, 0) / steps);
    this.note.textContent = steps ? `on average ${mean(this.fed)} and ${mean(this.kept)}` : "";
    this.canvas.ariaLabel = steps ? `Over ${plural(steps, "step")}, ${mean(this.fed)} draft tokens fed and ${mean(this.kept)} accepted on average` : "No steps yet";
    if (!steps) return;
    pen.fillStyle = colour;
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillText("step 1", left, height - 4);
    pen.textAlign = "right";
    if (steps > 1) pen.fillText(String(steps), right, height - 4);
  }
}
