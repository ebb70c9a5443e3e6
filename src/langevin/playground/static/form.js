// What the tabs that ask a model for something have alike: a model, a form, a note, an error, a bar, a way to stop.

import { fill } from "./net.js";

export class ModelForm {
  // `slot` names the tab's elements and its requests; `models` are those that it offers.
  constructor(line, slot, models, none) {
    this.line = line;
    this.slot = slot;
    this.models = models;
    this.$ = (id) => document.getElementById(`${slot}-${id}`);
    fill(this.$("model"), models.map((model) => [model.name, model.name]));
    if (!models.length) {
      this.$("note").textContent = none;
      for (const field of this.$("form").elements) field.disabled = true;
    }
    this.$("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.$("stop").addEventListener("click", () => {
      line.cancel(slot);
      this.busy(false);
      this.$("note").textContent = "Stopped.";
    });
  }

  get model() {
    return this.models.find((model) => model.name === this.$("model").value);
  }

  // The class and the caption that are asked for; null where there is none.
  get told() {
    const label = this.$("label-box").hidden || this.$("label").value === "" ? null : Number(this.$("label").value);
    const caption = this.$("caption-box").hidden ? "" : this.$("caption").value.trim();
    return { label, caption: caption || null };
  }

  say(text) {
    this.$("error").textContent = text;
    this.$("error").hidden = !text;
  }

  busy(now) {
    this.$("stop").disabled = !now;
    this.$("progress").hidden = !now;
    this.$("form").querySelector("[type=submit]").disabled = now;
    if (now) this.$("progress").removeAttribute("value");
  }

  send(request, more = {}) {
    this.busy(true);
    this.line.ask(this.slot, request, {
      progress: (message) => (this.$("progress").value = message.done / message.total),
      result: (message) => {
        this.busy(false);
        this.done(message, request);
      },
      error: (message) => {
        this.busy(false);
        this.$("note").textContent = "";
        this.say(message.message);
      },
      ...more,
    });
  }
}

export const NO_MODEL = "No model was given. End the server and start it with one: langevin play MODEL.";
