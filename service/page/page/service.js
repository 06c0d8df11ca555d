// Talks to the service that sent the page, with the key that its reader gave. Pages and workers use it.

let key = "";

export function setKey(given) {
  key = given;
}

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `The service answered ${status}.`);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(new URL(`../${path}`, import.meta.url), { ...options, headers });
  if (answer.ok) return answer;
  throw new Refusal(answer.status, await answer.json().catch(() => null));
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

// The sequences of one request, as JSON has them.
export function write(sequence, width) {
  if (sequence.text !== undefined) return sequence.text;
  if (sequence.values instanceof Int32Array) return Array.from(sequence.values);
  return Array.from({ length: sequence.length }, (_, t) => Array.from(sequence.values.subarray(t * width, (t + 1) * width)));
}

export async function encode(body) {
  const answer = await ask("encode", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...body, encoding_format: "base64" }) });
  return { ...(await answer.json()), timing: answer.headers.get("server-timing") };
}

export function decode(row) {
  return new Float32Array(Uint8Array.from(atob(row), (letter) => letter.charCodeAt(0)).buffer);
}

// Calls back with each event of a stream until it ends or is aborted; EventSource could not send a key.
export async function watch(path, tell, signal) {
  const answer = await ask(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) if (event.startsWith("data: ")) tell(JSON.parse(event.slice(6)));
  }
}
