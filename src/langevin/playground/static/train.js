// The tab Train: a network learns the score of a world.

import { chart } from "./chart.js";
import { fill, later, unpack } from "./net.js";
import { Pad } from "./pad.js";
import { NAMES, arrows, density, dots, figure, level, square } from "./picture.js";

const $ = (id) => document.getElementById(`train-${id}`);
const SIZE = { 65536: "as many as it likes" };

export class Train {
  constructor(line, choices) {
    this.line = line;
    this.choices = choices;
    const { widths, sizes, most } = choices.train;
    fill($("world"), [...Object.keys(choices.worlds.worlds), "drawn"].map((name) => [name, NAMES[name] ?? name]));
    fill($("size"), sizes.map((n) => [String(n), SIZE[n] ?? String(n)]), String(sizes.at(-1)));
    fill($("width"), widths.map((n) => [String(n), String(n)]), "64");
    $("steps").max = most.steps;
    this.pad = new Pad($, most.points, () => this.told());
    this.views = ["learned", "exact", "samples"].map((kind) => ({ kind, ...figure() }));
    $("views").replaceChildren(...this.views.map((view) => view.figure));
    $("form").addEventListener("input", () => this.told());
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    $("stop").addEventListener("click", () => {
      line.cancel("train");
      this.busy(false);
      $("note").textContent = `Stopped after ${this.learned?.step ?? 0} steps.`;
    });
    for (const id of ["place", "density", "points"]) $(id).addEventListener("input", () => this.paint());
    window.addEventListener("resize", later(() => this.paint(), 50));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.told();
  }

  get one() {
    return $("form").elements["train-levels"].value === "one";
  }

  get sigma() {
    return 10 ** Number($("sigma").value);
  }

  told() {
    const drawn = $("world").value === "drawn";
    $("pad-box").hidden = !drawn;
    $("start").disabled = this.running || (drawn && !this.pad.points.length);
    $("sigma-box").hidden = !this.one;
    $("sigma-shown").textContent = level(this.sigma);
    $("steps-shown").textContent = $("steps").value;
    $("rate-shown").textContent = level(10 ** Number($("rate").value));
    if (drawn) this.pad.paint();
  }

  busy(now) {
    this.running = now;
    $("stop").disabled = !now;
    $("progress").hidden = !now;
    if (now) $("progress").removeAttribute("value");
    this.told();
  }

  say(text) {
    $("error").textContent = text;
    $("error").hidden = !text;
  }

  ask() {
    const request = {
      world: $("world").value, points: $("world").value === "drawn" ? this.pad.points : undefined,
      size: $("size").value, sigma: this.one ? Number(this.sigma.toPrecision(3)) : null, width: $("width").value,
      rate: Number((10 ** Number($("rate").value)).toPrecision(3)), steps: Number($("steps").value), seed: Number($("seed").value),
    };
    this.say("");
    $("note").textContent = "";
    delete document.getElementById("train").dataset.done;
    this.busy(true);
    $("views").classList.add("busy");
    this.line.ask("train", request, {
      progress: (message) => ($("progress").value = message.done / message.total),
      picture: (message) => {
        const packed = Object.fromEntries(["density", "score", "forward"].map((name) => [name, unpack(message[name])]));
        this.exact = { ...message, ...packed, request };
        this.losses = [];
        this.learned = null;
        if (request.sigma !== null) $("place").value = this.nearest(request.sigma);
        $("python").textContent = message.python;
        for (const id of ["how", "charts", "looks", "views"]) $(id).hidden = false;
      },
      learned: (message) => this.take(message),
      result: (message) => {
        this.take(message);
        this.busy(false);
        document.getElementById("train").dataset.done = JSON.stringify(request);
      },
      error: (message) => {
        this.busy(false);
        $("views").classList.remove("busy");
        this.say(message.message);
      },
    });
  }

  take(message) {
    $("views").classList.remove("busy");
    this.learned = { ...message, score: unpack(message.score), samples: unpack(message.samples) };
    this.losses.push(message);
    $("note").textContent = `Step ${message.step} of ${this.exact.request.steps}.`;
    this.paint();
  }

  // The place of the slider whose noise level is nearest.
  nearest(sigma) {
    const away = this.exact.levels.map((other) => Math.abs(Math.log(other / sigma)));
    return away.indexOf(Math.min(...away)) / (this.exact.times.length - 1);
  }

  paint() {
    if (!this.learned || !this.views[0].canvas.clientWidth) return;
    const { exact, learned } = this;
    const last = exact.times.length - 1;
    const frame = Math.min(last - 1, Math.round(Number($("place").value) * last));
    const { sigma } = exact.request;
    for (const { kind, canvas, caption } of this.views) {
      const view = square(canvas);
      const at = kind === "samples" ? last : frame;
      if ($("density").checked) density(view, exact.density, at);
      const [, count] = exact.forward.shape;
      if (kind === "samples") {
        dots(view, learned.samples.shape[0], (k) => [learned.samples.values[2 * k], learned.samples.values[2 * k + 1]]);
        caption.textContent = sigma === null ? "Samples from noise, by all levels" : `Samples of a chain at σ = ${level(sigma)} alone`;
      } else {
        if ($("points").checked) dots(view, count, (k) => [0, 1].map((axis) => exact.forward.values[(frame * count + k) * 2 + axis]));
        arrows(view, kind === "learned" ? learned.score : exact.score, frame);
        const wrong = kind === "learned" ? `, wrong by ${level(100 * learned.errors[frame])} %` : "";
        caption.textContent = `${kind === "learned" ? "Learned" : "Exact"} score at σ = ${level(exact.levels[frame])}${wrong}`;
      }
      canvas.setAttribute("aria-label", caption.textContent);
    }
    $("where").textContent = `σ = ${level(exact.levels[frame])}`;
    this.charts(frame);
    this.table();
  }

  charts(frame) {
    const { exact, learned, losses } = this;
    const { steps, sigma } = exact.request;
    const [trained, fresh] = [0, 1].map((i) => losses.map((look) => [look.step, look.losses[i] - exact.floors[i]]));
    const all = [...trained, ...fresh].map(([, loss]) => loss).concat(0);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const room = 0.05 * (high - low || 1);
    chart($("loss"), {
      x: { name: "steps", range: [0, steps] },
      y: { range: [low - room, high + room] },
      lines: [
        { kind: "floor", points: [[0, 0], [steps, 0]] },
        { kind: "trained", points: trained },
        { kind: "fresh", points: fresh },
      ],
      title: `Loss beyond that of the exact denoiser, after ${learned.step} steps: ${level(fresh.at(-1)[1])} on new data, ${level(trained.at(-1)[1])} on training points`,
    });
    const errors = learned.errors.map((error, k) => [exact.levels[k], error]);
    chart($("errors"), {
      x: { name: "noise level σ", range: [exact.levels.at(-1), exact.levels[0]], log: true },
      y: { range: [1e-6, 10], log: true },
      lines: [{ kind: "fresh", points: errors }],
      marks: [exact.levels[frame], ...(sigma === null ? [] : [sigma])],
      title: `Error of the score by noise level: ${level(learned.errors[frame])} at σ = ${level(exact.levels[frame])}`,
    });
  }

  table() {
    const { exact, learned } = this;
    const [floor, margin] = exact.distance_floor;
    const rows = [
      ["Loss on training points", `${level(learned.losses[0])}, exact denoiser ${level(exact.floors[0])}`],
      ["Loss on new data", `${level(learned.losses[1])}, exact denoiser ${level(exact.floors[1])}`],
      ["Distance of the samples to the data", learned.distance.toFixed(3)],
      ["The same of samples drawn with the exact score", exact.distance_exact.toFixed(3)],
      ["The same of exact samples", `${floor.toFixed(3)} ± ${margin.toFixed(3)}`],
    ];
    const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
    const body = rows.map(([name, value]) => {
      const row = document.createElement("tr");
      row.append(Object.assign(cell("th", name), { scope: "row" }), cell("td", value));
      return row;
    });
    $("measures").hidden = false;
    $("measures").tBodies[0].replaceChildren(...body);
  }
}
