"""Ways to damage bodies and artifacts: bytes of any kind, and an artifact's protobuf, graph and manifest.

Each file is drawn from its number.
"""

import json
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import onnx
from google.protobuf.descriptor import FieldDescriptor

from service.encoder.manifest import METADATA_KEY

INTEGERS = (0, 1, -1, 2, 7, 8, 11, 16, 99, 2**20, 2**31 - 1)
LONG_INTEGERS = (*INTEGERS, 10**9, 10**12, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e38, float("nan"), float("inf"))
NUMBERS: dict[int, tuple[float, ...]] = {
    FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
    FieldDescriptor.TYPE_INT32: INTEGERS,
    FieldDescriptor.TYPE_INT64: LONG_INTEGERS,
    FieldDescriptor.TYPE_UINT64: tuple(map(abs, LONG_INTEGERS)),
}
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
WORDS = ("", "x" * 1000, "../../etc/passwd", "com.microsoft", "ai.onnx.ml", "embedding", "lengths", "\x1b[31m\n", "é")
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 1e308, float("nan"), float("inf"), 10**30, 2**40, "", "tokens", "text", "<i8", "<f4"),
    *("../../etc/passwd", "a\n", "/dev/zero", "\ud800", "AAAAAA==", "x" * 10**6, [], {}, [0] * 10**5, [[]], [None]),
    json.loads("[" * 150 + "]" * 150),
)

# What breaks parsers: ends of ranges, other kinds, unfinished and unexpected pieces, in text and in raw numbers.
PIECES: tuple[bytes, ...] = (
    *(b"null true false NaN Infinity -0 1e400 1e-400 9223372036854775808 18446744073709551616 0.5 1 50 -1".split()),
    *(b'[ ] [] [[ ]] { } {} , : " \\ "texts" "sequences" "lengths" "state" "inputs" "shape" "data" \\ud800'.split()),
    *(b"\x00", b"\xff", b"\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x00\x00\xc0\x7f", b"\xff" * 4, b"\xff" * 8),
    *(value.to_bytes(8, "little") for value in (1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)),
)

Seeds: TypeAlias = list[bytes]
Draw: TypeAlias = random.Random


def cut(content: bytes, _seeds: Seeds, draw: Draw) -> bytes:
    """Leave only the beginning, as a writer does that is not done."""
    return content[: draw.randrange(len(content))]


def flip(content: bytes, _seeds: Seeds, draw: Draw) -> bytes:
    """Flip bits, as bad memory does."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 4, 64))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def mutate(body: bytes, others: Seeds, draw: Draw) -> bytes:
    """Damage a body in one to four places."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        start = draw.randrange(len(body) + 1)
        stop = min(len(body), start + draw.choice((1, 1, 2, 4, 8, 30)))
        match draw.randrange(8):
            case 0:
                body = body[:start] + body[stop:]
            case 1:
                body = body[:stop] + body[start:stop] * draw.choice((1, 2, 300)) + body[stop:]
            case 2:
                body = body[:start] + draw.choice(PIECES) + body[start:]
            case 3 | 4:
                word = draw.choice(PIECES)
                body = body[:start] + word + body[start + len(word) :]
            case 5:
                other = draw.choice(others)
                body = body[:start] + other[draw.randrange(len(other) + 1) :]
            case 6:
                body = body[:start] + draw.choice((b"[", b'{"a":', b"]", b"0")) * draw.choice((50, 2000)) + body[start:]
            case _ if start < len(body):
                body = body[:start] + bytes([body[start] ^ 1 << draw.randrange(8)]) + body[start + 1 :]
    return body


def edit_fields(content: bytes, _seeds: Seeds, draw: Draw) -> bytes:
    """Change fields anywhere in the protobuf, so that it still is one."""
    model = onnx.load_from_string(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        _edit_field(model, draw)
    edited: bytes = model.SerializeToString()
    return edited


def use_operator(content: bytes, _seeds: Seeds, draw: Draw) -> bytes:
    """Put another operator, or other inputs, in place of a node's own."""
    model = onnx.load_from_string(content)
    node = draw.choice(model.graph.node)
    if draw.random() < 0.7:
        node.op_type = draw.choice(OPERATORS)
    names = [name for one in model.graph.node for name in one.output] + [one.name for one in model.graph.initializer]
    for place in range(len(node.input)):
        if draw.random() < 0.3:
            node.input[place] = draw.choice(names)
    edited: bytes = model.SerializeToString()
    return edited


def edit_manifest(content: bytes, _seeds: Seeds, draw: Draw) -> bytes:
    """Change what the manifest says, in valid JSON or not."""
    model = onnx.load_from_string(content)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    if draw.random() < 0.2:
        entry.value = mutate(entry.value.encode(), [entry.value.encode()], draw).decode(errors="replace")
    else:
        manifest = json.loads(entry.value)
        for _ in range(draw.choice((1, 1, 2, 3))):
            _edit_json(manifest, draw)
        entry.value = json.dumps(manifest)
    edited: bytes = model.SerializeToString()
    return edited


DAMAGES: tuple[Callable[[bytes, Seeds, Draw], bytes], ...] = (
    cut,
    flip,
    mutate,
    edit_fields,
    use_operator,
    edit_manifest,
)


def _edit_field(message: Any, draw: Draw) -> None:
    """Change one field of a message, or of one inside it."""
    filled = message.ListFields()
    if not filled or draw.random() < 0.1:
        _set_field(message, draw.choice(message.DESCRIPTOR.fields), draw)
        return
    descriptor, value = draw.choice(filled)
    if descriptor.message_type is not None and draw.random() < 0.9:
        _edit_field(draw.choice(value) if descriptor.is_repeated else value, draw)
    elif descriptor.is_repeated and draw.random() < 0.5:
        parts = list(value)
        draw.choice((parts.pop, lambda: draw.shuffle(parts), lambda: parts.extend(parts[:1] * 3), parts.clear))()
        message.ClearField(descriptor.name)
        getattr(message, descriptor.name).extend(parts)
    elif draw.random() < 0.2:
        message.ClearField(descriptor.name)
    else:
        _set_field(message, descriptor, draw)


def _set_field(message: Any, descriptor: FieldDescriptor, draw: Draw) -> None:
    """Give a field, or one part of it, a value that nobody expects."""
    found = getattr(message, descriptor.name)
    if descriptor.message_type is not None:
        _edit_field(found.add() if descriptor.is_repeated else found, draw)
    elif not descriptor.is_repeated:
        setattr(message, descriptor.name, _draw_value(descriptor, found, draw))
    elif found:
        place = draw.randrange(len(found))
        found[place] = _draw_value(descriptor, found[place], draw)
    else:
        found.append(_draw_value(descriptor, descriptor.default_value or b"", draw))


def _draw_value(descriptor: FieldDescriptor, found: Any, draw: Draw) -> Any:
    if descriptor.type == FieldDescriptor.TYPE_BYTES:
        return mutate(found, [found], draw)
    if descriptor.type == FieldDescriptor.TYPE_STRING:
        return draw.choice((*WORDS, draw.choice(OPERATORS)))
    if descriptor.enum_type is not None:
        return draw.choice(descriptor.enum_type.values).number
    return draw.choice(NUMBERS[descriptor.type])


def _edit_json(found: Any, draw: Draw) -> None:
    """Replace, remove or repeat something in a list or an object, or deeper inside it."""
    keys = list(found) if isinstance(found, dict) else list(range(len(found)))
    if not keys:
        return
    key = draw.choice(keys)
    if isinstance(found[key], dict | list) and draw.random() < 0.7:
        _edit_json(found[key], draw)
    elif draw.random() < 0.1:
        del found[key]
    elif isinstance(found, list) and draw.random() < 0.2:
        found.extend([found[key]] * draw.choice((1, 10, 1000)))
    else:
        found[key] = draw.choice(JSON_VALUES)


def draw_file(number: int, seeds: Seeds) -> bytes:
    """Return the file of a number."""
    draw = random.Random(number)  # noqa: S311 - files are to be drawn again
    return DAMAGES[number % len(DAMAGES)](draw.choice(seeds), seeds, draw)
