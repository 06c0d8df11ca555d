// The page: its head, the view that the address names, the key, and what is dropped on it.

import { Batches } from "./batches.js";
import { Costs } from "./costs.js";
import { Models } from "./models.js";
import { Proof } from "./proof.js";
import { boot, chooseModel, forgetKey, giveKey, take, useStore } from "./store.js";
import { Try } from "./try.js";
import { html } from "./view.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { render } from "./vendor/preact.js";

const VIEWS = { try: ["Try", Try], proof: ["Proof", Proof], batches: ["Batches", Batches], costs: ["Costs", Costs], models: ["Models", Models] };

function viewOf(address) {
  const name = address.slice(1);
  return VIEWS[name] ? name : "try";
}

function App() {
  const { info, model, models, wantsKey, access, key, fault } = useStore();
  const [view, setView] = useState(viewOf(location.hash)), [isOver, setOver] = useState(false), main = useRef();
  useEffect(() => {
    const follow = () => {
      setView(viewOf(location.hash));
      scrollTo(0, 0);
    };
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => {
    document.title = `${VIEWS[view][0]} · Lengthwise`;
  }, [view]);
  useEffect(() => listenForDrops(setOver), []);
  const [, View] = VIEWS[view];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to the content</a>
    <header class="top">
      <a class="mark" href="#try" aria-label="Lengthwise, to Try"><svg viewBox="0 0 22 22" width="22" height="22" aria-hidden="true"><path d="M2 5h9M2 9.7h18M2 14.3h5M2 19h13" /></svg>Lengthwise</a>
      <nav aria-label="Views">${Object.entries(VIEWS).map(([name, [label]]) => html`<a key=${name} href=${`#${name}`} aria-current=${name === view ? "page" : undefined}>${label}</a>`)}</nav>
      <div class="which">
        ${models.length > 1 && html`<label><span class="hidden">Model</span><select value=${model?.name} onChange=${(event) => chooseModel(event.target.value)}>${models.map((one) => html`<option key=${one.name} value=${one.name}>${one.name}</option>`)}</select></label>`}
        ${models.length === 1 && model && html`<span class="one">${model.name}</span>`}
        <a href="docs">API</a>
        ${access.key && key && html`<button onClick=${forgetKey}>Forget the key</button>`}
        ${!access.key && access.admin && html`<${AdminKey} />`}
      </div>
    </header>
    <main id="main" ref=${main} tabindex="-1" class=${view}>
      ${wantsKey ? html`<${AskKey} />` : html`<${View} />`}
      ${fault && !wantsKey && (!model || view !== "try") && html`<p class="told fault" role="alert">${fault}</p>`}
      ${!info && !wantsKey && !fault && html`<p class="told" role="status">Asking the service…</p>`}
    </main>
    <footer>${info && html`Lengthwise ${info.version} · ONNX Runtime ${info.versions.onnxruntime} · this page asks this service only`}</footer>
    ${isOver && html`<div class="over" aria-hidden="true">Drop it to encode it</div>`}`;
}

function AskKey() {
  const { fault } = useStore(), [given, setGiven] = useState("");
  return html`
    <form class="ask" onSubmit=${(event) => { event.preventDefault(); giveKey(given.trim()); }}>
      <h1>This service asks for a key</h1>
      <p>It is kept in this tab until you close it, and sent to this service only. The admin's key shows the batches, too.</p>
      <label for="key">Key</label>
      <input id="key" type="password" autocomplete="off" autofocus value=${given} onInput=${(event) => setGiven(event.target.value)} aria-describedby="key-fault" />
      <button class="main" disabled=${!given.trim()}>Enter</button>
      <p id="key-fault" class="told fault" role="alert">${fault}</p>
    </form>`;
}

// Without callers' keys the admin's opens the batches alone, so it is asked for only if somebody has it.
function AdminKey() {
  const { key } = useStore(), [isOpen, setOpen] = useState(false), [given, setGiven] = useState("");
  if (key) return html`<button onClick=${() => { forgetKey(); boot(); }}>Forget the key</button>`;
  if (!isOpen) return html`<button onClick=${() => setOpen(true)}>Admin</button>`;
  return html`<form onSubmit=${(event) => { event.preventDefault(); setOpen(false); giveKey(given.trim()); }}><label><span class="hidden">The admin's key</span><input type="password" autocomplete="off" placeholder="the admin's key" value=${given} onInput=${(event) => setGiven(event.target.value)} /></label></form>`;
}

function listenForDrops(setOver) {
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    setOver(true);
  };
  const leave = (event) => event.relatedTarget || setOver(false);
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    const [file] = event.dataTransfer.files;
    if (!file) return;
    location.hash = "try";
    take({ file, name: file.name }, "yours");
  };
  const listeners = { dragover: over, dragleave: leave, drop };
  for (const [name, listen] of Object.entries(listeners)) addEventListener(name, listen);
  return () => Object.entries(listeners).forEach(([name, listen]) => removeEventListener(name, listen));
}

render(html`<${App} />`, document.getElementById("app"));
boot();
