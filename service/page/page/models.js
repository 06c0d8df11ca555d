// Models: what each artifact says of itself, and the proof that it carries.

import { useStore } from "./store.js";
import { bytes, count, Head, html, small } from "./view.js";

const SHOWN = 12; // names of classes or columns

export function Models() {
  const { models, info } = useStore();
  if (!info) return null;
  return html`
    <${Head} title="Models">What is verified is what is served: the golden vectors in each file were replayed here before its first answer.</${Head}>
    ${models.map((model) => html`<${Model} key=${model.full} model=${model} />`)}
    ${info.refused.length > 0 && html`
      <section><h2>Not served</h2><dl class="facts">${info.refused.map((one) => html`<div key=${one.file}><dt>${one.file}</dt><dd>${one.reason}</dd></div>`)}</dl></section>`}`;
}

function Model({ model }) {
  const { manifest } = model;
  return html`
    <article class="model" aria-labelledby=${`model-${model.full}`}>
      <h2 id=${`model-${model.full}`}>${model.name} <span>version ${model.version}</span></h2>
      <p class="verdict">${model.verified
        ? html`<b class="yes">Verified.</b> Its golden vectors replay here within ${small(model.golden_difference)}.`
        : html`<b class="no">Unverified.</b> The file carries no golden vectors, so nothing could be replayed.`}</p>
      <div class="two">
        <div>
          <h3>What it is</h3>
          <${Facts} facts=${describe(model)} />
          ${manifest?.task && html`<h3>What it learned</h3><${Facts} facts=${learned(manifest.task, manifest)} />`}
        </div>
        <div>
          ${manifest?.quantization && html`<h3>What int8 costs</h3><${Facts} facts=${costs(manifest.quantization)} />`}
          ${manifest?.parity?.length > 0 && html`<h3>Proof</h3><${Proof} parity=${manifest.parity} />`}
        </div>
      </div>
    </article>`;
}

function Facts({ facts }) {
  return html`<dl class="facts">${facts.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([label, value]) => html`<div key=${label}><dt>${label}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function describe(model) {
  const { manifest } = model, encoder = manifest?.encoder ?? {};
  const cell = [encoder.bidirectional ? "bidirectional" : "", encoder.cell?.toUpperCase() ?? ""].filter(Boolean).join(" ");
  return [
    ["reads", { features: `${model.features} numbers a step${model.columns.length ? `: ${some(model.columns)}` : ""}`, tokens: `token ids below ${model.vocabulary}`, text: "texts, or their token ids" }[model.kind]],
    ["gives", `${model.dim} numbers${model.outputs.length > 1 ? `; on request ${model.outputs.slice(1).join(" and ")}` : ""}`],
    ["encoder", cell && `${cell}, ${encoder.layers} ${encoder.layers === 1 ? "layer" : "layers"} of ${encoder.hidden}`],
    ["pooling", manifest?.pooling],
    ["runs on", `${model.provider === "cuda" ? "GPU" : "CPU"}${manifest?.quantization ? ", int8" : ", float32"}`],
    ["longest sequence in training", manifest?.longest_training_sequence && `${manifest.longest_training_sequence} steps`],
    ["memory", model.memory_bytes ? bytes(model.memory_bytes) : null],
    ["file", model.file],
    ["exported", manifest?.created?.slice(0, 10)],
    ["source", manifest?.source],
    ["licence", manifest?.licence],
    ["SHA-256", html`<code>${model.sha256}</code>`],
  ];
}

function learned(task, manifest) {
  const metrics = Object.entries(task.metrics).map(([name, value]) => [name.replaceAll("_", " "), small(value)]);
  return [["task", `${task.name} on ${task.dataset}`], ["classes", task.classes.length ? `${count(task.classes.length)}: ${some(task.classes)}` : null], ...metrics];
}

function some(names) {
  return `${names.slice(0, SHOWN).join(", ")}${names.length > SHOWN ? ", …" : ""}`;
}

export function costs(cost) {
  const share = (value) => (value === null ? null : `${(100 * value).toFixed(1)} %`);
  return [
    ["largest difference to float32", small(cost.max_error)],
    ["mean difference", small(cost.mean_error)],
    ["cosine, median", cost.cosine_median.toFixed(4)],
    ["cosine, worst of a hundred", cost.cosine_p1.toFixed(4)],
    ["accuracy", cost.accuracy_before === null ? null : `${share(cost.accuracy_before)} became ${share(cost.accuracy_after)}`],
    ["alone and in a batch differ by", small(cost.batch_difference)],
    ["speed", `${cost.speed_up.toFixed(2)} times float32's, on ${cost.cpu}`],
    ["compared on", `${count(cost.sequences)} held-out sequences`],
  ];
}

function Proof({ parity }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Proof">
      <table>
        <thead><tr><th scope="col">claim</th><th scope="col" class="number">cases</th><th scope="col" class="number">largest difference</th><th scope="col" class="number">allowed</th></tr></thead>
        <tbody>${parity.map((check) => html`<tr key=${check.claim}><th scope="row">${check.claim}</th><td class="number">${count(check.cases)}</td><td class="number">${small(check.max_difference)}</td><td class="number">${small(check.tolerance)}</td></tr>`)}</tbody>
      </table>
    </div>`;
}
