// What is computed of embeddings, n rows of d numbers end to end: directions of most variance, cosines, neighbours.

// The two directions in which the rows differ most (PCA), by power iteration.
export function fit(rows, d) {
  const n = rows.length / d, mean = new Float64Array(d);
  rows.forEach((value, at) => (mean[at % d] += value / n));
  const centred = Float64Array.from(rows, (value, at) => value - mean[at % d]);
  const total = centred.reduce((sum, value) => sum + value * value, 0) || 1;
  const axes = [], shares = [];
  for (let axis = 0; axis < 2; axis++) {
    let direction = Float64Array.from({ length: d }, (_, at) => Math.sin(1 + at * (axis + 1.7))), size = 0;
    for (let turn = 0; turn < 80; turn++) {
      const next = new Float64Array(d);
      for (let row = 0; row < n; row++) {
        let along = 0;
        for (let at = 0; at < d; at++) along += centred[row * d + at] * direction[at];
        for (let at = 0; at < d; at++) next[at] += along * centred[row * d + at];
      }
      for (const other of axes) {
        const along = dot(next, other);
        for (let at = 0; at < d; at++) next[at] -= along * other[at];
      }
      size = Math.sqrt(dot(next, next));
      if (size < 1e-12) break;
      direction = next.map((value) => value / size);
    }
    axes.push(direction);
    shares.push(size / total);
  }
  return { mean, axes, shares };
}

export function project(rows, d, { mean, axes }) {
  const n = rows.length / d, points = new Float32Array(2 * n);
  for (let row = 0; row < n; row++)
    for (let at = 0; at < d; at++) {
      const value = rows[row * d + at] - mean[at];
      points[2 * row] += value * axes[0][at];
      points[2 * row + 1] += value * axes[1][at];
    }
  return points;
}

function dot(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at++) sum += one[at] * other[at];
  return sum;
}

export function cosines(rows, d) {
  const n = rows.length / d, unit = new Float32Array(rows.length), found = new Float32Array(n * n);
  for (let row = 0; row < n; row++) {
    const part = rows.subarray(row * d, (row + 1) * d), size = Math.sqrt(dot(part, part)) || 1;
    for (let at = 0; at < d; at++) unit[row * d + at] = part[at] / size;
  }
  for (let row = 0; row < n; row++)
    for (let other = row; other < n; other++) {
      let sum = 0;
      for (let at = 0; at < d; at++) sum += unit[row * d + at] * unit[other * d + at];
      found[row * n + other] = found[other * n + row] = sum;
    }
  return found;
}

// The nearest rows to each by cosine, nearest first.
export function nearest(similar, n, most = 5) {
  return Array.from({ length: n }, (_, row) => {
    const others = [];
    for (let other = 0; other < n; other++) {
      if (other === row) continue;
      const value = similar[row * n + other];
      let place = others.length;
      while (place && similar[row * n + others[place - 1]] < value) place--;
      if (place < most) others.splice(place, 0, other);
      if (others.length > most) others.pop();
    }
    return others;
  });
}

// The fewest digits that still mean the same float32.
export function short(value) {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
