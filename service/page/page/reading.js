// Reads sequences from what was pasted or dropped: JSON, lines of JSON, CSV, NPZ and NPY. A fault names its place.

export class Fault extends Error {}

const MOST = 5000; // sequences of a file
const NOT_FEATURES = new Set(["id", "order", "label", "step", "time"]);

// A model reads `features` numbers a step, token ids, or texts: kind is "features", "tokens" or "text".
export async function readFile(file, model) {
  const extension = file.name.split(".").pop().toLowerCase();
  if (extension === "npz") return readNpz(await file.arrayBuffer(), file.name, model);
  if (extension === "npy") return [cut(readNpy(await file.arrayBuffer(), file.name), 0, null, "npy", file.name, model)];
  const text = await file.text();
  if (extension === "csv" || extension === "tsv") return readCsv(text, file.name, model, extension === "tsv" ? "\t" : ",");
  if (extension === "parquet") throw new Fault(`${file.name}: Parquet is read by lengthwise encode and by the bulk encoder. Here, CSV, JSON and NPZ are.`);
  return readText(text, file.name, model);
}

export function readText(text, name, model) {
  const trimmed = text.trim();
  if (!trimmed) throw new Fault(`${name} is empty.`);
  if (!/^[[{"\d-]/.test(trimmed) && model.kind === "text") return limit(trimmed.split("\n").filter(Boolean), name).map(asText);
  const rows = parseJson(trimmed, name, model);
  return limit(rows.sequences, name).map((one, index) => readOne(one, rows.places[index], index, model));
}

function parseJson(text, name, model) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    const lines = text.split("\n");
    if (lines.length > 1 && /^\s*[[{"]/.test(lines[0]) && isJson(lines[0])) return parseLines(lines, name);
    throw new Fault(`${name} is not JSON: ${error.message}.`);
  }
  const found = parsed?.sequences ?? parsed?.texts ?? parsed?.sequence ?? parsed?.input ?? parsed;
  if (typeof found === "string") return { sequences: [found], places: [name] };
  if (!Array.isArray(found)) throw new Fault(`${name} holds no list of sequences.`);
  const sequences = isOne(found, model) ? [found] : found;
  return { sequences, places: sequences.map((_, index) => `${name}, sequences[${index}]`) };
}

function isJson(line) {
  try {
    return JSON.parse(line) !== undefined;
  } catch {
    return false;
  }
}

function parseLines(lines, name) {
  const sequences = [], places = [];
  lines.forEach((line, index) => {
    if (!line.trim()) return;
    const place = `${name}, line ${index + 1}`;
    try {
      const parsed = JSON.parse(line);
      sequences.push(parsed?.sequence ?? parsed?.text ?? parsed);
    } catch (error) {
      throw new Fault(`${place} is not JSON: ${error.message}.`);
    }
    places.push(place);
  });
  return { sequences, places };
}

// One sequence is a list of token ids, or of steps that are lists of numbers; several are a list of those.
function isOne(found, model) {
  if (typeof found[0] === "number") return true;
  return model.kind === "features" && Array.isArray(found[0]) && !Array.isArray(found[0][0]);
}

function readOne(one, place, index, model) {
  const name = `${index + 1}`;
  if (typeof one === "string") {
    if (model.kind !== "text") throw new Fault(`${place} is a text, and the model reads ${describe(model)}.`);
    return asText(one, index);
  }
  if (!Array.isArray(one)) throw new Fault(`${place} is ${JSON.stringify(one)?.slice(0, 40)}: expected a list of steps.`);
  if (!one.length) throw new Fault(`${place} has no steps.`);
  if (model.kind !== "features") return { name, length: one.length, values: Int32Array.from(one, (id, step) => readId(id, `${place}[${step}]`, model)) };
  const width = model.features, values = new Float32Array(one.length * width);
  one.forEach((step, t) => {
    const numbers = typeof step === "number" && width === 1 ? [step] : step;
    if (!Array.isArray(numbers)) throw new Fault(`${place}[${t}] is ${JSON.stringify(step)}: expected a list of ${width} numbers.`);
    if (numbers.length !== width) throw new Fault(`${place}[${t}] has ${numbers.length} numbers: ${tellWidth(model, numbers.length, one.length)}`);
    numbers.forEach((number, f) => (values[t * width + f] = readNumber(number, `${place}[${t}][${f}]`)));
  });
  return { name, length: one.length, values };
}

function tellWidth(model, found, length) {
  const hint = length === model.features ? `, but the sequence has ${length} steps: channels-first data must be transposed` : "";
  return `the model reads ${model.features} in each step${hint}.`;
}

function describe(model) {
  return model.kind === "features" ? `${model.features} numbers a step` : model.kind === "tokens" ? "token ids" : "texts";
}

function asText(text, index) {
  return { name: `${index + 1}`, text, length: text.trim().split(/\s+/).length, values: null };
}

function readNumber(value, place) {
  const number = typeof value === "string" && value.trim() ? Number(value) : value;
  if (typeof number !== "number" || !Number.isFinite(Math.fround(number))) throw new Fault(`${place} is ${JSON.stringify(value)}: expected a number.`);
  return number;
}

function readId(value, place, model) {
  const id = readNumber(value, place);
  if (!Number.isInteger(id) || id < 1 || (model.vocabulary && id >= model.vocabulary)) throw new Fault(`${place} is ${id}: the model knows the token ids 1 to ${(model.vocabulary ?? 2 ** 31) - 1}.`);
  return id;
}

function limit(list, name) {
  if (list.length > MOST) throw new Fault(`${name} holds ${list.length} sequences: the page takes ${MOST}. The bulk encoder takes any number.`);
  return list;
}

// CSV is as training reads it: a step a line, with the columns id and order if there are several sequences. Without an
// id, an empty line ends a sequence. Features are found by the names that the model has for them; if it has none, or the
// file has no header, all columns are features by their place.
export function readCsv(text, name, model, separator = ",") {
  const lines = text.split(/\r?\n/);
  const first = splitCsv(lines[0], separator).map((cell) => cell.trim());
  const isNamed = model.columns.some((column) => first.includes(column));
  const hasHeader = isNamed || first.some((cell) => cell && !Number.isFinite(Number(cell)));
  const header = hasHeader ? first.map((cell) => cell.toLowerCase()) : first.map((_, index) => `column ${index + 1}`);
  const start = hasHeader ? 1 : 0;
  const textColumn = header.findIndex((cell) => cell === "text" || cell === "sequence");
  if (model.kind === "text" && textColumn >= 0) {
    const texts = lines.slice(start).map((line) => splitCsv(line, separator)[textColumn]).filter(Boolean);
    return limit(texts, name).map(asText);
  }
  const id = header.indexOf("id"), order = header.indexOf("order");
  const isByName = hasHeader && model.columns.length > 0;
  const columns = isByName ? findNamed(model.columns, first, name) : header.map((_, index) => index).filter((index) => !NOT_FEATURES.has(header[index]));
  const note = isByName || model.kind !== "features" ? "" : ` Columns were taken by their place: ${model.columns.length ? "the file has no header" : "the model has no names for them"}.`;
  const width = model.kind === "features" ? model.features : 1;
  if (columns.length !== width) throw new Fault(`${name}, line 1: ${columns.length} columns hold numbers (${columns.map((c) => header[c]).slice(0, 6).join(", ")}${columns.length > 6 ? ", …" : ""}): ${model.kind === "features" ? tellWidth(model) : "the model reads token ids, one column."}`);
  const groups = new Map();
  let part = 1;
  for (let row = start; row < lines.length; row++) {
    if (!lines[row].trim()) {
      part++;
      continue;
    }
    const cells = splitCsv(lines[row], separator);
    const key = id >= 0 ? cells[id] : `${part}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push({ row, cells, at: order >= 0 ? Number(cells[order]) : row });
  }
  limit([...groups.keys()], name);
  return [...groups].map(([key, steps]) => {
    steps.sort((one, other) => one.at - other.at);
    const values = model.kind === "features" ? new Float32Array(steps.length * width) : new Int32Array(steps.length);
    steps.forEach(({ row, cells }, t) => {
      if (cells.length < header.length) throw new Fault(`${name}, line ${row + 1} has ${cells.length} cells, and line 1 has ${header.length}.`);
      columns.forEach((column, f) => {
        const place = `${name}, line ${row + 1}, ${header[column]}`;
        values[t * width + f] = model.kind === "features" ? readNumber(cells[column], place) : readId(cells[column], place, model);
      });
    });
    return { name: key, length: steps.length, values, note };
  });
}

function findNamed(wanted, found, name) {
  return wanted.map((column) => {
    const places = found.flatMap((cell, at) => (cell === column ? [at] : []));
    if (!places.length) throw new Fault(`${name}, line 1: there is no column ${JSON.stringify(column)}, which the model reads.`);
    if (places.length > 1) throw new Fault(`${name}, line 1: ${places.length} columns have the name ${JSON.stringify(column)}.`);
    return places[0];
  });
}

function splitCsv(line, separator) {
  if (!line.includes('"')) return line.split(separator);
  return [...line.matchAll(/("([^"]|"")*"|[^,\t]*)([,\t]|$)/g)].slice(0, -1).map((found) => found[1].replace(/^"|"$/g, "").replaceAll('""', '"'));
}

async function readNpz(buffer, name, model) {
  const members = await unzip(buffer, name);
  for (const member of ["values.npy", "lengths.npy"]) if (!members[member]) throw new Fault(`${name} has no member ${member.slice(0, -4)}: expected values and lengths.`);
  const values = readNpy(members["values.npy"], name), lengths = [...readNpy(members["lengths.npy"], name).numbers].map(Number);
  const whole = lengths.reduce((sum, length) => sum + length, 0);
  if (whole !== values.shape[0]) throw new Fault(`${name}: lengths add up to ${whole}, and values has ${values.shape[0]} steps.`);
  let start = 0;
  return limit(lengths, name).map((length, index) => {
    start += length;
    return cut(values, start - length, start, `${index + 1}`, `${name}, sequence ${index + 1}`, model);
  });
}

function cut(array, start, stop, label, place, model) {
  const width = model.kind === "features" ? model.features : 1, end = stop ?? array.shape[0];
  const found = array.shape.length > 1 ? array.shape[1] : 1;
  if (end === start) throw new Fault(`${place} has no steps.`);
  if (found !== width) throw new Fault(`${place} has ${found} numbers a step: ${model.kind === "features" ? tellWidth(model, found, end - start) : "the model reads token ids."}`);
  const part = array.numbers.subarray(start * width, end * width);
  const read = model.kind === "features" ? (value, place) => readNumber(Number(value), place) : (value, place) => readId(Number(value), place, model);
  const values = (model.kind === "features" ? Float32Array : Int32Array).from(part, (value, at) => read(value, `${place}, step ${Math.floor(at / width)}`));
  return { name: label, length: end - start, values };
}

function readNpy(buffer, name) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  if (bytes[0] !== 0x93 || String.fromCharCode(...bytes.slice(1, 6)) !== "NUMPY") throw new Fault(`${name} is not an array of NumPy.`);
  const size = bytes[6] === 1 ? view.getUint16(8, true) : view.getUint32(8, true), start = (bytes[6] === 1 ? 10 : 12) + size;
  const head = new TextDecoder("latin1").decode(bytes.slice(start - size, start));
  const type = /'descr':\s*'([^']+)'/.exec(head)?.[1], shape = (/'shape':\s*\(([^)]*)\)/.exec(head)?.[1] ?? "").split(",").filter((part) => part.trim()).map(Number);
  const Kind = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i8": BigInt64Array }[type];
  if (!Kind || /'fortran_order':\s*True/.test(head)) throw new Fault(`${name} holds ${type}: expected <f4, <f8, <i4 or <i8, in C order.`);
  return { numbers: new Kind(buffer.slice(start)), shape };
}

// The directory at the end of a zip names each member, how it is packed, and where.
async function unzip(buffer, name) {
  const view = new DataView(buffer), members = {};
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Fault(`${name} is not an npz: it has no directory.`);
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left; left--) {
    const method = view.getUint16(at + 10, true), local = view.getUint32(at + 42, true), length = view.getUint16(at + 28, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = buffer.slice(start, start + view.getUint32(at + 20, true));
    const key = new TextDecoder().decode(new Uint8Array(buffer, at + 46, length));
    members[key] = method ? await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer() : packed;
    at += 46 + length + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return members;
}
