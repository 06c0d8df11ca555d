// Reads files, encodes and computes beside the page, so that the page always answers its reader.

import { cosines, fit, nearest, project } from "./maths.js";
import { readFile, readText } from "./reading.js";
import { decode, encode, setKey, write } from "./service.js";

const PORTION = 256; // sequences in a request
const PORTION_BYTES = 2 ** 20;

const TASKS = {
  read: async ({ file, text, name, model }) => (file ? readFile(file, model) : readText(text, name, model)),

  encode: async ({ sequences, model, limits, key }) => {
    setKey(key);
    const field = sequences[0]?.text !== undefined ? "texts" : "sequences";
    const rows = [], predictions = [], began = performance.now();
    const wanted = model.predicts ? { outputs: ["embedding", "prediction"] } : {};
    let timing = "";
    for (const part of portion(sequences, model, limits)) {
      const answer = await encode({ model: model.name, ...wanted, [field]: part });
      timing = answer.timing;
      rows.push(...answer.embeddings.map(decode));
      predictions.push(...(answer.prediction ?? []));
    }
    const embeddings = new Float32Array(rows.length * model.dim);
    rows.forEach((row, at) => embeddings.set(row, at * model.dim));
    return { embeddings, predictions, timing, milliseconds: performance.now() - began };
  },

  analyse: async ({ embeddings, dim, base }) => {
    const n = embeddings.length / dim;
    const basis = fit(embeddings.subarray(0, (base >= 3 ? base : n) * dim), dim);
    const similar = cosines(embeddings, dim);
    let peak = 0;
    for (const value of embeddings) peak = Math.max(peak, Math.abs(value));
    return { points: project(embeddings, dim, basis), shares: basis.shares, similar, neighbours: nearest(similar, n), peak };
  },
};

function* portion(sequences, model, limits) {
  let part = [], steps = 0, size = 0;
  for (const sequence of sequences) {
    const cost = sequence.text?.length ?? 12 * sequence.values.length;
    if (part.length && (part.length === PORTION || steps + sequence.length > limits.max_request_steps || size + cost > Math.min(PORTION_BYTES, limits.max_body_bytes))) {
      yield part;
      part = [], steps = 0, size = 0;
    }
    part.push(write(sequence, model.features));
    steps += sequence.length;
    size += cost;
  }
  if (part.length) yield part;
}

onmessage = async ({ data: { id, task, given } }) => {
  try {
    postMessage({ id, result: await TASKS[task](given) });
  } catch (error) {
    postMessage({ id, fault: error.message, status: error.status });
  }
};
