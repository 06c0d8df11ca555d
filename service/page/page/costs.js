// Costs: what a run takes on this machine by its rows and steps, as measured, and the arrangement that was chosen.

import { Chart } from "./chart.js";
import { colours } from "./drawing.js";
import { askJson } from "./service.js";
import { fail, useStore } from "./store.js";
import { count, Figure, Head, html, seconds } from "./view.js";
import { useEffect, useState } from "./vendor/hooks.js";

export function Costs() {
  const { model } = useStore(), [told, setTold] = useState(null);
  useEffect(() => {
    if (model) askJson(`page/costs?model=${encodeURIComponent(model.full)}`).then(setTold, fail);
  }, [model]);
  if (!model || told?.model !== model.full) return null;
  const [chosen] = told.arrangements;
  return html`
    <${Head} title="Costs">No constant decides where a batch is cut. Runs of this model were timed on this machine, and idle time adds to what is known.</${Head}>
    <dl class="figures wide">
      <${Figure} label="CPUs" value=${told.cpus} />
      <${Figure} label="runs at a time" value=${chosen.runners} />
      <${Figure} label="threads in each" value=${chosen.threads} />
      <${Figure} label="shapes timed" value=${count(told.measured.length)} />
      <${Figure} label="real runs since" value=${count(told.runs)} />
      <${Figure} label="usual error of a prediction" value=${told.runs ? `${(100 * told.error).toFixed(0)} %` : "–"} />
      <${Figure} label="real runs take" value=${`${told.correction.toFixed(2)} ×`} unit=${`of what was measured; ${told.loaded_correction.toFixed(2)} × under load`} />
    </dl>
    <section aria-labelledby="curve-title"><h2 id="curve-title">A run by its padded steps <span>a line a batch size, both scales logarithmic</span></h2><${Curves} told=${told} /></section>
    <section aria-labelledby="surface-title"><h2 id="surface-title">All that was measured <span>darker is cheaper for each step</span></h2><${Surface} told=${told} /></section>
    <section aria-labelledby="ways-title"><h2 id="ways-title">Arrangements tried</h2>
      <table class="ways"><thead><tr><th scope="col" class="number">runs at a time</th><th scope="col" class="number">threads in each</th><th scope="col" class="number">sequences a second</th><td></td></tr></thead>
        <tbody>${told.arrangements.map((one, at) => html`<tr key=${at}><td class="number">${one.runners}</td><td class="number">${one.threads}</td><td class="number">${one.sequences_per_second ? count(one.sequences_per_second) : "nothing to compare"}</td><td>${at === 0 && html`<b class="yes">chosen</b>`}</td></tr>`)}</tbody></table>
    </section>`;
}

function arrange(told) {
  const across = [...new Set(told.measured.map(([, steps]) => steps))].sort((one, other) => one - other);
  const down = [...new Set(told.measured.map(([rows]) => rows))].sort((one, other) => one - other);
  const times = new Map(told.measured.map(([rows, steps, time]) => [`${rows} ${steps}`, time]));
  return { across, down, timeOf: (rows, steps) => times.get(`${rows} ${steps}`) };
}

const decades = (_, ticks) => ticks.map((tick) => (Math.abs(Math.log10(tick) % 1) < 1e-6 ? tick : null));

function Curves({ told }) {
  const { across, down, timeOf } = arrange(told), { ink, accent, warm } = colours();
  const shades = [ink, accent, warm], dashes = [undefined, [6, 4], [2, 3]];
  const series = down.map((rows, at) => [`${rows}`, shades[at % 3], dashes[Math.floor(at / 3) % 3]]);
  const data = [across, ...down.map((rows) => across.map((steps) => (timeOf(rows, steps) ? 1000 * timeOf(rows, steps) : null)))];
  const log = { distr: 3 };
  return html`
    <${Chart} height=${300} data=${data} series=${series} label=${`Milliseconds of a run by its steps, for ${down.length} batch sizes; the table below holds the same.`}
      scales=${{ x: { time: false, ...log, range: () => [across[0], across.at(-1)] }, y: log }} x=${{ splits: () => across, filter: (_, ticks) => ticks, values: (_, ticks) => ticks.map(count) }} y=${{ filter: decades, grid: { stroke: colours().rule, width: 1, filter: decades }, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : seconds(tick / 1000))), size: 72 }} />
    <ul class="legend" aria-label="Sequences in a batch">${series.map(([name, colour, dash], at) => html`<li key=${name}><svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" stroke=${colour} stroke-width="2" stroke-dasharray=${dash?.join(" ")} /></svg>${name}${at === 0 ? " sequence" : ""}</li>`)}</ul>`;
}

function Surface({ told }) {
  const { across, down, timeOf } = arrange(told);
  const each = told.measured.map(([rows, steps, time]) => Math.log(time / (rows * steps))), low = Math.min(...each), high = Math.max(...each);
  const shade = (rows, steps) => 1 - (Math.log(timeOf(rows, steps) / (rows * steps)) - low) / (high - low || 1);
  return html`<div class="scroll" tabindex="0" role="region" aria-label="All that was measured"><table class="surface">
    <caption class="hidden">Time of a run by its sequences, down, and its steps, across</caption>
    <thead><tr><td></td>${across.map((steps) => html`<th scope="col" class="number" key=${steps}>${steps} ${steps === 1 ? "step" : "steps"}</th>`)}</tr></thead>
    <tbody>${down.map((rows) => html`<tr key=${rows}><th scope="row" class="number">${rows}</th>${across.map((steps) => {
      const time = timeOf(rows, steps);
      return html`<td key=${steps} class="number" style=${time ? { "--shade": `${(60 * shade(rows, steps)).toFixed(0)}%` } : {}}>${time ? seconds(time) : ""}</td>`;
    })}</tr>`)}</tbody></table></div>`;
}
