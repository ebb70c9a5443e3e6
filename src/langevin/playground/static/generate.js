// The tab Generate: samples of a trained model, watched while they form.

import { ModelForm, NO_MODEL } from "./form.js";
import { classes, fill, grouped, unpack } from "./net.js";

const $ = (id) => document.getElementById(`generate-${id}`);

export class Generate extends ModelForm {
  constructor(line, choices, families) {
    super(line, "generate", choices.models, NO_MODEL);
    this.families = families;
    fill($("grid"), [["", "The sampler's own"], ...Object.entries(choices.grids)]);
    $("n").max = choices.most.n;
    this.offer();
    $("model").addEventListener("input", () => this.offer());
    $("form").addEventListener("input", () => this.shown());
  }

  offer() {
    const model = this.model;
    $("label-box").hidden = !model?.classes.length;
    fill($("label"), classes(model, model?.caption ? "None" : "In turn"));
    grouped($("sampler"), [["", "The model's default"], ...Object.entries(model?.samplers ?? {})], this.families, $("sampler").value);
    $("caption-box").hidden = !model?.caption;
    this.shown();
  }

  shown() {
    const tolerance = $("by-tolerance").checked;
    $("steps-box").hidden = tolerance;
    $("tolerance-box").hidden = !tolerance;
    $("steps-shown").textContent = $("steps").value;
    const most = this.model?.caption;
    const length = new TextEncoder().encode($("caption").value.trim()).length;
    $("caption-count").textContent = most ? `${length} of ${most} bytes${length > most ? ": the rest is not read" : ""}` : "";
    $("scale-shown").textContent = Number($("scale").value).toFixed(2);
  }

  ask() {
    const model = this.model;
    const tolerance = $("by-tolerance").checked;
    const request = {
      model: model.name, sampler: $("sampler").value, grid: $("grid").value,
      ...this.told,
      steps: tolerance ? undefined : Number($("steps").value), tolerance: tolerance ? Number($("tolerance").value) : null,
      scale: Number($("scale").value), n: Number($("n").value), seed: Number($("seed").value),
    };
    this.say("");
    $("note").textContent = "";
    $("picture").hidden = $("text").hidden = $("download").hidden = $("how").hidden = true;
    this.send(request, {
      note: (message) => ($("note").textContent = message.text),
      preview: (message) => this.preview(message),
    });
  }

  preview(message) {
    const canvas = $("preview");
    canvas.hidden = false;
    const context = canvas.getContext("2d");
    if (message.points) {
      const { shape, values } = unpack(message.points);
      canvas.width = canvas.height = 400;
      context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
      const reach = Math.max(...values.map(Math.abs), 1e-6);
      for (let k = 0; k < shape[0]; k++) context.fillRect(200 + (190 * values[2 * k]) / reach, 200 - (190 * values[2 * k + 1]) / reach, 3, 3);
      return;
    }
    const { shape: [count, channels, height, width], values } = unpack(message.images);
    const columns = Math.ceil(Math.sqrt(count));
    canvas.width = columns * (width + 1) - 1;
    canvas.height = Math.ceil(count / columns) * (height + 1) - 1;
    for (let k = 0; k < count; k++) {
      const picture = new ImageData(width, height);
      for (let i = 0; i < height * width; i++) {
        const value = (channel) => values[(k * channels + (channels === 3 ? channel : 0)) * height * width + i];
        picture.data.set([value(0), value(1), value(2), 255], i * 4);
      }
      context.putImageData(picture, (k % columns) * (width + 1), Math.floor(k / columns) * (height + 1));
    }
  }

  done(message, request) {
    $("preview").hidden = true;
    const bytes = Uint8Array.from(atob(message.file), (c) => c.charCodeAt(0));
    const image = message.name.endsWith(".png");
    const blob = new Blob([bytes], { type: image ? "image/png" : "text/plain" });
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(blob);
    if (image) {
      $("picture").src = this.address;
      $("picture").alt = `${request.n} samples of ${request.model}${request.caption ? `: ${request.caption}` : ""}`;
    } else {
      $("text").textContent = new TextDecoder().decode(bytes);
    }
    $("picture").hidden = !image;
    $("text").hidden = image;
    $("download").href = this.address;
    $("download").download = message.name;
    $("download").textContent = `Download ${message.name}`;
    $("download").hidden = false;
    const calls = message.calls !== message.evaluations ? ` (${message.calls} calls of the network: guidance takes two)` : "";
    const taken = `${message.evaluations} evaluations for each sample${calls}, ${message.seconds.toFixed(1)} s.`;
    $("note").textContent = `${message.note ? `${message.note}. ` : ""}${taken}`;
    $("command").textContent = message.command;
    $("python").textContent = message.python;
    $("how").hidden = false;
  }
}
