// A line chart as SVG: it is as sharp as the screen, and takes its colours from the page's style.

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [420, 240, 52, 40, 12, 22];

const element = (name, given, text) => {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

const short = (x) => (x !== 0 && (Math.abs(x) < 0.01 || Math.abs(x) >= 1e5) ? x.toExponential(0) : String(Number(x.toPrecision(3))));

// From a value to a place on an axis, and its ticks: decades of a logarithmic one, else about five round numbers.
function axis([low, high], log, from, to) {
  const scale = log ? Math.log10 : (x) => x;
  const at = (x) => from + ((scale(x) - scale(low)) / (scale(high) - scale(low) || 1)) * (to - from);
  const ticks = [];
  if (log) {
    for (let k = Math.ceil(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k++) ticks.push(10 ** k);
  } else {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const each = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
    for (let k = Math.ceil(low / each); k <= high / each + 1e-9; k++) ticks.push(k * each);
  }
  return { at, ticks };
}

// `lines`: { kind, points: [[x, y], …] }, drawn with the class `kind`; `marks`: places x with a vertical line.
export function chart(svg, { x, y, lines, marks = [], title }) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const across = axis(x.range, x.log, LEFT, WIDTH - RIGHT);
  const up = axis(y.range, y.log, HEIGHT - BOTTOM, TOP);
  const made = [];
  for (const tick of up.ticks) {
    const at = up.at(tick);
    made.push(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
    made.push(element("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of across.ticks) {
    made.push(element("text", { x: across.at(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, short(tick)));
  }
  made.push(element("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x.name));
  for (const mark of marks) {
    made.push(element("line", { class: "mark", x1: across.at(mark), x2: across.at(mark), y1: TOP, y2: HEIGHT - BOTTOM }));
  }
  const inside = (value, [low, high]) => Math.min(high, Math.max(low, value));
  for (const { kind, points } of lines) {
    const path = points.map(([u, v]) => `${across.at(u).toFixed(1)},${up.at(inside(v, y.range)).toFixed(1)}`).join(" ");
    made.push(element("polyline", { class: kind, points: path }));
  }
  svg.replaceChildren(...made);
}
