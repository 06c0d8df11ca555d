// Charts by uPlot, which is fetched when the first one is shown. It draws on a canvas; the views tell the same in words.

import { colours } from "./drawing.js";
import { html, useWidth } from "./view.js";
import { useEffect, useRef } from "./vendor/hooks.js";

let loading;

function load() {
  loading ??= new Promise((resolve, reject) => {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("./vendor/uplot.css", import.meta.url).href });
    const script = Object.assign(document.createElement("script"), { src: new URL("./vendor/uplot.js", import.meta.url).href, onload: () => resolve(window.uPlot), onerror: reject });
    document.head.append(style, script);
  });
  return loading;
}

// Data as uPlot takes it; `series` are [label, colour, dash]; `scales` are uPlot's own.
export function Chart({ data, series, height, label, scales = {}, x = {}, y = {} }) {
  const [frame, width] = useWidth(), plot = useRef(), last = useRef(data);
  last.current = data;
  const shape = `${series.map(([name]) => name)} ${colours().paper}`;
  useEffect(() => {
    let isGone = false;
    load().then((Plot) => {
      if (isGone || !frame.current) return;
      const { ink, muted, rule } = colours();
      const axis = { stroke: muted, grid: { stroke: rule, width: 1 }, ticks: { show: false }, font: "12px ui-sans-serif, system-ui, sans-serif" };
      const lines = series.map(([name, colour, dash]) => ({ label: name, stroke: colour ?? ink, width: 1.5, dash, points: { show: data[0].length < 12, size: 5, stroke: colour ?? ink, fill: colour ?? ink }, spanGaps: true }));
      plot.current = new Plot({ width: frame.current.clientWidth, height, series: [{}, ...lines], scales, axes: [{ ...axis, size: 32, ...x }, { ...axis, size: 56, ...y }], legend: { show: false }, cursor: { show: false } }, last.current, frame.current);
    });
    return () => {
      isGone = true;
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data), [data]);
  useEffect(() => plot.current?.setSize({ width, height }), [width]);
  return html`<div class="chart" ref=${frame} role="img" aria-label=${label} style=${{ minHeight: `${height}px` }}></div>`;
}
