// The tab Likelihood: what a picture costs under a model, level by level, and how it comes out of its code.

import { chart } from "./chart.js";
import { NO_MODEL } from "./form.js";
import { unpack } from "./net.js";
import { PictureForm } from "./picture-form.js";
import { level, show } from "./picture.js";

const $ = (id) => document.getElementById(`codes-${id}`);

export class Codes extends PictureForm {
  constructor(line, choices) {
    const none = choices.generate.models.length ? "None of the models is of pictures with levels, such as 8-bit ones." : NO_MODEL;
    super(line, "codes", choices.codes, none);
    $("place").addEventListener("input", () => this.paint());
    if (this.models.length) this.lookFor($("canvas"));
  }

  offer() {}

  got() {
    show($("canvas"), this.image);
  }

  // What was found belongs to another picture.
  forget() {
    this.curve = null;
    $("found").hidden = $("seen").hidden = $("how").hidden = true;
    $("note").textContent = "";
    this.say("");
  }

  ask() {
    if (!this.image) return this.say("Choose a picture first.");
    this.forget();
    $("note").textContent = "Walking from noise to the picture …";
    this.send({ model: this.model.name, image: this.packed, seed: Number($("seed").value) }, {
      curve: (message) => {
        this.curve = { ...message, estimates: unpack(message.estimates) };
        $("found").hidden = $("seen").hidden = false;
        $("place").max = message.sigma.length - 1;
        $("place").value = Math.round(0.6 * (message.sigma.length - 1));
        $("note").textContent = "Following the probability flow, and coding …";
        this.table(null);
        this.paint();
      },
    });
  }

  done(message) {
    $("note").textContent = "";
    this.table(message);
    $("command").textContent = message.command;
    $("python").textContent = message.python;
    $("how").hidden = false;
  }

  paint() {
    if (!this.curve) return;
    const { sigma, bits, density, psnr, dim, estimates } = this.curve;
    const at = Number($("place").value);
    const [, ...shape] = estimates.shape;
    const size = shape.reduce((a, b) => a * b);
    show($("estimate"), { shape, values: estimates.values.slice(at * size, (at + 1) * size) });
    const bytes = (bits[at] * dim) / 8;
    const said = `σ/α = ${level(sigma[at])}: ${bytes < 10 ? bytes.toFixed(1) : bytes.toFixed(0)} bytes sent, PSNR ${psnr[at].toFixed(1)} dB`;
    $("where").textContent = said;
    $("estimate").setAttribute("aria-label", `What the receiver sees at ${said}`);
    const ends = [sigma.at(-1), sigma[0]];
    chart($("levels"), {
      x: { name: "noise level σ/α", range: ends, log: true },
      y: { range: [0, 1.05 * Math.max(...density)] },
      lines: [{ kind: "fresh", points: density.map((value, k) => [Math.sqrt(sigma[k] * sigma[k + 1]), value]) }],
      marks: [sigma[at]],
      title: `Bits a coordinate for each halving of the noise, at most ${level(Math.max(...density))}`,
    });
    chart($("rate"), {
      x: { name: "bits a coordinate sent", range: [0, bits.at(-1)] },
      y: { range: [Math.min(...psnr), Math.max(...psnr)] },
      lines: [{ kind: "fresh", points: bits.map((value, k) => [value, psnr[k]]) }],
      marks: [bits[at]],
      title: `PSNR of what the receiver sees, by bits: ${psnr[at].toFixed(1)} dB after ${level(bits[at])} bits a coordinate`,
    });
  }

  table(found) {
    const { bound, levels_bits: rest, sigma, best, raw } = this.curve;
    const rows = [
      ["Bits a coordinate at most", "the variational bound: steps from noise, then the exact levels", `${bound.toFixed(3)} (${(bound - rest).toFixed(3)} down to σ/α = ${level(sigma[best])}, then ${rest.toFixed(3)})`],
      ["Bits a coordinate", "by the probability flow, of uniformly dequantised levels", found ? found.exact.toFixed(3) : "…"],
      ["Without a model", "bytes of the pixels as they are", `${raw} bytes`],
    ];
    for (const file of found?.files ?? []) {
      const hint = file.payload ? "the whole file, header and all, and what of it is the picture" : "the whole file";
      rows.push([file.name, file.missing ? "" : hint, file.missing ?? `${file.bytes} bytes${file.payload ? `, ${file.payload} of picture` : ""}`]);
    }
    $("measures").tBodies[0].replaceChildren(...rows.map(([name, hint, value]) => {
      const row = document.createElement("tr");
      const head = Object.assign(document.createElement("th"), { scope: "row", textContent: name });
      if (hint) head.append(Object.assign(document.createElement("small"), { textContent: hint }));
      row.append(head, Object.assign(document.createElement("td"), { textContent: value }));
      return row;
    }));
  }
}
