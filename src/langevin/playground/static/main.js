import { Line } from "./net.js";
import { Worlds } from "./worlds.js";
import { Train } from "./train.js";
import { Generate } from "./generate.js";
import { Compare } from "./compare.js";
import { Restore } from "./restore.js";
import { Codes } from "./codes.js";

const $ = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab, focus = false) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  window.dispatchEvent(new Event("resize")); // canvases that were hidden have no size until now
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(tabs[(i + step + tabs.length) % tabs.length], true);
    if (event.key === "Home") show(tabs[0], true);
    if (event.key === "End") show(tabs.at(-1), true);
  });
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText($(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } catch {
    const range = document.createRange(); // no permission: select it, for the keyboard to copy
    range.selectNodeContents($(button.dataset.copy));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = "Press Ctrl-C";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

try {
  const choices = await (await fetch("/choices")).json();
  const line = new Line($("connection"));
  new Worlds(line, choices.worlds, choices.families);
  new Train(line, choices);
  new Generate(line, choices.generate, choices.families);
  new Compare(line, choices.generate, choices.families);
  new Restore(line, choices);
  new Codes(line, choices);
  show(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
  document.body.dataset.ready = "yes";
} catch (error) {
  $("connection").textContent = `The playground could not start: ${error.message}`;
  throw error;
}
