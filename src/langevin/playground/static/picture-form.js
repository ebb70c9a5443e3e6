// What the tabs that ask something about a picture have alike: one of the model's held-out ones, or one's own.

import { ModelForm } from "./form.js";
import { unpack } from "./net.js";

export class PictureForm extends ModelForm {
  // `choices`: { models, most: { bytes } }. A tab says what to do with a new picture (`got`), what its controls are
  // under another model (`offer`), and how to drop what it shows of the picture before (`forget`).
  constructor(line, slot, choices, none) {
    super(line, slot, choices.models, none);
    this.choices = choices;
    this.index = 0;
    this.$("model").addEventListener("input", () => {
      this.offer();
      this.picture({ index: this.index });
    });
    this.$("next").addEventListener("click", () => this.picture({ index: ++this.index }));
    this.$("file").addEventListener("change", () => this.upload());
  }

  // The first picture is fetched when its place is looked at: an idle page asks for nothing.
  lookFor(canvas) {
    const shown = new IntersectionObserver((seen) => {
      if (!seen.some((one) => one.isIntersecting) || this.image) return;
      shown.disconnect();
      this.picture({ index: this.index });
    });
    shown.observe(canvas);
  }

  upload() {
    const file = this.$("file").files[0];
    if (!file) return;
    const most = this.choices.most.bytes;
    if (file.size > most) return this.say(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB; ${most / 2 ** 20} are the most.`);
    const reader = new FileReader();
    reader.onload = () => this.picture({ file: reader.result.split(",")[1] ?? "" }, file.name);
    reader.onerror = () => this.say(`${file.name} cannot be read.`);
    reader.readAsDataURL(file);
  }

  picture(which, name = "") {
    this.forget();
    this.$("note").textContent = "Fetching the picture …";
    const start = this.$("form").querySelector("[type=submit]");
    start.disabled = true;
    this.line.ask("picture", { model: this.model.name, ...which }, {
      result: (message) => {
        start.disabled = false;
        this.packed = message.image;
        this.image = unpack(message.image);
        const [, height, width] = this.image.shape;
        this.$("note").textContent = name ? `${name}: its central square, brought to ${width} × ${height}.` : "";
        this.got();
      },
      error: (message) => {
        start.disabled = false;
        this.$("note").textContent = "";
        this.$("file").value = "";
        this.say(name ? `${name}: ${message.message}` : message.message);
      },
    }, `${this.slot}-picture`);
  }
}
