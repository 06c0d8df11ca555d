// What the page knows, in one place, and what changes it.

import { random } from "./maths.js";
import { askJson, setKey } from "./service.js";
import { useEffect, useState } from "./vendor/hooks.js";

export const state = {
  access: { key: false, admin: false },
  key: sessionStorage.getItem("key") ?? "",
  wantsKey: false,
  info: null,
  models: [],
  model: null,
  items: [], // the sequences of Try: those that the map is fitted on come first
  base: 0,
  found: null, // what the service and the worker found of them
  selected: 0,
  busy: false,
  told: "", // for screen readers, and for all who wait
  fault: "",
};
setKey(state.key);

const listeners = new Set();

export function change(patch) {
  Object.assign(state, patch);
  for (const listen of listeners) listen();
}

export function useStore() {
  const [, tick] = useState(0);
  useEffect(() => {
    const listen = () => tick((turn) => turn + 1);
    listeners.add(listen);
    listen(); // what changed before
    return () => listeners.delete(listen);
  }, []);
  return state;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change({}));

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let tasks = 0;

worker.onmessage = ({ data: { id, result, fault, status } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (fault === undefined) resolve(result);
  else reject(Object.assign(new Error(fault), { status }));
};

export function work(task, given) {
  return new Promise((resolve, reject) => {
    waiting.set(++tasks, { resolve, reject });
    worker.postMessage({ id: tasks, task, given });
  });
}

export async function boot() {
  try {
    const access = await askJson("page/access");
    if (access.key && !state.key) return change({ access, wantsKey: true });
    change({ access });
    await enter();
  } catch (error) {
    fail(error);
  }
}

export async function giveKey(key) {
  setKey(key);
  sessionStorage.setItem("key", key); // until the tab is closed
  change({ key, wantsKey: false, fault: "" });
  await enter();
}

export function forgetKey() {
  setKey("");
  sessionStorage.removeItem("key");
  change({ key: "", wantsKey: true, info: null, model: null, models: [], items: [], found: null });
}

async function enter() {
  try {
    const info = await askJson("info");
    const models = info.models.map(describe);
    change({ info, models, wantsKey: false, fault: "" });
    if (models.length) await chooseModel((models.find((one) => one.names.includes(info.default_model)) ?? models[0]).name);
    else change({ fault: "No model is served yet." });
  } catch (error) {
    fail(error);
  }
}

// The part of a model's description that the page works with.
function describe(model) {
  const kind = model.reads.includes("texts") ? "text" : model.features === null ? "tokens" : "features";
  const name = model.names.includes(model.name) ? model.name : model.names[0];
  return { ...model, kind, name, columns: model.manifest?.input.columns ?? [], full: `${model.name}@${model.version}`, predicts: model.outputs.includes("prediction") && model.manifest.prediction.kind, isExact: !model.manifest?.quantization && model.provider === "cpu" };
}

export async function chooseModel(name) {
  const model = state.models.find((one) => one.name === name);
  change({ model, items: [], found: null, selected: 0, fault: "", told: "" });
  try {
    await showExamples();
  } catch (error) {
    fail(error);
  }
}

export async function showExamples() {
  const { model } = state, given = await askJson(`page/examples?model=${encodeURIComponent(model.full)}`);
  const items = given.examples.map((one) => readExample(one, given, model));
  await put(items, { isNew: true });
}

function readExample(one, given, model) {
  if (one.text !== undefined) return { name: one.text, text: one.text, length: one.text.split(" ").length, values: null, group: "example" };
  const isWhole = one.start === 0 && !given.examples.some((other) => other.of === one.of && other.stop > one.stop);
  const name = `${given.golden ? "golden" : "made"} ${one.of}${isWhole ? "" : ` · ${one.start + 1}–${one.stop}`}`;
  const values = model.kind === "features" ? Float32Array.from(one.sequence.flat()) : Int32Array.from(one.sequence);
  return { name, length: one.sequence.length, values, group: "example" };
}

// Puts sequences beside those that are there, or in their place, and has all that are new encoded.
export async function put(items, { isNew = false, note = "" } = {}) {
  const { model } = state, before = isNew ? [] : state.items, all = [...before, ...items];
  const base = isNew ? items.length : state.base;
  change({ busy: true, fault: "", told: `Encoding ${items.length} ${items.length === 1 ? "sequence" : "sequences"}…` });
  try {
    const { settings } = state.info;
    const limits = { max_request_steps: settings.max_request_steps, max_body_bytes: settings.max_body_bytes };
    const sequences = items.map(({ text, length, values }) => ({ text, length, values }));
    const encoded = await work("encode", { sequences, model: plain(model), limits, key: state.key });
    const embeddings = new Float32Array(all.length * model.dim);
    if (before.length) embeddings.set(state.found.embeddings);
    embeddings.set(encoded.embeddings, before.length * model.dim);
    const predictions = [...(before.length ? state.found.predictions : []), ...encoded.predictions];
    const found = await work("analyse", { embeddings, dim: model.dim, base });
    if (model !== state.model) return; // another was chosen meanwhile
    if (!state.found) performance.mark("usable");
    const steps = items.reduce((sum, item) => sum + item.length, 0);
    change({
      items: all, base, busy: false, found: { ...found, embeddings, predictions, timing: encoded.timing },
      selected: isNew ? 0 : before.length,
      told: `${items.length} ${items.length === 1 ? "sequence" : "sequences"}, ${steps.toLocaleString("en")} ${model.kind === "text" ? "words" : "steps"}, encoded in ${encoded.milliseconds.toFixed(0)} ms.${note}`,
    });
  } catch (error) {
    fail(error);
  }
}

export async function take(source, group) {
  const { model } = state;
  change({ busy: true, fault: "", told: `Reading ${source.name}…` });
  try {
    const items = await work("read", { ...source, model: plain(model) });
    items.forEach((item) => Object.assign(item, { name: item.text ?? (items.length === 1 ? source.name : `${source.name} ${item.name}`), group }));
    const isNew = items.length >= 3; // enough to span a map of their own
    await put(items, { isNew, note: items[0]?.note });
  } catch (error) {
    fail(error);
  }
}

// Sequences made of the selected one, to see where they land.
export const VARIATIONS = {
  half: ["First half", (item, width) => cut(item, 0, Math.ceil(item.length / 2), width)],
  reversed: ["Reversed", (item, width) => pick(item, width, (t) => item.length - 1 - t)],
  shuffled: ["Shuffled", (item, width) => {
    const draw = random(item.length), order = Array.from({ length: item.length }, (_, t) => t);
    for (let t = item.length - 1; t; t--) {
      const other = Math.floor(draw() * (t + 1));
      [order[t], order[other]] = [order[other], order[t]];
    }
    return pick(item, width, (t) => order[t]);
  }],
  twice: ["Twice", (item, width) => pick(item, width, (t) => t % item.length, 2 * item.length)],
};

export async function vary(name) {
  const item = state.items[state.selected], [label, make] = VARIATIONS[name];
  const made = make(item, state.model.kind === "features" ? state.model.features : 1);
  await put([{ ...made, name: `${item.name}, ${label.toLowerCase()}`, group: "made" }]);
}

function cut(item, start, stop, width) {
  return pick(item, width, (t) => start + t, stop - start);
}

function pick(item, width, from, length = item.length) {
  if (item.text !== undefined) {
    const words = item.text.split(/\s+/);
    const text = Array.from({ length }, (_, t) => words[from(t)]).join(" ");
    return { text, length, values: null };
  }
  const values = new item.values.constructor(length * width);
  for (let t = 0; t < length; t++) values.set(item.values.subarray(from(t) * width, (from(t) + 1) * width), t * width);
  return { length, values };
}

function plain({ name, full, kind, features, columns, vocabulary, dim, predicts }) {
  return { name: full ?? name, kind, features, columns, vocabulary, dim, predicts };
}

export function fail(error) {
  if (error.status === 401) {
    const had = state.key;
    forgetKey();
    return change({ access: { ...state.access, key: true }, busy: false, told: "", fault: had ? "That key is not known to the service." : "" });
  }
  change({ busy: false, told: "", fault: error.message });
}
