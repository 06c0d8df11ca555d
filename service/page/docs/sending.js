// A form that sends an operation as its reader fills it in, and shows what comes back.

import { h } from "./elements.js";

const MOST = 20_000; // characters that are shown of an answer

export function makeSender(here, operation, headers) {
  const parameters = (operation.parameters ?? []).filter((one) => one.in === "path" || (one.in === "query" && !["array"].includes(one.schema?.type)));
  const fields = parameters.map((one) => {
    const [example] = Object.values(one.examples ?? {});
    return [one, h("input", { id: `${operation.id}-${one.name}`, value: one.in === "path" ? example?.value ?? "" : "", autocomplete: "off" })];
  });
  const examples = Object.entries(operation.requestBody?.content?.["application/json"]?.examples ?? {});
  const hasBody = operation.method === "POST" && operation.requestBody?.content?.["application/json"];
  const body = hasBody ? h("textarea", { id: `${operation.id}-body`, rows: "7", spellcheck: "false", value: write(examples[0]?.[1].value ?? {}) }) : null;
  const choice = examples.length > 1
    ? h("select", { "aria-label": "Example", onchange: (event) => (body.value = write(examples[event.target.selectedIndex][1].value)) }, examples.map(([name]) => h("option", {}, name)))
    : null;
  const shown = h("div", { class: "answer", "aria-live": "polite" });
  const send = async (event) => {
    event.preventDefault();
    shown.replaceChildren(h("p", {}, "Asking…"));
    try {
      shown.replaceChildren(...(await ask(here, operation, fields, body?.value, headers())));
    } catch (error) {
      shown.replaceChildren(h("p", {}, `The service could not be asked: ${error.message}`));
    }
  };
  return h("details", { class: "send" }, h("summary", {}, "Try it"), h("form", { onsubmit: send },
    fields.map(([one, input]) => h("p", {}, h("label", { for: input.id }, h("code", {}, one.name)), input)),
    body ? [h("p", {}, h("label", { for: body.id }, "Body"), choice), body] : null,
    h("button", {}, `Send ${operation.method}`)), shown);
}

function write(value) {
  const text = JSON.stringify(value, null, 1);
  return text.replace(/\[\s+([-\d.eE+,\s]+?)\s+\]/g, (_, numbers) => `[${numbers.replace(/\s+/g, " ")}]`);
}

async function ask(here, operation, fields, body, headers) {
  let path = operation.path.slice(1);
  const query = new URLSearchParams();
  for (const [one, { value }] of fields) {
    if (one.in === "path") path = path.replace(`{${one.name}}`, encodeURIComponent(value));
    else if (value) query.set(one.name, value);
  }
  const url = new URL(path, here);
  url.search = query;
  const began = performance.now();
  const answer = await fetch(url, { method: operation.method, headers: { ...headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) }, body });
  const text = await answer.text(), took = performance.now() - began;
  const told = ["x-request-id", "x-model-sha", "server-timing", "retry-after"].filter((name) => answer.headers.get(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
  let pretty = text;
  try {
    pretty = write(JSON.parse(text));
  } catch {
    // It is not JSON, and is shown as it is.
  }
  const rest = pretty.length > MOST ? `\n… and ${(pretty.length - MOST).toLocaleString("en")} characters more` : "";
  return [
    h("p", {}, h("b", { class: answer.ok ? "yes" : "no" }, `${answer.status}`), ` in ${took.toFixed(0)} ms`),
    told.length ? h("pre", { tabindex: "0", "aria-label": "Headers" }, told.join("\n")) : null,
    h("pre", { tabindex: "0", "aria-label": "Answer" }, pretty.slice(0, MOST) + rest),
  ].filter(Boolean);
}
