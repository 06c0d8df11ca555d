// Says in words what a schema allows.

import { h, prose } from "./elements.js";

const DEEPEST = 4;

function resolve(document, schema) {
  for (let turns = 0; schema?.$ref && turns < 9; turns++) schema = schema.$ref.slice(2).split("/").reduce((node, part) => node?.[part], document);
  return schema ?? {};
}

export function nameType(document, given) {
  const schema = resolve(document, given);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return [...new Set(choices.map((one) => nameType(document, one)))].join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.type === "array") {
    const count = schema.minItems !== undefined && schema.minItems === schema.maxItems ? ` of ${schema.minItems}` : "";
    return schema.items && Object.keys(schema.items).length ? `list${count || " of"} ${plural(nameType(document, schema.items))}` : "list";
  }
  const bounds = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"]].filter(([bound]) => schema[bound] !== undefined).map(([bound, sign]) => `${sign} ${schema[bound]}`);
  return [schema.type ?? (schema.properties ? "object" : "anything"), ...bounds].join(" ");
}

function plural(name) {
  return name.replace(/^(list|number|integer|string|object)\b/, "$1s");
}

// The fields of an object, with those of the objects in it; of anything else its type.
export function describeSchema(document, given, depth = 0) {
  const schema = resolve(document, given);
  if (!schema.properties) {
    const inner = schema.items ?? (schema.anyOf ?? schema.oneOf ?? []).find((one) => resolve(document, one).properties);
    if (inner && resolve(document, inner).properties && depth < DEEPEST) return describeSchema(document, inner, depth + 1);
    return h("p", {}, nameType(document, schema));
  }
  const required = new Set(schema.required);
  return h("dl", {}, Object.entries(schema.properties).flatMap(([name, property]) => {
    const whole = resolve(document, property), below = findObject(document, property);
    const fallback = whole.default ?? property.default;
    return [
      h("dt", {}, h("code", {}, name), h("span", {}, ` ${nameType(document, property)}${required.has(name) ? ", required" : ""}${fallback === undefined || fallback === null ? "" : `, by default ${JSON.stringify(fallback)}`}`)),
      h("dd", {}, prose(property.description ?? whole.description), below && depth < DEEPEST ? describeSchema(document, below, depth + 1) : null),
    ];
  }));
}

function findObject(document, given) {
  const schema = resolve(document, given);
  if (schema.properties) return schema;
  if (schema.type === "array" && schema.items) return findObject(document, schema.items);
  return (schema.anyOf ?? schema.oneOf ?? []).map((one) => findObject(document, one)).find(Boolean);
}
