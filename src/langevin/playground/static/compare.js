// The tab Compare: the same noise through several samplers, side by side.

import { ModelForm, NO_MODEL } from "./form.js";
import { classes, fill, grouped } from "./net.js";

const $ = (id) => document.getElementById(`compare-${id}`);
const FIRST = ["default", "dpmpp-2m", "unipc", "ddim"];
const MOST = 6;

export class Compare extends ModelForm {
  constructor(line, choices, families) {
    super(line, "compare", choices.models, NO_MODEL);
    this.families = families;
    this.offer();
    $("model").addEventListener("input", () => this.offer());
    $("form").addEventListener("input", () => this.shown());
    $("more").addEventListener("input", () => {
      if ($("more").value) this.add($("more").value, true);
      $("more").value = "";
      this.shown();
    });
  }

  get chosen() {
    return [...$("samplers").querySelectorAll("input:checked")].map((box) => box.value);
  }

  offer() {
    const model = this.model;
    $("label-box").hidden = !model?.classes.length;
    fill($("label"), classes(model, model?.caption ? "None" : "In turn"));
    $("caption-box").hidden = !model?.caption;
    this.titles = { default: "Default: Gaussian remainder", ...model?.samplers };
    for (const label of [...$("samplers").querySelectorAll("label")]) label.remove();
    for (const name of FIRST.filter((name) => name in this.titles)) this.add(name, true);
    this.shown();
  }

  add(name, checked) {
    const label = document.createElement("label");
    label.className = "check";
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked });
    label.append(box, this.titles[name]);
    $("samplers").append(label);
  }

  shown() {
    $("steps-shown").textContent = $("steps").value;
    $("scale-shown").textContent = Number($("scale").value).toFixed(2);
    const full = this.chosen.length >= MOST;
    for (const box of $("samplers").querySelectorAll("input")) box.disabled = full && !box.checked;
    const listed = [...$("samplers").querySelectorAll("input")].map((box) => box.value);
    const others = Object.entries(this.titles).filter(([name]) => !listed.includes(name));
    grouped($("more"), [["", full ? "Six are the most" : "Choose …"], ...others], this.families);
    $("more").disabled = full || !this.model;
  }

  ask() {
    const model = this.model;
    this.say("");
    if (!this.chosen.length) return this.say("Choose a sampler at least.");
    $("rows").replaceChildren();
    $("how").hidden = true;
    $("note").textContent = "Drawing, and following the model's own paths in 128 steps …";
    const request = {
      model: model.name, samplers: this.chosen, steps: Number($("steps").value), scale: Number($("scale").value),
      seed: Number($("seed").value), ...this.told,
    };
    this.send(request);
  }

  done(message) {
    $("rows").replaceChildren(...message.rows.map((row) => this.row(row)));
    const unresolved = message.unresolved === null ? "" : ` Below ${message.unresolved.toPrecision(1)} it says nothing: so much do the paths themselves still move.`;
    const meaning = "The distance is of half of 16 paths or more, in standard deviations of the data: lower is nearer to where the model's own paths lead.";
    $("note").textContent = [`${meaning}${unresolved}`, ...message.left_out, ...message.notes].join(" ");
    $("command").textContent = message.command;
    $("how").hidden = false;
  }

  row(row) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("strong");
    const converged = row.sampler === "converged";
    name.textContent = converged ? "Where the paths lead" : (this.titles[row.sampler] ?? row.sampler);
    const distance = row.distance === null ? "draws noise on its way, so that it has no path" : `distance ${row.distance.toPrecision(2)}`;
    caption.append(name, converged ? ": the default sampler in 128 steps" : ` (${row.sampler}): ${row.evaluations} evaluations, ${distance}, ${(1000 * row.seconds).toFixed(0)} ms for each sample`);
    figure.append(caption);
    if (row.picture) {
      const image = document.createElement("img");
      image.src = row.picture;
      image.alt = `Samples of ${name.textContent}`;
      figure.append(image);
    }
    return figure;
  }
}
