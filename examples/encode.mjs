// Encode sequences with fetch: node examples/encode.mjs [URL]
const url = process.argv[2] ?? "http://localhost:8000";
const sequences = [19, 7].map((length) => Array.from({ length }, (_, t) => Array.from({ length: 12 }, (_, f) => Math.sin(t + f))));

const response = await fetch(`${url}/encode`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ sequences, encoding_format: "base64" }),
});
const answer = await response.json();
if (!response.ok) throw new Error(answer.detail);
const embeddings = answer.embeddings.map((row) => new Float32Array(Uint8Array.from(atob(row), (c) => c.charCodeAt(0)).buffer));
console.log(embeddings.length, embeddings[0].length, answer.lengths, embeddings[1][0]);
