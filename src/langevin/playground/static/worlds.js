// The tab Worlds: particles of a sampler beside exact ones, at every noise level.

import { fill, grouped, later, unpack } from "./net.js";
import { Pad } from "./pad.js";
import { NAMES, arrows, colour, density, dots, figure, level, square } from "./picture.js";

const $ = (id) => document.getElementById(`worlds-${id}`);
const SECONDS = 3; // of the way from noise to data, when it is played
const FOUR = [
  { title: "DDPM", process: "ddpm", sampler: "ddpm" },
  { title: "DDIM", process: "ddpm", sampler: "ddim" },
  { title: "Score SDE", process: "vp", sampler: "euler-maruyama" },
  { title: "Flow matching", process: "flow", sampler: "euler" },
];

export class Worlds {
  constructor(line, choices, families) {
    this.line = line;
    this.choices = choices;
    this.families = families;
    this.views = [];
    this.lines = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    fill($("world"), [...Object.keys(choices.worlds), "drawn"].map((n) => [n, NAMES[n] ?? n]));
    fill($("process"), Object.entries(choices.processes), "vp");
    fill($("grid"), [["", "The sampler's own"], ...Object.entries(choices.grids)]);
    $("n").max = choices.most.particles;
    this.pad = new Pad($, choices.most.points, () => this.ask());
    this.offer();
    this.wire();
    this.lay();
    this.ask();
  }

  wire() {
    const soon = later(() => this.ask(), 120);
    document.getElementById("worlds-form").addEventListener("input", (event) => {
      if (event.target.name === "world" || event.target.name === "process") this.offer();
      if (event.target.id === "worlds-four") this.lay();
      this.told();
      soon();
    });
    document.getElementById("worlds-form").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["density", "score", "paths"]) $(id).addEventListener("input", () => this.paint());
    $("place").addEventListener("input", () => {
      this.stop();
      this.paint();
    });
    $("play").addEventListener("click", () => this.play(1));
    $("back").addEventListener("click", () => this.play(-1));
    window.addEventListener("resize", later(() => this.paint(), 50));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    document.addEventListener("visibilitychange", () => document.hidden && this.stop());
    this.told();
  }

  // What the other controls offer under the chosen world and process.
  offer() {
    const labels = this.choices.worlds[$("world").value] ?? 0;
    $("guide").hidden = !labels;
    const components = Array.from({ length: labels }, (_, k) => [String(k), `Component ${k + 1}`]);
    fill($("label"), [["", "All"], ...components], $("label").value);
    grouped($("sampler"), Object.entries(this.choices.samplers[$("process").value]), this.families, $("sampler").value || "default");
    $("pad-box").hidden = $("world").value !== "drawn";
    this.pad.paint();
  }

  told() {
    const own = this.choices.own_steps.includes($("sampler").value);
    $("steps").disabled = $("grid").disabled = own;
    $("steps-shown").textContent = own ? "chosen by the sampler" : $("steps").value;
    $("scale").disabled = $("label").value === "";
    $("scale-shown").textContent = Number($("scale").value).toFixed(2);
    $("n-shown").textContent = $("n").value;
    const four = $("four").checked;
    for (const id of ["process", "sampler"]) $(id).disabled = four;
    $("grid").disabled ||= four;
    $("steps").disabled &&= !four;
  }

  request() {
    const form = new FormData(document.getElementById("worlds-form"));
    const number = (name, other) => (form.get(name) === null || form.get(name) === "" ? other : Number(form.get(name)));
    const label = $("guide").hidden || $("label").value === "" ? null : Number($("label").value);
    return {
      world: $("world").value, points: $("world").value === "drawn" ? this.pad.points : undefined,
      process: $("process").value, sampler: $("sampler").value, grid: $("grid").value,
      steps: number("steps", 10), n: number("n", 1000), seed: number("seed", 0), label, scale: label === null ? 1 : number("scale", 1),
    };
  }

  // The canvases: a sampler's, or those of four, and the exact one.
  lay() {
    const titles = [...($("four").checked ? FOUR.map((one) => one.title) : ["Sampler"]), "Exact"];
    this.views = titles.map((title) => {
      return { title, data: null, ...figure() };
    });
    $("views").classList.toggle("four", titles.length > 2);
    $("views").replaceChildren(...this.views.map((view) => view.figure));
  }

  ask() {
    const request = this.request();
    this.say("");
    this.views.forEach((view) => (view.measures = null));
    const empty = request.world === "drawn" && !this.pad.points.length;
    if (empty) {
      for (let i = 0; i < 4; i++) this.line.cancel(`worlds-${i}`);
      this.lay();
      $("where").textContent = $("python").textContent = "";
    }
    this.table(empty);
    $("views").classList.toggle("busy", !empty);
    if (empty) return;
    const parts = $("four").checked
      ? FOUR.map((one, i) => [{ ...request, process: one.process, sampler: one.sampler, grid: "" }, [this.views[i], ...(i ? [] : this.views.slice(-1))]])
      : [[request, this.views]];
    for (let i = parts.length; i < 4; i++) this.line.cancel(`worlds-${i}`);
    parts.forEach(([asked, views], i) => {
      this.line.ask("worlds", asked, {
        picture: (message) => {
          const data = { ...message, asked };
          $("views").classList.remove("busy");
          for (const name of ["density", "score", "forward", "path"]) data[name] = unpack(message[name]);
          views.forEach((view) => (view.data = data));
          this.lines[i] = message.python;
          $("python").textContent = this.lines.slice(0, parts.length).join("\n\n");
          this.first();
        },
        result: (message) => {
          views[0].measures = message;
          this.table();
          document.getElementById("worlds").dataset.done = JSON.stringify(asked);
        },
        error: (message) => {
          $("views").classList.remove("busy");
          this.say(message.message);
        },
      }, `worlds-${i}`);
    });
  }

  say(text) {
    $("error").textContent = text;
    $("error").hidden = !text;
  }

  // A new picture: played at once, unless one is being looked at, or motion is not wanted.
  first() {
    if (this.still.matches || this.seen) this.paint();
    else this.play(1);
    this.seen = true;
  }

  play(direction) {
    if (this.playing === direction) return this.stop();
    this.playing = direction;
    this.buttons();
    const ends = direction > 0 ? 1 : 0;
    if (Math.abs(Number($("place").value) - ends) < 1e-3) $("place").value = 1 - ends;
    let before = performance.now();
    const frame = (now) => {
      if (this.playing !== direction) return;
      const place = Number($("place").value) + (direction * (now - before)) / 1000 / SECONDS;
      before = now;
      $("place").value = Math.min(1, Math.max(0, place));
      this.paint();
      this.frames = (this.frames ?? 0) + 1;
      if (place <= 0 || place >= 1) return this.stop();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.playing = 0;
    this.buttons();
  }

  buttons() {
    $("play").textContent = this.playing === 1 ? "❚❚" : "▶";
    $("back").textContent = this.playing === -1 ? "❚❚" : "◀";
    $("play").setAttribute("aria-label", this.playing === 1 ? "Pause" : "Play from noise to data");
    $("back").setAttribute("aria-label", this.playing === -1 ? "Pause" : "Play from data to noise");
  }

  paint() {
    const place = Number($("place").value);
    for (const [i, view] of this.views.entries()) {
      if (!view.data || !view.canvas.clientWidth) continue;
      const sampled = i < this.views.length - 1;
      draw(view.canvas, view.data, place, sampled);
      const { asked, evaluations } = view.data;
      const title = $("four").checked ? view.title : this.choices.samplers[asked.process][asked.sampler];
      const part = asked.label === null ? "data" : `component ${asked.label + 1}, without guidance,`;
      view.caption.textContent = sampled ? `${title}, ${evaluations} evaluations` : `Exact: ${part} that noise is added to`;
      view.canvas.setAttribute("aria-label", `${view.caption.textContent}, ${view.data.path.shape[1]} particles`);
    }
    const data = this.views[0]?.data;
    if (!data) return;
    const at = place * (data.times.length - 1);
    const [alpha, sigma] = ["alpha", "sigma"].map((name) => between(data[name], at));
    const led = data.asked.label !== null && data.asked.scale !== 1;
    $("led").hidden = !led;
    $("where").textContent = `t = ${between(data.times, at).toFixed(3)},  σ/α = ${level(sigma / alpha)}`;
  }

  table(empty = false) {
    $("measures").hidden = empty;
    const rows = [];
    const four = $("four").checked;
    const all = this.views.slice(0, -1).map((view) => view.measures);
    const row = (title, hint, text) => rows.push([title, hint, all.map((m) => (m ? text(m) : ["…"]))]);
    row("Evaluations of the denoiser", "", (m) => [String(m.evaluations)]);
    row("Distance to the exact distribution", "sliced Wasserstein-2; the floor is that of two exact sets of as many", (m) => [
      m.distance.toFixed(4), `floor ${m.floor[0].toFixed(4)} ± ${m.floor[1].toFixed(4)}`]);
    row("Error of the path", "to the converged path from the same noise, in standard deviations of the data", (m) => [
      m.path_error === null ? "none: it draws noise on its way" : level(m.path_error)]);
    row("Straightness of the paths", "distance from start to end over length; 1 is straight", (m) => [m.straightness === null ? "unknown: a sampler that chooses its steps shows none on its way" : m.straightness.toFixed(3)]);
    row("Mean log-likelihood", "of the particles under the exact distribution", (m) => [
      m.log_likelihood.toFixed(3), `exact samples ${m.own_log_likelihood.toFixed(3)}`]);
    const cell = (kind, text, small) => {
      const made = document.createElement(kind);
      made.textContent = text;
      if (kind === "th") made.scope = "row";
      if (small) {
        const more = document.createElement("small");
        more.textContent = small;
        made.append(more);
      }
      return made;
    };
    const body = rows.map(([title, hint, cells]) => {
      const tr = document.createElement("tr");
      tr.append(cell("th", title, hint), ...cells.map((c) => cell("td", ...c)));
      return tr;
    });
    if (four) {
      const head = document.createElement("tr");
      head.append(cell("td", ""), ...FOUR.map((one) => Object.assign(cell("th", one.title), { scope: "col" })));
      body.unshift(head);
    }
    $("measures").tBodies[0].replaceChildren(...body);
  }
}

const between = (values, at) => {
  const i = Math.min(Math.floor(at), values.length - 2);
  return values[i] + (values[i + 1] - values[i]) * (at - i);
};

// One view: the exact density, particles at this noise level, the score, paths. All numbers are in half-widths.
function draw(canvas, data, place, sampled) {
  const view = square(canvas);
  const { context, ratio, to } = view;
  const frames = data.times.length - 1;
  const at = Math.round(place * frames);
  if ($("density").checked) density(view, data.density, at);
  if ($("score").checked) arrows(view, data.score, at);
  const source = sampled ? data.path : data.forward;
  const [, count] = source.shape;
  const [i, part] = sampled ? step(data.places, place) : step(null, place, frames);
  const x = (frame, k, axis) => source.values[(frame * count + k) * 2 + axis];
  const now = (k) => [0, 1].map((axis) => x(i, k, axis) + (x(i + 1, k, axis) - x(i, k, axis)) * part);
  if ($("paths").checked) {
    context.strokeStyle = `rgba(${colour("path")}, 0.35)`;
    context.lineWidth = ratio;
    for (let k = 0; k < Math.min(count, 60); k++) {
      context.beginPath();
      for (let frame = 0; frame <= i; frame++) context.lineTo(...to(x(frame, k, 0), x(frame, k, 1)));
      context.lineTo(...to(...now(k)));
      context.stroke();
    }
  }
  dots(view, count, now);
}

// The states that a place lies between, and how far.
function step(places, place, count) {
  if (!places) {
    const i = Math.min(Math.floor(place * count), count - 1);
    return [i, place * count - i];
  }
  let i = 0;
  while (i < places.length - 2 && places[i + 1] <= place) i++;
  const span = places[i + 1] - places[i];
  return [i, span > 0 ? Math.min(1, Math.max(0, (place - places[i]) / span)) : 1];
}
