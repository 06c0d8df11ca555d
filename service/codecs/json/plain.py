"""The fast way to read JSON that is right and plain: numbers go straight into an array, and little is checked.

Whatever it takes, `exact` reads the same; at any doubt it takes nothing.
"""

import codecs
import re
from typing import Any, TypeAlias

import numpy as np
import simdjson

from service.codecs import large
from service.codecs.json import exact
from service.codecs.question import Choose
from service.encoder.sequences import InputSpec, Sequences
from service.errors import RequestTooLong
from service.settings import Limits

OTHER_VALUES = 1000  # in a request: its options, and the fields around them
MAX_FIELDS = 64  # of an object: simdjson looks at each to find one
COUNTED_BYTES = 2**13  # up to which bytes.count is the faster way to count
OPENING = re.compile(rb"\s*:\s*\[")

Plain: TypeAlias = tuple[Sequences, InputSpec, dict[str, Any]]  # and the other fields


def count_lists(body: bytes) -> int:
    """Count opening brackets."""
    return _count(body, b"[")


def require_values(body: bytes, limits: Limits, step_values: int) -> None:
    """Refuse JSON that holds too much to be right.

    Raises:
        RequestTooLong: it does; see `holds_too_much`.
    """
    if holds_too_much(body, limits, step_values):
        raise RequestTooLong(limits.max_request_steps)


def holds_too_much(body: bytes, limits: Limits, step_values: int) -> bool:
    """Whether JSON is of so many values that it cannot be right: as Python's own, they would take ten times its bytes.

    Commas part values and quotes go around strings, and texts may hold either.

    Args:
        body: JSON.
        limits: what one request may hold.
        step_values: values that a sequence of one step takes; half of all steps may be padding.
    """
    if len(body) <= limits.max_request_characters:  # and so under either bound: to look no further costs the least
        return False
    others = limits.max_request_characters + OTHER_VALUES
    bounds = {b",": 2 * step_values * limits.max_request_steps + others, b'"': 2 * limits.max_request_steps + others}
    return any(len(body) > most and _count(body, sign) > most for sign, most in bounds.items())


def _count(body: bytes, sign: bytes) -> int:
    """Count a byte; bytes.count is five times as slow where there are many, and faster where few."""
    if len(body) < COUNTED_BYTES:
        return body.count(sign)
    whole = np.frombuffer(body, dtype=np.uint8)
    pieces = (whole[start : start + large.PIECE_BYTES] for start in range(0, len(whole), large.PIECE_BYTES))
    return sum(int(np.count_nonzero(piece == ord(sign))) for piece in pieces)


def decode_plain(body: bytes, choose: Choose, field: str = "sequences", *, may_be_alone: bool = False) -> Plain | None:
    """Decode a body that is right and plain; return None at any doubt.

    Args:
        body: JSON. A large one takes a thread.
        choose: the model.
        field: where the sequences stand.
        may_be_alone: whether one sequence may stand in place of a list of them.
    """
    if len(body) > large.PIECED_BODY_BYTES and (decoded := _decode_pieces(body, choose, field)):
        return decoded
    return _decode_whole(body, choose, field, may_be_alone=may_be_alone)


def _decode_pieces(body: bytes, choose: Choose, field: str) -> Plain | None:
    """Decode the list of sequences apart from what is around it, some sequences at a time.

    A parser holds the interpreter until it is through, 30 ms for 9 MB; between pieces others have their turn, and less
    memory is faster, too. Each piece must itself be a list of sequences, and what is left without them a request for
    none: were the list another one of that name, deeper down or given twice, that would open one list too many.
    """
    key = b'"%s"' % field.encode()
    place = body.find(key)
    opening = OPENING.match(body, place + len(key)) if place >= 0 else None
    if opening is None:
        return None
    start, quote = opening.end(), body.find(b'"', opening.end())  # there is none in a list of numbers
    stop = body.rfind(b"]", start, quote if quote >= 0 else len(body))
    rest = body[:start] + body[stop:]
    if (around := _decode_whole(rest, choose, field)) is None:
        return None
    sequences, spec, fields = around
    parts = [sequences]
    between = b"]," if spec.features is None else b"]],"
    while start <= stop:
        cut = body.find(between, start + large.PIECE_BYTES, stop)
        end = stop if cut < 0 else cut + len(between) - 1
        part = _decode_whole(b'{"%s":[%s]}' % (field.encode(), body[start:end]), lambda _: spec, field)
        if part is None or not len(part[0].lengths):  # what is empty follows a comma too many
            return None
        parts.append(part[0])
        start = end + 1
        large.give_way()
    values = np.concatenate([part.values for part in parts])
    return Sequences(values, np.concatenate([part.lengths for part in parts]), field=field), spec, fields


def _decode_whole(body: bytes, choose: Choose, field: str, *, may_be_alone: bool = False) -> Plain | None:
    """Decode a body in one go."""
    try:
        document = simdjson.Parser().parse(body)
        if not isinstance(document, simdjson.Object) or body.startswith(codecs.BOM_UTF8):
            return None
        nested: Any = document[field]
        names = [*document.keys()]
        if len(names) > MAX_FIELDS:
            return None
        spec = choose(exact.name_model(document) if "model" in names else None)  # get() is slow to find nothing
        is_alone = may_be_alone and exact.is_alone(nested, spec)
        listed = [nested] if is_alone else nested
        # Flattened; refuses all that is not a number, and for ids all that is not an integer.
        if spec.features is None:
            sizes = list(map(len, listed))
            values: Any = np.frombuffer(nested.as_buffer(of_type="i"), dtype=np.int64)
            plain = values.size == sum(sizes)
        else:
            step_sizes = [list(map(len, sequence)) for sequence in listed]
            sizes = list(map(len, step_sizes))
            numbers = np.frombuffer(nested.as_buffer(of_type="d"))
            plain = numbers.size == sum(sizes) * spec.features and all(
                row.count(spec.features) == len(row) for row in step_sizes
            )
            values = numbers
        # Not items(), which turns every value into Python's own, the sequences too.
        others = {name: document[name] for name in names if name != field}
        fields = {
            name: value.as_list() if isinstance(value, simdjson.Array) else value for name, value in others.items()
        }
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    # One bracket opens the list, one each sequence and each step; any more may be a list among the numbers.
    brackets = (not is_alone) + len(sizes) + (0 if spec.features is None else sum(sizes))
    brackets += sum(isinstance(value, list) for value in fields.values())
    plain = plain and "texts" not in fields and len(fields) + 1 == len(document)  # a key may stand twice
    if not plain or count_lists(body) != brackets:
        return None
    if spec.features is not None:
        values = exact.to_float32(values).reshape(sum(sizes), spec.features)
    return Sequences(values, np.array(sizes, dtype=np.int64), field=field), spec, fields
