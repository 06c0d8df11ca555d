// Writes a table as Parquet, uncompressed: one row group, one page a column, its footer in Thrift's compact protocol.

const [INT32, FLOAT, BYTES] = [1, 4, 6], [REQUIRED, REPEATED] = [0, 2], [UTF8, LIST] = [0, 3];
const [I32, I64, BINARY, LISTS, STRUCT] = [5, 6, 8, 9, 12]; // types of Thrift
const text = new TextEncoder();

class Bytes {
  parts = [];
  size = 0;

  add(part) {
    this.parts.push(part);
    this.size += part.length;
    return this;
  }

  varint(value) {
    const part = [];
    for (; value >= 128; value = Math.floor(value / 128)) part.push((value % 128) + 128);
    return this.add([...part, value]);
  }

  join() {
    const whole = new Uint8Array(this.size);
    let at = 0;
    for (const part of this.parts) whole.set(part, at), (at += part.length);
    return whole;
  }
}

// Fields are [number, type, value], in order; a struct's value is its fields, a list's [type, values].
function writeStruct(into, fields) {
  let last = 0;
  for (const [number, type, value] of fields) {
    into.add([((number - last) << 4) | type]);
    writeValue(into, type, value);
    last = number;
  }
  into.add([0]);
}

function writeValue(into, type, value) {
  if (type === I32 || type === I64) into.varint(2 * value); // zigzag, and none is negative
  else if (type === BINARY) {
    const bytes = text.encode(value);
    into.varint(bytes.length).add(bytes);
  } else if (type === STRUCT) writeStruct(into, value);
  else {
    const [kind, values] = value;
    if (values.length < 15) into.add([(values.length << 4) | kind]);
    else into.add([0xf0 | kind]).varint(values.length);
    for (const one of values) writeValue(into, kind, one);
  }
}

function asBytes(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

// Columns: [name, "text", strings], [name, "int", Int32Array], [name, "float", Float32Array], or
// [name, "list", Float32Array, numbers in a row].
export function writeParquet(columns, rows) {
  const file = new Bytes().add(text.encode("PAR1")), chunks = [], schema = [[[4, BINARY, "schema"], [5, I32, columns.length]]];
  for (const [name, kind, values, width = 1] of columns) {
    const type = { text: BYTES, int: INT32, float: FLOAT, list: FLOAT }[kind], isList = kind === "list";
    if (isList)
      schema.push(
        [[3, I32, REQUIRED], [4, BINARY, name], [5, I32, 1], [6, I32, LIST]],
        [[3, I32, REPEATED], [4, BINARY, "list"], [5, I32, 1]],
        [[1, I32, FLOAT], [3, I32, REQUIRED], [4, BINARY, "element"]],
      );
    else schema.push([[1, I32, type], [3, I32, REQUIRED], [4, BINARY, name], ...(kind === "text" ? [[6, I32, UTF8]] : [])]);
    const page = new Bytes();
    if (isList) for (const levels of writeLevels(rows, width)) page.add(asBytes(Uint32Array.of(levels.length))).add(levels);
    if (kind === "text")
      for (const one of values) {
        const bytes = text.encode(one);
        page.add(asBytes(Uint32Array.of(bytes.length))).add(bytes);
      }
    else page.add(asBytes(values));
    const head = new Bytes(), number = rows * width, start = file.size;
    writeStruct(head, [[1, I32, 0], [2, I32, page.size], [3, I32, page.size], [5, STRUCT, [[1, I32, number], [2, I32, 0], [3, I32, 3], [4, I32, 3]]]]);
    file.add(head.join()).add(page.join());
    const path = isList ? [name, "list", "element"] : [name], size = file.size - start;
    chunks.push([[2, I64, start], [3, STRUCT, [
      [1, I32, type], [2, LISTS, [I32, [0, 3]]], [3, LISTS, [BINARY, path]], [4, I32, 0], [5, I64, number],
      [6, I64, size], [7, I64, size], [9, I64, start],
    ]]]);
  }
  const footer = new Bytes(), group = [[1, LISTS, [STRUCT, chunks]], [2, I64, file.size - 4], [3, I64, rows]];
  writeStruct(footer, [[1, I32, 1], [2, LISTS, [STRUCT, schema]], [3, I64, rows], [4, LISTS, [STRUCT, [group]]], [6, BINARY, "lengthwise"]]);
  return file.add(footer.join()).add(asBytes(Uint32Array.of(footer.size))).add(text.encode("PAR1")).join();
}

// Where rows begin, and that each number is there, in runs of equal values.
function writeLevels(rows, width) {
  const begins = new Bytes(), there = new Bytes().varint(2 * rows * width).add([1]);
  for (let row = 0; row < rows; row++) {
    begins.varint(2).add([0]);
    if (width > 1) begins.varint(2 * (width - 1)).add([1]);
  }
  return [begins.join(), there.join()];
}
