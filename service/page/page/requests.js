// The request that encodes the selected sequence, in three languages, as it can be run.

import { short } from "./maths.js";
import { write } from "./service.js";
import { useStore } from "./store.js";
import { html } from "./view.js";
import { useState } from "./vendor/hooks.js";

const MOST = 40; // steps that are shown

export function Request({ item, model }) {
  const { access, models } = useStore();
  const [language, setLanguage] = useState("curl"), [isCopied, setCopied] = useState(false);
  const code = WRITERS[language](body(item, model, models.length > 1), address(), access.key);
  const copy = async () => {
    await navigator.clipboard?.writeText(code);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  const choose = (event) => {
    const names = Object.keys(WRITERS), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(language) + step + names.length) % names.length];
    setLanguage(next);
    event.currentTarget.querySelector(`#tab-${next}`).focus();
  };
  return html`
    <section class="request" aria-labelledby="request-title">
      <h2 id="request-title">The same request</h2>
      <div class="tabs"><div role="tablist" aria-label="Language" onKeyDown=${choose}>
        ${Object.keys(WRITERS).map((name) => html`
          <button key=${name} id=${`tab-${name}`} role="tab" aria-selected=${name === language} aria-controls="code" tabindex=${name === language ? 0 : -1} onClick=${() => setLanguage(name)}>${name}</button>`)}</div>
        <button class="copy" onClick=${copy}>${isCopied ? "Copied" : "Copy"}</button>
      </div>
      <pre id="code" role="tabpanel" tabindex="0" aria-labelledby=${`tab-${language}`}>${code}</pre>
      ${item.length > MOST && html`<p class="hint">Shown are the first ${MOST} of ${item.length} steps.</p>`}
    </section>`;
}

function address() {
  return new URL("../encode", import.meta.url).href;
}

function body(item, model, isNamed) {
  const named = { ...(isNamed && { model: model.name }), ...(model.predicts && { outputs: ["embedding", "prediction"] }) };
  if (item.text !== undefined) return { ...named, texts: [item.text] };
  const steps = write(item, model.features).slice(0, MOST);
  return { ...named, sequences: [model.kind === "features" ? steps.map((step) => step.map(short)) : steps] };
}

function toText(value, indent = "") {
  const [[last, [first]], ...others] = Object.entries(value).reverse();
  const rows = Array.isArray(first) && Array.isArray(first[0]) ? `[[\n${first.map((step) => `${indent}  ${JSON.stringify(step)}`).join(",\n")}]]` : JSON.stringify([first]);
  return `{${others.map(([name, one]) => `${JSON.stringify(name)}: ${JSON.stringify(one)}, `).join("")}${JSON.stringify(last)}: ${rows}}`;
}

function shown(body) {
  return body.outputs ? "prediction" : "embeddings";
}

const WRITERS = {
  curl: (body, url, hasKey) => `curl -s ${url} -H 'Content-Type: application/json'${hasKey ? " -H 'Authorization: Bearer KEY'" : ""} -d '${toText(body).replaceAll("'", "'\\''")}'`,
  Python: (body, url, hasKey) => `import httpx\n\nbody = ${toText(body)}\nanswer = httpx.post("${url}", json=body${hasKey ? ', headers={"Authorization": "Bearer KEY"}' : ""})\nprint(answer.raise_for_status().json()["${shown(body)}"])`,
  JavaScript: (body, url, hasKey) => `const body = ${toText(body)};\nconst answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "Content-Type": "application/json"${hasKey ? ', Authorization: "Bearer KEY"' : ""} },\n  body: JSON.stringify(body),\n});\nconsole.log((await answer.json()).${shown(body)});`,
};
