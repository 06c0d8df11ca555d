// Proof: the same sequences, encoded alone and then in every company, and the largest difference that was found.

import { random } from "./maths.js";
import { costs } from "./models.js";
import { decode, encode, write } from "./service.js";
import { fail, useStore } from "./store.js";
import { count, Figure, Head, html, small } from "./view.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

const MOST = 24; // sequences that are compared
const TRIALS = 200; // requests
const PAUSE = 60; // milliseconds between two
const KEPT = 8; // trials that are told
const JUNK = [0, 1, -1, 1e9, -1e9, 3e38, -3e38];
const ALTERATIONS = { pad: "Pad with junk", mates: "Add batch mates", reorder: "Reorder" };
const NOTHING = { trials: 0, compared: 0, numbers: 0, difference: 0, equal: 0, last: [], shown: null };

export function Proof() {
  const { model, items } = useStore();
  const [wanted, setWanted] = useState({ pad: true, mates: true, reorder: true });
  const [state, setState] = useState(NOTHING), [isRunning, setRunning] = useState(false);
  const chosen = useRef(wanted);
  chosen.current = wanted;
  useEffect(() => setState(NOTHING), [model, items]);
  useEffect(() => {
    if (!isRunning || !items.length) return undefined;
    const stop = new AbortController();
    run(model, items.slice(0, MOST), () => chosen.current, setState, stop.signal)
      .catch((error) => stop.signal.aborted || fail(error))
      .finally(() => stop.signal.aborted || setRunning(false));
    return () => stop.abort();
  }, [isRunning, model, items]);
  if (!model) return null;
  const isText = model.kind === "text", isExact = model.isExact;
  return html`
    <${Head} title="Proof">
      ${isExact
        ? "Padding, junk in the padding, batch mates and order never change an embedding. Do not take our word for it: each trial is a request to this service, and every bit is compared with what the same sequence gave alone."
        : "Eight-bit weights and GPUs trade bits for speed. Each trial is a request to this service; what it gives is compared with what the same sequence gave alone."}
    </${Head}>
    <fieldset class="alter"><legend>In each trial</legend>
      ${Object.entries(ALTERATIONS).map(([name, label]) => html`
        <label key=${name} class=${isText && name === "pad" ? "off" : ""}><input type="checkbox" checked=${wanted[name] && !(isText && name === "pad")} disabled=${isText && name === "pad"} onChange=${() => setWanted({ ...wanted, [name]: !wanted[name] })} /> ${label}</label>`)}
      <button class="main" disabled=${!items.length} onClick=${() => { if (!isRunning) setState(NOTHING); setRunning(!isRunning); }}>${isRunning ? "Stop" : state.trials ? "Run again" : "Run the proof"}</button>
    </fieldset>
    <div class="verdicts" role="status" aria-live=${isRunning ? "off" : "polite"}>
      <p class=${`zero ${!state.trials ? "idle" : state.difference ? "some" : ""}`}><output aria-label="Largest difference">${state.trials ? small(state.difference) : "–"}</output></p>
      <div>
        <p class="lead">${state.trials
          ? html`largest difference in ${count(state.numbers)} numbers. ${state.equal === state.compared ? `All ${count(state.compared)} embeddings had the same bits as alone.` : `${count(state.equal)} of ${count(state.compared)} embeddings had the same bits as alone.`}`
          : `${Math.min(MOST, items.length)} sequences from Try are ready. Nothing was compared yet.`}</p>
        <dl class="figures">
          <${Figure} label="trials" value=${count(state.trials)} />
          <${Figure} label="embeddings compared" value=${count(state.compared)} />
          <${Figure} label="numbers compared" value=${count(state.numbers)} />
        </dl>
      </div>
    </div>
    ${state.shown && html`<${Shown} trial=${state.shown} />`}
    ${state.last.length > 0 && html`
      <section aria-labelledby="last-title"><h2 id="last-title">The last trials</h2>
        <ol class="trials">${state.last.map((one) => html`<li key=${one.number}><span class="number">${one.number}</span> ${one.told} <b>${one.difference === 0 ? "0" : small(one.difference)}</b></li>`)}</ol>
      </section>`}
    ${model.manifest?.quantization && html`
      <section class="int8" aria-labelledby="int8-title"><h2 id="int8-title">What int8 costs, measured at export</h2>
        <dl class="facts">${costs(model.manifest.quantization).filter(([, value]) => value !== null).map(([label, value]) => html`<div key=${label}><dt>${label}</dt><dd>${value}</dd></div>`)}</dl>
      </section>`}`;
}

// The last request as it was sent: what was asked for, who came along, and what padded it.
function Shown({ trial }) {
  const most = trial.padded;
  return html`
    <figure class="shown"><figcaption><h2>The last request</h2><span><i class="key ink"></i> compared <i class="key mate"></i> batch mates <i class="key junk"></i> junk</span></figcaption>
      <div role="img" aria-label=${`${trial.rows.length} sequences of ${Math.min(...trial.rows.map((row) => row.length))} to ${Math.max(...trial.rows.map((row) => row.length))} steps, padded to ${most}.`}>
        ${trial.rows.map((row, index) => html`<div key=${index} class="bar"><i class=${row.isMate ? "mate" : "ink"} style=${{ width: `${(100 * row.length) / most}%` }}></i>${trial.isPadded && html`<i class="junk" style=${{ width: `${(100 * (most - row.length)) / most}%` }}></i>`}</div>`)}
      </div>
    </figure>`;
}

async function run(model, items, wanted, tell, signal) {
  const draw = random(Date.now()), field = model.kind === "text" ? "texts" : "sequences";
  const rows = items.map((item) => write(item, model.features)), alone = [];
  for (const row of rows) {
    if (signal.aborted) return;
    alone.push((await encode({ model: model.full, [field]: [row] })).embeddings[0]);
  }
  let state = NOTHING;
  for (let number = 1; number <= TRIALS && !signal.aborted; number++) {
    const trial = compose(model, items, rows, wanted(), draw);
    const answer = await encode({ model: model.full, ...trial.body });
    if (signal.aborted) return;
    let difference = 0, equal = 0;
    trial.rows.forEach(({ of }, place) => {
      if (of === undefined) return;
      if (answer.embeddings[place] === alone[of]) equal++;
      else decode(answer.embeddings[place]).forEach((value, at) => (difference = Math.max(difference, Math.abs(value - decode(alone[of])[at]))));
    });
    const compared = trial.rows.filter((row) => !row.isMate).length;
    state = {
      trials: number,
      compared: state.compared + compared,
      numbers: state.numbers + compared * model.dim,
      difference: Math.max(state.difference, difference),
      equal: state.equal + equal,
      last: [{ number, told: trial.told, difference }, ...state.last].slice(0, KEPT),
      shown: trial,
    };
    tell(state);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

// A request of some of the sequences, altered at random as it is wanted.
function compose(model, items, rows, wanted, draw) {
  const whole = (most) => 1 + Math.floor(draw() * most);
  let chosen = rows.map((row, of) => ({ of, row, length: items[of].length }));
  const told = [];
  if (wanted.reorder) {
    for (let at = chosen.length - 1; at; at--) {
      const other = Math.floor(draw() * (at + 1));
      [chosen[at], chosen[other]] = [chosen[other], chosen[at]];
    }
    chosen = chosen.slice(0, whole(chosen.length));
    told.push(`${chosen.length} in another order`);
  } else told.push(`all ${chosen.length} in order`);
  if (wanted.mates) {
    const mates = whole(6);
    for (let mate = 0; mate < mates; mate++) chosen.splice(Math.floor(draw() * (chosen.length + 1)), 0, makeMate(model, items, whole, draw));
    told.push(`among ${mates} batch ${mates === 1 ? "mate" : "mates"}`);
  }
  const longest = Math.max(...chosen.map((one) => one.length)), isPadded = wanted.pad && model.kind !== "text";
  const padded = longest + (isPadded ? whole(40) : 0);
  const sent = { rows: chosen.map(({ of, length }) => ({ of, length, isMate: of === undefined })), isPadded, padded };
  if (!isPadded) return { ...sent, told: told.join(", "), body: { [model.kind === "text" ? "texts" : "sequences"]: chosen.map((one) => one.row) } };
  told.push(`padded to ${padded} steps of junk`);
  const junk = () => JUNK[Math.floor(draw() * JUNK.length)];
  const step = model.kind === "features" ? () => Array.from({ length: model.features }, junk) : () => (model.vocabulary ? whole(model.vocabulary - 1) : whole(9));
  const sequences = chosen.map(({ row, length }) => [...row, ...Array.from({ length: padded - length }, step)]);
  return { ...sent, told: told.join(", "), body: { sequences, lengths: chosen.map((one) => one.length) } };
}

function makeMate(model, items, whole, draw) {
  if (model.kind === "text") {
    const words = items.flatMap((item) => item.text.split(/\s+/)), length = whole(12);
    return { row: Array.from({ length }, () => words[Math.floor(draw() * words.length)]).join(" "), length };
  }
  const length = whole(60);
  const step = model.kind === "features" ? () => Array.from({ length: model.features }, () => Math.fround(8 * draw() - 4)) : () => whole((model.vocabulary ?? 10) - 1);
  return { row: Array.from({ length }, step), length };
}
