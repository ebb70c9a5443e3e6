// What a picture of a world is made of: a density, arrows, dots. Places are in half-widths of the picture, −1 … 1.

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A number in few characters.
export const level = (x) => (x === 0 ? "0" : Math.abs(x) >= 0.01 && Math.abs(x) < 1000 ? x.toPrecision(3) : x.toExponential(1));

export const NAMES = {
  ring: "Ring of eight", two: "Two unequal", mixture: "Mixture of six", moons: "Moons", spiral: "Spiral",
  checkerboard: "Checkerboard", drawn: "Your own drawing",
};

// An empty square canvas of as many pixels as the screen has there: its context, its size, and from places to pixels.
export function square(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const size = Math.round(canvas.clientWidth * ratio);
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, size, size);
  return { context, size, ratio, to: (x, y) => [((x + 1) / 2) * size, ((1 - y) / 2) * size] };
}

// A figure of a picture and its caption.
export function figure() {
  const made = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  canvas.setAttribute("role", "img");
  made.append(canvas, caption);
  return { canvas, caption, figure: made };
}

// `count` dots, each where `place(k)` says.
export function dots({ context, ratio, to }, count, place) {
  context.fillStyle = `rgba(${colour("particle")}, 0.75)`;
  const dot = 2.4 * ratio;
  for (let k = 0; k < count; k++) {
    const [u, v] = to(...place(k));
    context.fillRect(u - dot / 2, v - dot / 2, dot, dot);
  }
}

// The density of a frame.
export function density({ context, size }, array, at) {
  const [, rows, columns] = array.shape;
  const picture = new ImageData(columns, rows);
  const [r, g, b] = colour("density").split(",").map(Number);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = array.values[(at * rows + row) * columns + column];
      picture.data.set([r, g, b, value * 0.75], ((rows - 1 - row) * columns + column) * 4);
    }
  }
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, size, size);
}

// The score of a frame: full length is three standard deviations of the noise, or more.
export function arrows({ context, size, to }, array, at) {
  const [, rows, columns] = array.shape;
  context.strokeStyle = `rgb(${colour("score")})`;
  context.lineWidth = size / 500;
  context.beginPath();
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const k = ((at * rows + row) * columns + column) * 2;
      const [x, y] = [((column + 0.5) / columns) * 2 - 1, ((row + 0.5) / rows) * 2 - 1];
      const [u, v] = [array.values[k], array.values[k + 1]];
      const long = Math.hypot(u, v);
      if (!long) continue;
      const reach = (1.7 / columns) * Math.min(1, long / 3) / long;
      const [x0, y0] = to(x, y);
      const [x1, y1] = to(x + u * reach, y + v * reach);
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      const turn = Math.atan2(y1 - y0, x1 - x0);
      for (const side of [2.6, -2.6]) {
        context.moveTo(x1, y1);
        context.lineTo(x1 + (Math.cos(turn + side) * size) / 120, y1 + (Math.sin(turn + side) * size) / 120);
      }
    }
  }
  context.stroke();
}

// An array of bytes, channels × height × width, grey or in colour.
export function show(canvas, { shape: [channels, height, width], values }) {
  canvas.width = width;
  canvas.height = height;
  const picture = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    const value = (channel) => values[(channels === 3 ? channel : 0) * height * width + i];
    picture.data.set([value(0), value(1), value(2), 255], i * 4);
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
