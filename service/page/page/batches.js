// Batches: what waits and runs right now, and how the last batches were cut, told by the service as it happens.

import { Chart } from "./chart.js";
import { colours, drawBatch } from "./drawing.js";
import { random } from "./maths.js";
import { encode, watch, write } from "./service.js";
import { fail, state as store, useStore } from "./store.js";
import { Canvas, count, Figure, Head, html, seconds, useWidth } from "./view.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";

const KEPT = 100; // batches
const SHOWN = 18; // of these
const MOMENTS = 60; // seconds of the chart
const RECENT = 10; // over which rates are told
const WHY = {
  all: "all that waited was in it",
  shared: "the rest was shared out among idle runners",
  rows: "it had as many sequences as a batch may have",
  budget: "it had as many padded steps as a batch may have",
  cost: "the next sequence was better off in another batch",
};
const STAGES = { decode: "reading", queue: "waiting", run: "running", encode: "writing" };

export function Batches() {
  const { key, model, info } = useStore(), isLet = info !== null;
  const [moments, setMoments] = useState([]), [batches, setBatches] = useState([]), [isPaused, setPaused] = useState(false), [isLost, setLost] = useState(false);
  const paused = useRef(false);
  paused.current = isPaused;
  useEffect(() => {
    if (!isLet) return undefined;
    const stop = new AbortController();
    follow(stop.signal, setLost, (told) => {
      setMoments((before) => [...before, told].slice(-MOMENTS - 1));
      if (told.batches?.length && !paused.current) setBatches((before) => [...told.batches.toReversed(), ...before].slice(0, KEPT));
    });
    return () => stop.abort();
  }, [key, isLet]);
  const now = moments.at(-1), rates = now && rate(moments, RECENT);
  return html`
    <${Head} title="Batches">Whenever a runner is idle it gets the next batch; nothing waits to fill one up. Batches are cut where the measured costs say, on the queue in order of length.</${Head}>
    <div class="bring"><button onClick=${() => load(model)} disabled=${!model || !store.items.length}>Send some load</button>
      <button aria-pressed=${isPaused} onClick=${() => setPaused(!isPaused)}>${isPaused ? "Go on" : "Hold still"}</button>
      <span class="hint" role="status">${isLost ? "The stream broke off, and is tried again." : now ? `${now.running} of ${now.runners} runners at work` : "Waiting for the service…"}</span></div>
    ${rates && html`
      <dl class="figures wide">
        <${Figure} label="sequences a second" value=${count(rates.sequences)} />
        <${Figure} label="requests a second" value=${count(rates.requests)} />
        <${Figure} label="in the queue" value=${count(rates.waiting)} unit=${`gone in ${seconds(rates.wait)}`} />
        <${Figure} label="padding" value=${rates.padded ? `${(100 * (1 - rates.valid / rates.padded)).toFixed(1)} %` : "–"} unit="of the steps" />
        ${now.batches && html`<${Figure} label="saved by length" value=${saved(batches)} unit="of padding" />`}
      </dl>
      <div class="two">
        <section aria-labelledby="rate-title"><h2 id="rate-title">Sequences a second</h2><${Throughput} moments=${moments} now=${rates.sequences} /></section>
        <section aria-labelledby="stage-title"><h2 id="stage-title">Where the time of a request goes</h2><${Stages} rates=${rates} /></section>
      </div>
      ${now.batches === null
        ? html`<p class="told">The lengths of others' sequences are for the admin: give the admin's key to see the batches.</p>`
        : html`<${Timeline} batches=${batches} />`}`}`;
}

async function follow(signal, setLost, tell) {
  while (!signal.aborted) {
    try {
      await watch("page/live", (told) => { setLost(false); tell(told); }, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error.status) return void fail(error);
    }
    if (signal.aborted) return;
    setLost(true);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

const COUNTED = ["requests", "request_seconds", "sequences", "valid_steps", "padded_steps"];

function sum(told) {
  const whole = { waiting: 0, wait: 0, stages: { decode: 0, queue: 0, run: 0, encode: 0 } };
  for (const name of COUNTED) whole[name] = 0;
  for (const model of Object.values(told.models)) {
    for (const name of COUNTED) whole[name] += model[name];
    for (const stage in whole.stages) whole.stages[stage] += model.stages[stage];
    whole.waiting += model.waiting;
    whole.wait = Math.max(whole.wait, model.wait_seconds);
  }
  return whole;
}

// What was counted over the last seconds, by the second. Counters that fall are those of a new process.
function rate(moments, over) {
  const last = moments.at(-1), first = moments[Math.max(0, moments.length - 1 - over)], [now, before] = [sum(last), sum(first)];
  const time = last.time - first.time || 1, by = (name) => Math.max(0, now[name] - before[name]);
  const requests = by("requests");
  const stages = Object.fromEntries(Object.keys(STAGES).map((stage) => [stage, requests ? Math.max(0, now.stages[stage] - before.stages[stage]) / requests : 0]));
  return { sequences: by("sequences") / time, requests: requests / time, valid: by("valid_steps"), padded: by("padded_steps"), waiting: now.waiting, wait: now.wait, stages, whole: requests ? by("request_seconds") / requests : 0 };
}

// How much less padding the batches have than the same rows would in the order in which they came to their queue, cut
// into batches of the same sizes.
export function saved(batches) {
  const queues = {};
  for (const batch of batches.toReversed()) (queues[batch.queue] ??= []).push(batch); // the oldest first
  let valid = 0, padded = 0, arrived = 0;
  for (const ended of Object.values(queues)) {
    const rows = ended.flatMap(({ lengths, places }) => lengths.map((length, row) => [places[row], length])).sort(([one], [other]) => one - other);
    for (const { lengths: { length }, padded_steps } of ended) {
      const lengths = rows.splice(0, length).map(([, steps]) => steps);
      valid += lengths.reduce((total, steps) => total + steps, 0);
      padded += padded_steps;
      arrived += length * Math.max(...lengths);
    }
  }
  return arrived > valid ? `${Math.round((100 * (arrived - padded)) / (arrived - valid))} %` : "–";
}

function Throughput({ moments, now }) {
  const times = Array.from({ length: MOMENTS }, (_, at) => at - MOMENTS + 1), values = times.map(() => null);
  for (let at = 1; at < moments.length; at++) values[MOMENTS - moments.length + at] = rate(moments.slice(at - 1, at + 1), 1).sequences;
  return html`<${Chart} height=${190} data=${[times, values]} series=${[["sequences a second", colours().accent]]} label=${`Sequences a second over the last minute; now ${count(now)}.`}
    scales=${{ x: { time: false }, y: { range: (_, low, high) => [0, Math.max(10, high * 1.1)] } }} x=${{ values: (_, ticks) => ticks.map((tick) => (tick ? `${tick} s` : "now")) }} />`;
}

function Stages({ rates }) {
  const most = Math.max(rates.whole, ...Object.values(rates.stages), 1e-9);
  return html`<table class="bars"><caption class="hidden">Mean seconds of each stage of the requests of the last ${RECENT} seconds</caption><tbody>
    ${Object.entries({ ...STAGES, whole: "all of it" }).map(([stage, label]) => {
      const value = stage === "whole" ? rates.whole : rates.stages[stage];
      return html`<tr key=${stage}><th scope="row">${label}</th><td class="number">${value ? seconds(value) : "–"}</td><td>${value > 0 && html`<i class=${stage === "whole" ? "bar warm" : "bar"} style=${{ width: `${(100 * value) / most}%` }}></i>`}</td></tr>`;
    })}</tbody></table>`;
}

function Timeline({ batches }) {
  const [frame, width] = useWidth(900), longest = Math.max(1, ...batches.map((batch) => batch.lengths.at(-1)));
  const shown = batches.slice(0, SHOWN), picture = Math.max(90, Math.min(420, width * 0.34));
  // One run that stood still must not make specks of all others: its bar is cut off.
  const times = shown.flatMap((batch) => [batch.seconds, batch.predicted_seconds]).sort((one, other) => one - other), slowest = 1.15 * (times[Math.floor(0.9 * times.length)] ?? 1);
  const share = (time) => `${Math.min(100, (100 * time) / slowest)}%`;
  return html`
    <section ref=${frame} aria-labelledby="timeline-title">
      <h2 id="timeline-title">The last batches <span><i class="key ink"></i> valid <i class="key pad"></i> padded</span></h2>
      ${!batches.length && html`<p class="told">No batch has ended since you came here.</p>`}
      ${batches.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="The last batches"><table class="batches">
        <thead><tr><th scope="col">ended</th><th scope="col">sequences × steps</th><th scope="col">steps</th><th scope="col">predicted, actual</th><th scope="col">no larger, because</th></tr></thead>
        <tbody>${shown.map((batch) => {
          const rows = batch.lengths.length, valid = batch.lengths.reduce((total, length) => total + length, 0);
          return html`<tr key=${`${batch.at} ${rows} ${batch.padded_steps}`}>
            <td class="number">${new Date(batch.at * 1000).toLocaleTimeString("en-GB")}<span>${batch.model}</span></td>
            <td class="number">${rows} × ${batch.padded_steps / rows}<span>${(100 * (1 - valid / batch.padded_steps)).toFixed(0)} % padding</span></td>
            <td><${Canvas} width=${picture} height=${Math.max(10, Math.min(44, rows * 3))} draw=${(context, w, h) => drawBatch(context, w, h, batch.lengths, longest)} /></td>
            <td class="times"><i class="bar pale" style=${{ width: share(batch.predicted_seconds) }}></i><i class="bar" style=${{ width: share(batch.seconds) }}></i><span>${seconds(batch.predicted_seconds)}, ${seconds(batch.seconds)}</span></td>
            <td>${WHY[batch.cut]}${batch.failed > 0 && html`<b class="no"> ${batch.failed} failed</b>`}</td>
          </tr>`;
        })}</tbody></table></div>`}
    </section>`;
}

// Some hundreds of small requests, eight at a time: enough for batches to be seen.
async function load(model) {
  const field = model.kind === "text" ? "texts" : "sequences", rows = store.items.slice(0, 64).map((item) => write(item, model.features)), draw = random(7);
  let left = 240;
  const send = async () => {
    while (left-- > 0) {
      const some = Array.from({ length: 1 + Math.floor(draw() * 12) }, () => rows[Math.floor(draw() * rows.length)]);
      await encode({ model: model.full, [field]: some });
    }
  };
  try {
    await Promise.all(Array.from({ length: 8 }, send));
  } catch (error) {
    fail(error);
  }
}
