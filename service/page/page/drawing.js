// Draws sequences, embeddings, the map and the matrix, in the colours of the style sheet.

let known = { theme: null, colours: {} };

export function colours() {
  const theme = matchMedia("(prefers-color-scheme: dark)").matches;
  if (known.theme !== theme) {
    const style = getComputedStyle(document.documentElement);
    const names = ["paper", "ink", "muted", "rule", "accent", "warm", "low", "zero", "high"];
    known = { theme, colours: Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])) };
  }
  return known.colours;
}

function channels(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

// Returns a function from -1..1 to a colour between low, zero and high, as a pixel has it.
function ramp(from = "low", middle = "zero", to = "high") {
  const [low, zero, high] = [from, middle, to].map((name) => channels(colours()[name]));
  const pixels = Uint32Array.from({ length: 511 }, (_, at) => {
    const value = (at - 255) / 255, end = value < 0 ? low : high, share = Math.abs(value) ** 0.75;
    const [red, green, blue] = zero.map((channel, place) => Math.round(channel + (end[place] - channel) * share));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
  return (value) => pixels[255 + Math.round(255 * Math.max(-1, Math.min(1, value)))];
}

function makeImage(columns, rows, colour) {
  const image = new ImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < pixels.length; at++) pixels[at] = colour(at);
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function paint(context, image, width, height) {
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, width, height);
}

// An embedding as a strip, a colour a number.
export function drawStrip(context, width, height, row, peak) {
  const colour = ramp();
  paint(context, makeImage(row.length, 1, (at) => colour(row[at] / peak)), width, height);
}

// A sequence as lines, as wide as it is long; as a small heat map if it has many features.
export function drawSequence(context, width, height, item, features, longest, { lows, highs }) {
  const own = Math.max(4, (width * item.length) / longest), { values, length } = item;
  if (!(values instanceof Float32Array)) return drawTokens(context, own, height, item);
  if (features > 24) {
    const colour = ramp();
    const image = makeImage(length, features, (at) => {
      const f = Math.floor(at / length);
      return colour((2 * (values[(at % length) * features + f] - lows[f])) / (highs[f] - lows[f] || 1) - 1);
    });
    return paint(context, image, own, height);
  }
  context.lineWidth = 1;
  context.strokeStyle = context.fillStyle = colours().ink;
  context.globalAlpha = features === 1 ? 0.9 : Math.max(0.28, 0.9 / Math.sqrt(features));
  for (let f = 0; f < features; f++) {
    const low = lows[f], spread = highs[f] - low || 1;
    context.beginPath();
    const stride = Math.max(1, Math.floor(length / (2 * own)));
    for (let t = 0; t < length; t += stride) {
      const x = length === 1 ? 2 : 1 + ((own - 2) * t) / (length - 1), y = height - 2 - ((height - 4) * (values[t * features + f] - low)) / spread;
      if (length === 1) context.fillRect(1, y, 3, 1);
      else context[t ? "lineTo" : "moveTo"](x, y);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
  return undefined;
}

function drawTokens(context, width, height, item) {
  const each = width / item.length;
  context.fillStyle = colours().ink;
  item.values.forEach((id, t) => {
    context.globalAlpha = 0.2 + 0.7 * ((id * 0.618) % 1);
    context.fillRect(t * each, 5, Math.max(1, each - 1), height - 10);
  });
  context.globalAlpha = 1;
}

const matrices = new WeakMap(); // images, by the cosines that they show, until the theme changes

function makeMatrix(similar, n) {
  const known = matrices.get(similar), { zero } = colours();
  if (known?.zero === zero) return known.image;
  const colour = ramp("low", "zero", "accent");
  let least = 1;
  for (const value of similar) if (value < least) least = value;
  const image = makeImage(n, n, (at) => colour((similar[at] - least) / (1 - least || 1)));
  matrices.set(similar, { zero, image });
  return image;
}

export function drawMatrix(context, size, similar, n, selected) {
  paint(context, makeMatrix(similar, n), size, size);
  if (selected < 0) return;
  const each = size / n;
  context.strokeStyle = colours().warm;
  context.lineWidth = 1.5;
  context.strokeRect(0.75, selected * each + 0.75, size - 1.5, Math.max(each - 1.5, 1));
  context.strokeRect(selected * each + 0.75, 0.75, Math.max(each - 1.5, 1), size - 1.5);
}

// Where each point of the map lies on a canvas.
export function place(points, width, height) {
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let at = 0; at < points.length; at += 2) {
    left = Math.min(left, points[at]), right = Math.max(right, points[at]);
    low = Math.min(low, points[at + 1]), high = Math.max(high, points[at + 1]);
  }
  const margin = 18, scale = Math.min((width - 2 * margin) / (right - left || 1), (height - 2 * margin) / (high - low || 1));
  const across = (width - scale * (right - left)) / 2, down = (height - scale * (high - low)) / 2;
  return Float32Array.from(points, (value, at) => (at % 2 ? height - down - scale * (value - low) : across + scale * (value - left)));
}

export function drawMap(context, width, height, { spots, items, neighbours, selected, hovered }) {
  const { ink, accent, warm, rule, paper } = colours();
  const at = (index) => [spots[2 * index], spots[2 * index + 1]];
  context.strokeStyle = warm;
  context.lineWidth = 1;
  for (const other of neighbours[selected]?.slice(0, 3) ?? []) {
    context.beginPath();
    context.moveTo(...at(selected));
    context.lineTo(...at(other));
    context.stroke();
  }
  const size = items.length > 150 ? 2.5 : 4;
  items.forEach((item, index) => {
    const [x, y] = at(index);
    context.beginPath();
    if (item.group === "example") context.arc(x, y, size, 0, 7);
    else context.rect(x - size, y - size, 2 * size, 2 * size);
    context.fillStyle = item.group === "example" ? ink : accent;
    context.globalAlpha = items.length > 150 ? 0.6 : 0.85;
    context.fill();
  });
  context.globalAlpha = 1;
  for (const [index, colour] of [[hovered, rule], [selected, warm]]) {
    if (index === undefined || index < 0 || index >= items.length) continue;
    context.beginPath();
    context.arc(...at(index), size + 4.5, 0, 7);
    context.strokeStyle = colour === rule ? ink : colour;
    context.lineWidth = 2;
    context.stroke();
  }
  context.fillStyle = paper;
}

// The sequences of a batch, one under the other: valid steps, and what pads them.
export function drawBatch(context, width, height, lengths, longest) {
  const { ink, rule } = colours(), most = lengths[lengths.length - 1], each = height / lengths.length;
  const whole = Math.max(3, (width * most) / longest);
  context.fillStyle = rule;
  context.fillRect(0, 0, whole, height);
  context.fillStyle = ink;
  const gap = each > 3 ? 1 : 0;
  lengths.forEach((length, row) => context.fillRect(0, row * each, Math.max(1, (whole * length) / most), each - gap));
}
