// Saves the embeddings as a file, for explorers of embeddings.

import { writeParquet } from "./parquet.js";

export function makeTable(items, found, model) {
  const axis = (which) => Float32Array.from(items, (_, row) => found.points[2 * row + which]);
  return writeParquet(
    [
      ["name", "text", items.map((item) => item.name)],
      ["steps", "int", Int32Array.from(items, (item) => item.length)],
      ["embedding", "list", found.embeddings, model.dim],
      ["x", "float", axis(0)],
      ["y", "float", axis(1)],
      ...columnsOf(found.predictions),
    ],
    items.length,
  );
}

function columnsOf(predictions) {
  if (!predictions.length) return [];
  const isNumber = typeof predictions[0] === "number";
  return [["prediction", ...(isNumber ? ["float", Float32Array.from(predictions)] : ["text", predictions.map(({ label }) => label)])]];
}

export function save(items, found, model) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([makeTable(items, found, model)], { type: "application/vnd.apache.parquet" }));
  link.download = "embeddings.parquet";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
