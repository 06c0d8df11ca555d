// What every view is made of: markup, a canvas that follows its size and the colours, a figure, a note.

import htm from "./vendor/htm.js";
import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import { h } from "./vendor/preact.js";

export const html = htm.bind(h);

// Draws whenever it is rendered anew: `draw(context, width, height)` in CSS pixels. Without a label it is decoration.
export function Canvas({ width, height, draw, label, ...rest }) {
  const ref = useRef();
  useLayoutEffect(() => {
    const canvas = ref.current, ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    draw(context, width, height);
  });
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return html`<canvas ref=${ref} style=${{ width: `${width}px`, height: `${height}px` }} ...${named} ...${rest}></canvas>`;
}

// The width of an element, as it changes.
export function useWidth(initial = 0) {
  const ref = useRef(), [width, setWidth] = useState(initial);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.floor(ref.current?.clientWidth ?? 0));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

export function useInterval(run, milliseconds, isOn) {
  const last = useRef(run);
  last.current = run;
  useEffect(() => {
    if (!isOn) return undefined;
    const timer = setInterval(() => last.current(), milliseconds);
    return () => clearInterval(timer);
  }, [isOn, milliseconds]);
}

export function Figure({ value, unit, label }) {
  return html`<div class="figure"><dt>${label}</dt><dd>${value}${unit && html` <span>${unit}</span>`}</dd></div>`;
}

export function Head({ title, children }) {
  return html`<header class="head"><h1>${title}</h1><p>${children}</p></header>`;
}

const UNITS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]];

export function seconds(value) {
  if (!value) return "0 ms";
  const [size, unit] = UNITS.find(([size]) => Math.abs(value) >= size) ?? UNITS[2];
  const scaled = value / size;
  return `${scaled.toFixed(scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2)} ${unit}`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function small(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export function bytes(value) {
  return value >= 2 ** 20 ? `${(value / 2 ** 20).toFixed(0)} MiB` : `${(value / 1024).toFixed(0)} KiB`;
}
