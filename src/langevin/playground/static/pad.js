// A pad on which points are drawn, by pointer or by keyboard.

import { later } from "./net.js";
import { colour } from "./picture.js";

const REACH = 1.6; // half-width of the pad

export class Pad {
  // `$` finds the tab's elements: pad, undo, clear, count; `changed` is called once the points have settled.
  constructor($, most, changed) {
    this.points = [];
    this.cross = [0, 0];
    this.$ = $;
    this.most = most;
    this.changed = later(changed, 150);
    const pad = $("pad");
    const at = (event) => {
      const box = pad.getBoundingClientRect();
      const along = (v, start, size) => ((v - start) / size) * 2 - 1;
      return [along(event.clientX, box.left, box.width) * REACH, -along(event.clientY, box.top, box.height) * REACH];
    };
    let last = null;
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      last = at(event);
      this.add(...last);
    });
    pad.addEventListener("pointermove", (event) => {
      if (!last) return;
      const now = at(event);
      if (Math.hypot(now[0] - last[0], now[1] - last[1]) < 0.12) return;
      last = now;
      this.add(...now);
    });
    for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (last = null));
    pad.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (step) this.cross = this.cross.map((v, i) => Math.min(REACH, Math.max(-REACH, v + 0.1 * step[i])));
      else if (event.key === "Enter" || event.key === " ") this.add(...this.cross);
      else if (event.key === "Backspace" || event.key === "Delete") $("undo").click();
      else return;
      event.preventDefault();
      this.paint();
    });
    $("undo").addEventListener("click", () => this.set(this.points.slice(0, -1)));
    $("clear").addEventListener("click", () => this.set([]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  add(x, y) {
    if (this.points.length >= this.most || Math.max(Math.abs(x), Math.abs(y)) > REACH) return;
    this.set([...this.points, [Number(x.toFixed(3)), Number(y.toFixed(3))]]);
  }

  set(points) {
    this.points = points;
    this.paint();
    this.changed();
  }

  paint() {
    const pad = this.$("pad");
    const context = pad.getContext("2d");
    context.clearRect(0, 0, pad.width, pad.height);
    const to = ([x, y]) => [((x / REACH + 1) / 2) * pad.width, ((1 - y / REACH) / 2) * pad.height];
    context.fillStyle = `rgb(${colour("particle")})`;
    for (const point of this.points) {
      context.beginPath();
      context.arc(...to(point), 5, 0, 7);
      context.fill();
    }
    const [x, y] = to(this.cross);
    context.strokeStyle = colour("line");
    context.beginPath();
    for (const [dx, dy] of [[8, 0], [0, 8]]) {
      context.moveTo(x - dx, y - dy);
      context.lineTo(x + dx, y + dy);
    }
    context.stroke();
    this.$("count").textContent = `${this.points.length} of ${this.most} dots`;
  }
}
