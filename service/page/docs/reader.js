// Shows the OpenAPI document that lies beside it, and sends what its reader writes. Nothing else is asked for.

import { h, prose } from "./elements.js";
import { describeSchema, nameType } from "./schemas.js";
import { makeSender } from "./sending.js";

const GROUPS = { encode: "Lengthwise", openai: "OpenAI's clients", kserve: "Open Inference Protocol", operations: "Operations" };
const here = new URL("..", import.meta.url);
let key = sessionStorage.getItem("key") ?? "";

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

async function read() {
  const answer = await fetch(new URL("openapi.json", here), { headers: headers() });
  if (!answer.ok) throw new Error(`The document could not be read: the service answered ${answer.status}.`);
  return answer.json();
}

function listOperations(document) {
  const found = [];
  for (const [path, methods] of Object.entries(document.paths))
    for (const [method, operation] of Object.entries(methods)) found.push({ path, method: method.toUpperCase(), id: operation.operationId, tag: operation.tags?.[0] ?? "operations", ...operation });
  return found;
}

function group(operations) {
  const groups = new Map();
  for (const operation of operations) groups.set(operation.tag, [...(groups.get(operation.tag) ?? []), operation]);
  const order = Object.keys(GROUPS);
  return [...groups].sort(([one], [other]) => order.indexOf(one) - order.indexOf(other));
}

function showHead(document, refresh) {
  const scheme = document.components.securitySchemes;
  const input = h("input", { id: "key", type: "password", autocomplete: "off", value: key });
  const form = h("form", { class: "key", onsubmit: (event) => {
    event.preventDefault();
    key = input.value.trim();
    if (key) sessionStorage.setItem("key", key);
    else sessionStorage.removeItem("key");
    refresh();
  } }, h("label", { for: "key" }, "Key"), input, h("button", {}, "Use it"));
  return h("header", { class: "top" }, h("h1", {}, `${document.info.title} `, h("span", {}, `API ${document.info.version}`)), scheme ? form : null, h("p", {}, h("a", { href: new URL("openapi.json", here).href }, "openapi.json")));
}

function showOperation(document, operation) {
  const parts = [
    h("h3", { id: operation.id, tabindex: "-1" }, h("b", { class: `method ${operation.method.toLowerCase()}` }, operation.method), " ", h("code", {}, operation.path)),
    h("p", { class: "summary" }, operation.summary ?? "", operation.security?.length ? h("span", {}, " needs a key") : null),
    ...(operation.description ?? "").split("\n\n").filter(Boolean).map((text) => h("p", {}, prose(text))),
  ];
  if (operation.parameters?.length)
    parts.push(h("h4", {}, "Parameters"), h("dl", {}, operation.parameters.flatMap((one) => [
      h("dt", {}, h("code", {}, one.name), h("span", {}, ` ${one.in}, ${nameType(document, one.schema)}${one.required ? ", required" : ""}`)),
      h("dd", {}, prose(one.description)),
    ])));
  for (const [type, { schema }] of Object.entries(operation.requestBody?.content ?? {}))
    parts.push(h("details", {}, h("summary", {}, "Body ", h("code", {}, type)), describeSchema(document, schema)));
  for (const [status, response] of Object.entries(operation.responses)) {
    const [[, content] = []] = Object.entries(response.content ?? {});
    const shown = content?.schema && Object.keys(content.schema).length ? describeSchema(document, content.schema) : h("p", {}, response.description);
    parts.push(h("details", {}, h("summary", {}, `${status} `, h("span", {}, response.description)), shown, showExamples(content)));
  }
  parts.push(makeSender(here, operation, headers));
  return h("article", {}, parts);
}

function showExamples(content) {
  const names = Object.entries(content?.examples ?? {});
  return names.length ? h("ul", {}, names.map(([name, one]) => h("li", {}, h("code", {}, name), ` ${one.summary ?? ""}`))) : null;
}

async function show() {
  const main = h("main", { id: "main", tabindex: "-1" });
  try {
    const document_ = await read(), groups = group(listOperations(document_));
    const nav = h("nav", { "aria-label": "Operations" }, groups.map(([tag, operations]) => [
      h("h2", {}, GROUPS[tag] ?? tag),
      h("ul", {}, operations.map((one) => h("li", {}, h("a", { href: `#${one.id}` }, h("b", { class: `method ${one.method.toLowerCase()}` }, one.method), " ", one.path)))),
    ]));
    main.append(...groups.map(([tag, operations]) => h("section", {}, h("h2", {}, GROUPS[tag] ?? tag), operations.map((one) => showOperation(document_, one)))));
    document.body.replaceChildren(showHead(document_, show), h("div", { class: "columns" }, nav, main));
    if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  } catch (error) {
    main.append(h("h1", {}, "API"), h("p", { role: "alert" }, error.message));
    document.body.replaceChildren(main);
  }
}

show();
