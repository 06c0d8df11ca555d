// Try: the sequences, what the service made of them, and where each lies among the others.

import { drawMap, drawMatrix, drawSequence, drawStrip, place } from "./drawing.js";
import { save } from "./export.js";
import { short } from "./maths.js";
import { Request } from "./requests.js";
import { change, showExamples, take, useStore, VARIATIONS, vary } from "./store.js";
import { Canvas, Head, html, small, useWidth } from "./view.js";
import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";

const ROW = 38; // pixels
const SHOWN = 17; // rows
const GUESSES = 8; // of a sequence, the likeliest
const PREDICTED = { class: "the class", number: "a number", token: "the next token" };

export function Try() {
  const { model, items, found, fault, told, busy } = useStore();
  if (!model) return null;
  return html`
    <${Head} title="Try">
      Sequences of any length in, one vector of ${model.dim} numbers each out.
      ${" "}${model.kind === "features" ? html`This model reads <b>${model.features}</b> ${model.features === 1 ? "number" : "numbers"} a step.` : model.kind === "tokens" ? html`This model reads token ids${model.vocabulary ? html` from 1 to <b>${model.vocabulary - 1}</b>` : ""}.` : "This model reads texts."}${model.predicts && ` It predicts ${PREDICTED[model.predicts]}, too.`}
    </${Head}>
    <${Bring} model=${model} busy=${busy} />
    <p class=${fault ? "told fault" : "told"} role=${fault ? "alert" : "status"}>${fault || told || " "}</p>
    ${found && html`
      <div class="two">
        <${List} />
        <div class="side"><${Prediction} /><${Map} /><${Matrix} /></div>
      </div>
      <${Request} item=${items[currentIndex()]} model=${model} />
      <${Take} />`}`;
}

function currentIndex() {
  const { selected, items } = useStore();
  return Math.min(selected, items.length - 1);
}

function Bring({ model, busy }) {
  const [text, setText] = useState(""), [isOpen, setOpen] = useState(false), picker = useRef();
  const { items, selected } = useStore();
  const add = (event) => {
    event.preventDefault();
    take({ text, name: "pasted" }, "yours");
  };
  const example = model.kind === "text" ? '["a text of several words", "and another"]' : model.kind === "tokens" ? "[[1, 2, 3], [2, 1]]" : JSON.stringify([[0, 1].map((t) => Array.from({ length: Math.min(model.features, 4) }, (_, f) => short(Math.fround((t + f) / 10)))).map((step) => (model.features > 4 ? [...step, "…"] : step))]).replaceAll('"', "");
  return html`
    <div class="bring">
      <button onClick=${() => showExamples()} disabled=${busy}>Examples</button>
      <button aria-expanded=${isOpen} aria-controls="paste" onClick=${() => setOpen(!isOpen)}>Paste</button>
      <button onClick=${() => picker.current.click()}>Open a file</button>
      <input ref=${picker} type="file" id="file" accept=".csv,.tsv,.json,.jsonl,.ndjson,.npz,.npy,.txt" hidden onChange=${(event) => {
        const [file] = event.target.files;
        if (file) take({ file, name: file.name }, "yours");
        event.target.value = "";
      }} />
      <span class="hint">or drop CSV, JSON or NPZ anywhere</span>
      ${items.length > 0 && html`<span class="vary"><span>The selected one</span>
        ${Object.entries(VARIATIONS).map(([name, [label]]) => html`<button key=${name} disabled=${busy || !items[selected]} onClick=${() => vary(name)}>${label}</button>`)}</span>`}
    </div>
    <form id="paste" hidden=${!isOpen} onSubmit=${add}>
      <label for="pasted">Sequences as JSON${model.kind === "text" ? ", or a text a line" : ""}</label>
      <textarea id="pasted" rows="5" spellcheck="false" placeholder=${example} value=${text} onInput=${(event) => setText(event.target.value)}></textarea>
      <button class="main" disabled=${busy || !text.trim()}>Encode</button>
    </form>`;
}

// Only the rows in sight are there, so that thousands cost no more than a dozen.
function List() {
  const { model, items, found } = useStore(), selected = currentIndex();
  const [top, setTop] = useState(0), [frame, width] = useWidth(640), scroller = useRef();
  const { longest, ranges } = useMemo(() => survey(items, model.features ?? 1), [items]);
  const first = Math.max(0, Math.floor(top / ROW) - 2), rows = items.slice(first, first + SHOWN + 5);
  const isNarrow = width < 560, line = isNarrow ? 76 : Math.min(190, width * 0.24), strip = Math.max(56, width - line - (isNarrow ? 172 : 318) - (model.predicts && !isNarrow ? 104 : 0));
  useEffect(() => {
    const list = scroller.current, at = selected * ROW;
    if (at < list.scrollTop || at + ROW > list.scrollTop + list.clientHeight) list.scrollTop = at - list.clientHeight / 2;
  }, [selected, items]);
  const move = (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: SHOWN, PageUp: -SHOWN, Home: -Infinity, End: Infinity }[event.key];
    if (steps === undefined) return;
    event.preventDefault();
    change({ selected: Math.max(0, Math.min(items.length - 1, selected + steps)) });
  };
  return html`
    <section class=${model.kind === "text" ? "list texts" : "list"} ref=${frame} aria-labelledby="list-title">
      <h2 id="list-title">${items.length} ${items.length === 1 ? "sequence" : "sequences"}</h2>
      <div class="row labels" aria-hidden="true">
        <span class="name">${model.kind === "text" ? "text" : "name"}</span><span class="number">${model.kind === "text" ? "words" : "steps"}</span>
        ${model.kind !== "text" && html`<span style=${{ width: `${line}px` }}>sequence</span>`}<span style=${{ width: `${strip}px` }}>embedding</span>
        ${model.predicts && !isNarrow && html`<span class="guess">prediction</span>`}
        ${!isNarrow && html`<span class="number">nearest</span>`}
      </div>
      <div class="scroller" ref=${scroller} role="listbox" tabindex="0" aria-label="Sequences" aria-activedescendant=${`item-${selected}`}
           style=${{ height: `${ROW * Math.min(SHOWN, items.length)}px` }} onKeyDown=${move} onScroll=${(event) => setTop(event.target.scrollTop)}>
        <div role="presentation" style=${{ height: `${ROW * items.length}px` }}>
          ${rows.map((item, at) => {
            const index = first + at, [other] = found.neighbours[index];
            const cosine = other === undefined ? null : found.similar[index * items.length + other];
            return html`
              <div key=${index} id=${`item-${index}`} class="row" role="option" aria-selected=${index === selected}
                   aria-setsize=${items.length} aria-posinset=${index + 1}
                   style=${{ top: `${index * ROW}px` }} onClick=${() => change({ selected: index })}>
                <span class=${`name ${item.group}`}>${item.name}</span>
                <span class="number">${item.length}<span class="hidden"> ${model.kind === "text" ? "words" : "steps"}</span></span>
                ${item.text === undefined && html`<${Canvas} width=${line} height=${28} draw=${(context, w, h) => drawSequence(context, w, h, item, model.features ?? 1, longest, ranges)} />`}
                <${Canvas} width=${strip} height=${20} draw=${(context, w, h) => drawStrip(context, w, h, rowOf(found, model, index), found.peak)} />
                ${model.predicts && html`<${Guess} guess=${found.predictions[index]} isHidden=${isNarrow} />`}
                ${cosine !== null && html`<span class=${isNarrow ? "hidden" : "number"}><span class="hidden">, nearest to ${items[other].name}, cosine </span>${cosine.toFixed(3)}</span>`}
              </div>`;
          })}
        </div>
      </div>
    </section>`;
}

// What is predicted of a sequence: a number, or the likeliest of several labels and how likely it is.
function Guess({ guess, isHidden }) {
  const share = guess.scores?.[guess.label];
  return html`<span class=${isHidden ? "hidden" : "guess"}><span class="hidden">, predicted </span><span>${tell(guess)}</span>${share !== undefined && html`<i class="bar" style=${{ width: `${100 * share}%` }}></i>`}</span>`;
}

function Prediction() {
  const { items, found } = useStore(), guess = found.predictions[currentIndex()];
  if (guess === undefined) return null;
  const scores = Object.entries(guess.scores ?? {}).sort(([, one], [, other]) => other - one), left = scores.length - GUESSES;
  return html`
    <figure>
      <figcaption><h2>Prediction</h2><span>for ${items[currentIndex()].name}</span></figcaption>
      ${guess.scores === undefined ? html`<p class="lead">${tell(guess)}</p>` : html`<table class="bars"><caption class="hidden">The likeliest, with the probability of each</caption><tbody>
        ${scores.slice(0, GUESSES).map(([label, share]) => html`<tr key=${label}><th scope="row">${label}</th><td class="number">${(100 * share).toFixed(1)} %</td><td><i class="bar" style=${{ width: `${100 * share}%` }}></i></td></tr>`)}</tbody></table>
        ${left > 0 && html`<p class="caption">and ${left} that ${left === 1 ? "is" : "are"} less likely</p>`}`}
    </figure>`;
}

function tell(guess) {
  return typeof guess === "number" ? small(guess) : guess.label;
}

function rowOf(found, model, index) {
  return found.embeddings.subarray(index * model.dim, (index + 1) * model.dim);
}

// The longest sequence, and of each feature the least and the largest number, by which all are drawn alike.
function survey(items, features) {
  const lows = new Float32Array(features).fill(Infinity), highs = new Float32Array(features).fill(-Infinity);
  let longest = 1;
  for (const item of items) {
    longest = Math.max(longest, item.length);
    if (!(item.values instanceof Float32Array)) continue;
    for (let at = 0, f = 0; at < item.values.length; at++, f = f + 1 === features ? 0 : f + 1) {
      const value = item.values[at];
      if (value < lows[f]) lows[f] = value;
      if (value > highs[f]) highs[f] = value;
    }
  }
  return { longest, ranges: { lows, highs } };
}

function Map() {
  const { items, found } = useStore(), selected = currentIndex();
  const [frame, width] = useWidth(360), [hovered, setHovered] = useState(-1), height = Math.round(width * 0.72);
  const spots = useMemo(() => place(found.points, width, height), [found, width]);
  const find = (event) => {
    const box = event.currentTarget.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 900;
    for (let index = 0; index < items.length; index++) {
      const distance = (spots[2 * index] - x) ** 2 + (spots[2 * index + 1] - y) ** 2;
      if (distance < least) [best, least] = [index, distance];
    }
    return best;
  };
  const near = found.neighbours[selected].slice(0, 3), shares = found.shares.map((share) => `${Math.round(100 * share)} %`);
  const spoken = `A map of ${items.length} embeddings in two dimensions. ${items[selected].name} lies nearest to ${near.map((other) => items[other].name).join(", ") || "nothing"}.`;
  return html`
    <figure ref=${frame}>
      <figcaption><h2>Map</h2><span>the two directions that differ most, ${shares.join(" and ")}</span></figcaption>
      <${Canvas} width=${width} height=${height} label=${spoken} class="map"
        draw=${(context, w, h) => drawMap(context, w, h, { spots, items, neighbours: found.neighbours, selected, hovered })}
        onPointerMove=${(event) => setHovered(find(event))} onPointerLeave=${() => setHovered(-1)}
        onClick=${(event) => { const index = find(event); if (index >= 0) change({ selected: index }); }} />
      <p class="caption">${hovered >= 0 && hovered < items.length ? items[hovered].name : html`<b>${items[selected].name}</b>${near.length > 0 && html`, nearest to ${near.map((other, at) => html`${at > 0 && ", "}${items[other].name} <i>${found.similar[selected * items.length + other].toFixed(3)}</i>`)}`}`}</p>
    </figure>`;
}

function Matrix() {
  const { items, found } = useStore(), selected = currentIndex(), n = items.length;
  const [frame, width] = useWidth(360), [pair, setPair] = useState(null), size = Math.min(width, 340);
  const find = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = (length) => Math.max(0, Math.min(n - 1, Math.floor((length * n) / size)));
    return [at(event.clientY - box.top), at(event.clientX - box.left)];
  };
  return html`
    <figure ref=${frame}>
      <figcaption><h2>Similarity</h2><span>cosine of each with each</span></figcaption>
      <${Canvas} width=${size} height=${size} label=${`A matrix of the cosines of ${n} embeddings, each with each.`} class="matrix"
        draw=${(context, w) => drawMatrix(context, w, found.similar, n, selected)}
        onPointerMove=${(event) => setPair(find(event))} onPointerLeave=${() => setPair(null)} onClick=${(event) => change({ selected: find(event)[0] })} />
      <p class="caption">${pair && pair[0] < n && pair[1] < n ? html`${items[pair[0]].name} · ${items[pair[1]].name} <i>${found.similar[pair[0] * n + pair[1]].toFixed(4)}</i>` : " "}</p>
    </figure>`;
}

function Take() {
  const { items, found, model } = useStore();
  return html`
    <section class="take" aria-labelledby="take-title">
      <h2 id="take-title">Take the embeddings with you</h2>
      <p><button onClick=${() => save(items, found, model)}>Save as Parquet</button> then explore all ${items.length} in Embedding Atlas:</p>
      <pre tabindex="0" aria-label="Command">${`pip install embedding-atlas\nembedding-atlas embeddings.parquet --vector embedding`}</pre>
    </section>`;
}
