// The tab Restore: a picture that is painted over or damaged, and what it may have been.

import { NO_MODEL } from "./form.js";
import { classes, fill, unpack } from "./net.js";
import { show } from "./picture.js";
import { PictureForm } from "./picture-form.js";

const $ = (id) => document.getElementById(`restore-${id}`);
const PAINTED = ["inpaint", "edit"];

export class Restore extends PictureForm {
  constructor(line, choices) {
    const none = choices.generate.models.length ? "None of the models draws grey or colour pictures from noise alone." : NO_MODEL;
    super(line, "restore", choices.restore, none);
    this.about = choices.generate.models;
    [this.past, this.future] = [[], []];
    this.wire();
    this.offer();
    if (!this.models.length) {
      for (const field of $("tools").querySelectorAll("button, input")) field.disabled = true;
      return;
    }
    this.lookFor($("canvas"));
  }

  wire() {
    $("form").addEventListener("input", () => this.shown());
    $("brush").addEventListener("input", () => this.shown());
    $("undo").addEventListener("click", () => this.turn(this.past, this.future));
    $("redo").addEventListener("click", () => this.turn(this.future, this.past));
    $("clear").addEventListener("click", () => this.change(() => this.mask.fill(0)));
    $("invert").addEventListener("click", () => this.change(() => this.mask.forEach((v, i) => (this.mask[i] = 1 - v))));
    for (const [id, picture] of [["save-picture", () => this.image], ["save-mask", () => this.white()]])
      $(id).addEventListener("click", () => save(picture(), `${id.slice(5)}.png`));
    this.brushes();
  }

  // Take a mask from one pile, and leave the one that was there on the other.
  turn(from, onto) {
    if (!from.length) return;
    onto.push(this.mask);
    this.mask = from.pop();
    this.paint();
  }

  // The mask as a picture, white where it is painted.
  white() {
    const [, height, width] = this.image.shape;
    return { shape: [1, height, width], values: this.mask.map((v) => 255 * v) };
  }

  offer() {
    const about = this.about.find((model) => model.name === $("model").value);
    fill($("task"), Object.entries(this.model?.tasks ?? {}), $("task").value);
    $("label-box").hidden = !about?.classes.length;
    fill($("label"), classes(about, "None"));
    $("caption-box").hidden = !about?.caption;
    this.shown();
  }

  shown() {
    $("steps-shown").textContent = $("steps").value;
    $("brush-shown").textContent = $("brush").value;
    $("strength-shown").textContent = this.strength.toFixed(2);
    $("strength-box").hidden = $("task").value !== "edit";
    $("scale-shown").textContent = Number($("scale").value).toFixed(2);
    if (this.task !== $("task").value) this.forget();
    this.task = $("task").value;
    $("tools").hidden = !PAINTED.includes($("task").value);
    this.paint();
  }

  get strength() {
    return 2 ** Number($("strength").value);
  }

  // What was found belongs to another request.
  forget() {
    $("results").replaceChildren();
    $("how").hidden = true;
    $("note").textContent = "";
    this.say("");
  }

  // A new picture: nothing is painted over yet.
  got() {
    const [, height, width] = this.image.shape;
    this.mask = new Uint8Array(height * width);
    [this.past, this.future] = [[], []];
    this.at = [Math.floor(width / 2), Math.floor(height / 2)];
    this.paint();
  }

  change(run) {
    if (!this.image) return;
    this.past.push(this.mask.slice());
    if (this.past.length > 100) this.past.shift();
    this.future = [];
    run();
    this.say("");
    this.paint();
  }

  // The disc of the brush around a pixel, or a box between two.
  stamp([x, y], value) {
    const [, height, width] = this.image.shape;
    const radius = Number($("brush").value) / 2;
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++)
        if (Math.hypot(column - x, row - y) <= radius) this.mask[row * width + column] = value;
  }

  box([x0, y0], [x1, y1]) {
    const width = this.image.shape[2];
    for (let row = Math.min(y0, y1); row <= Math.max(y0, y1); row++)
      for (let column = Math.min(x0, x1); column <= Math.max(x0, x1); column++) this.mask[row * width + column] = 1;
  }

  brushes() {
    const canvas = $("canvas");
    const tool = () => document.querySelector("[name=restore-tool]:checked").value;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const [, height, width] = this.image.shape;
      const along = (v, start, size, count) => Math.min(count - 1, Math.max(0, Math.floor(((v - start) / size) * count)));
      return [along(event.clientX, box.left, box.width, width), along(event.clientY, box.top, box.height, height)];
    };
    let from = null;
    let before = null;
    const move = (to) => {
      if (tool() === "box") {
        this.mask.set(before);
        this.box(from, to);
      } else {
        this.stamp(to, tool() === "pen" ? 1 : 0);
      }
      this.at = to;
      this.paint();
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.image || $("tools").hidden) return;
      canvas.setPointerCapture(event.pointerId);
      this.change(() => {});
      from = at(event);
      before = this.mask.slice();
      move(from);
    });
    canvas.addEventListener("pointermove", (event) => from && move(at(event)));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (from = null));
    let corner = null;
    canvas.addEventListener("keydown", (event) => {
      if (!this.image || $("tools").hidden) return;
      const [, height, width] = this.image.shape;
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) {
        this.at = [Math.min(width - 1, Math.max(0, this.at[0] + step[0])), Math.min(height - 1, Math.max(0, this.at[1] + step[1]))];
      } else if (event.key === " " || event.key === "Enter") {
        if (tool() !== "box") this.change(() => this.stamp(this.at, tool() === "pen" ? 1 : 0));
        else if (corner) {
          const first = corner;
          this.change(() => this.box(first, this.at));
          corner = null;
        } else corner = this.at;
      } else return;
      event.preventDefault();
      this.paint();
    });
    canvas.addEventListener("focus", () => this.paint());
    canvas.addEventListener("blur", () => this.paint());
  }

  paint() {
    if (!this.image) return;
    const canvas = $("canvas");
    show(canvas, this.image);
    const context = canvas.getContext("2d");
    const [, , width] = this.image.shape;
    if (!PAINTED.includes($("task").value)) return;
    context.fillStyle = "rgba(214, 40, 40, 0.6)";
    this.mask.forEach((value, i) => value && context.fillRect(i % width, Math.floor(i / width), 1, 1));
    if (document.activeElement === canvas) {
      context.fillStyle = "rgba(255, 209, 102, 0.9)";
      context.fillRect(this.at[0], this.at[1], 1, 1);
    }
  }

  ask() {
    if (!this.image) return this.say("Choose a picture first.");
    this.forget();
    const request = {
      model: this.model.name, task: $("task").value, image: this.packed, mask: btoa(String.fromCharCode(...this.mask)),
      ...this.told,
      steps: Number($("steps").value), n: Number($("n").value), seed: Number($("seed").value), strength: this.strength, scale: Number($("scale").value),
    };
    this.send(request);
  }

  done(message) {
    const views = [["What is known", message.before]];
    const samples = unpack(message.samples);
    const [count, ...shape] = samples.shape;
    const size = shape.reduce((a, b) => a * b);
    for (let k = 0; k < count; k++) views.push([`Sample ${k + 1}`, { shape, values: samples.values.slice(k * size, (k + 1) * size) }]);
    if (count > 1) views.push(["Mean of the samples", message.mean], [`Where they differ (white: a standard deviation of ${message.largest_spread.toPrecision(2)}, of data in −1 to 1)`, message.spread]);
    $("results").replaceChildren(...views.map(([title, array]) => {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption");
      show(canvas, array.values ? array : unpack(array));
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", title);
      caption.textContent = title;
      figure.append(canvas, caption);
      return figure;
    }));
    $("command").textContent = message.command;
    $("how").hidden = false;
    $("note").textContent = message.psnr === null ? "" : `PSNR of the mean of the samples: ${message.psnr.toFixed(1)} dB; higher is nearer to the picture.`;
  }
}

function save(picture, name) {
  const canvas = document.createElement("canvas");
  show(canvas, picture);
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
