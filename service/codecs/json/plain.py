"""The fast way to read JSON that is right and plain: numbers go straight into an array, and little is checked.

Whatever it takes, `exact` reads the same; at any doubt it takes nothing. What a body may hold is counted here, too.
"""

import codecs
import re
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from math import inf, prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import simdjson

from service.codecs import large
from service.encoder.sequences import Features, InputSpec, Kind, Sequences
from service.errors import RequestTooLong
from service.settings import Limits

OTHER_VALUES = 1000  # in a request: its options, and the fields around them
MAX_FIELDS = 64  # of an object: simdjson looks at each to find one
COUNTED_BYTES = 2**13  # up to which bytes.count is the faster way to count
OPENING = re.compile(rb"\s*:\s*\[")

_QUIET = Context()  # in which NumPy does not warn; to make one for each request would take as long as rounding
_QUIET.run(np.seterr, over="ignore")

Fields: TypeAlias = dict[str, Any]
ReadPlain: TypeAlias = Callable[[Kind], Sequences | None]  # reads what is plain; None at any doubt
Plain: TypeAlias = tuple[Fields, ReadPlain]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the sequences of some models take in JSON.

    Attributes:
        step_values: values that a sequence of one step takes at most: its numbers, its length and its state.
        state_lists: lists that the state of one sequence takes at most.
    """

    step_values: int = 0
    state_lists: int = 0

    @classmethod
    def of(cls, specs: Iterable[InputSpec]) -> "Bounds":
        """Take the most of what each model reads."""
        values = lists = 0
        for spec in specs:
            names, (layers, directions, *_) = len(spec.state_names), (*spec.state_shape, 0, 0)
            values = max(values, prod(spec.kind.shape) + 1 + names * prod(spec.state_shape))
            lists = max(lists, names * (1 + layers * (1 + directions)))
        return cls(values, lists)


def count_lists(body: bytes) -> int:
    """Count opening brackets; in a small body they are so far apart that it is faster to take them out."""
    return len(body) - len(body.replace(b"[", b"")) if len(body) < COUNTED_BYTES else _count(body, b"[")


def require_bounds(body: bytes, limits: Limits, bounds: Bounds, lists: float = inf, field: str = "sequences") -> None:
    """Refuse JSON that holds too much to be right, or opens more than so many lists, before it is parsed.

    Raises:
        RequestTooLong: it does.
    """
    if holds_too_much(body, limits, bounds):
        raise RequestTooLong(limits.max_request_steps)
    if len(body) > lists and count_lists(body) > lists:
        raise RequestTooLong(limits.max_request_steps, field)


def holds_too_much(body: bytes, limits: Limits, bounds: Bounds) -> bool:
    """Whether JSON is of so many values that it cannot be right: as Python's own, they would take ten times its bytes.

    Commas part values and quotes go around strings, and texts may hold either. Half of all steps may be padding.
    """
    if len(body) <= limits.max_request_characters:  # and so under either bound: to look no further costs the least
        return False
    others = limits.max_request_characters + OTHER_VALUES
    steps = 2 * limits.max_request_steps
    most = {b",": bounds.step_values * steps + others, b'"': steps + others}
    return any(len(body) > number and _count(body, sign) > number for sign, number in most.items())


def _count(body: bytes, sign: bytes) -> int:
    """Count a byte; bytes.count is five times as slow if there are many, and faster if there are few."""
    if len(body) < COUNTED_BYTES:
        return body.count(sign)
    whole = np.frombuffer(body, dtype=np.uint8)
    pieces = (whole[start : start + large.PIECE_BYTES] for start in range(0, len(whole), large.PIECE_BYTES))
    return sum(int(np.count_nonzero(piece == ord(sign))) for piece in pieces)


def parse_plain(body: bytes, field: str = "sequences", *, may_be_alone: bool = False) -> Plain | None:
    """Parse a body that is right and plain; return None at any doubt.

    Args:
        body: JSON. A large one takes a thread.
        field: the name of the field that holds the sequences.
        may_be_alone: whether one sequence may stand in place of a list of them.

    Returns:
        The other fields, and what reads the sequences once it is known what their steps are.
    """
    if len(body) > large.PIECED_BODY_BYTES and (parsed := _parse_around(body, field, may_be_alone=may_be_alone)):
        return parsed
    return _parse_whole(body, field, may_be_alone=may_be_alone)


def _parse_around(body: bytes, field: str, *, may_be_alone: bool) -> Plain | None:
    """Parse what is around the list of sequences, which is read apart from it, some sequences at a time.

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
    around = _parse_whole(body[:start] + body[stop:], field)
    if around is None or around[1](Features(1)) is None:
        return None

    def read(kind: Kind) -> Sequences | None:
        if (sequences := _read_pieces(body, field, start, stop, kind)) is not None:
            return sequences
        whole = _parse_whole(body, field, may_be_alone=may_be_alone)
        return whole and whole[1](kind)

    return around[0], read


def _read_pieces(body: bytes, field: str, start: int, stop: int, kind: Kind) -> Sequences | None:
    """Read the list of sequences that stands between two places of a body."""
    parts = []
    between = b"]]," if isinstance(kind, Features) else b"],"
    while start <= stop:
        cut = body.find(between, start + large.PIECE_BYTES, stop)
        end = stop if cut < 0 else cut + len(between) - 1
        parsed = _parse_whole(b'{"%s":[%s]}' % (field.encode(), body[start:end]), field)
        part = parsed and parsed[1](kind)
        if part is None or not len(part.lengths):  # what is empty follows a comma too many
            return None
        parts.append(part)
        start = end + 1
        large.give_way()
    values = np.concatenate([part.values for part in parts])
    return Sequences(values, np.concatenate([part.lengths for part in parts]), field=field)


def _parse_whole(body: bytes, field: str, *, may_be_alone: bool = False) -> Plain | None:
    """Parse a body in one go."""
    try:
        document = simdjson.Parser().parse(body)
        if not isinstance(document, simdjson.Object) or body.startswith(codecs.BOM_UTF8):
            return None
        nested: Any = document[field]
        fields = {} if len(document) == 1 else _read_others(document, field)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    if fields is None:
        return None
    opened = count_lists(body) - [*map(type, fields.values())].count(list)
    return fields, partial(_read_whole, nested, opened, field, may_be_alone=may_be_alone)


def _read_others(document: Any, field: str) -> Fields | None:
    """Read the fields of an object beside the one that holds the sequences; return None at any doubt."""
    names = [*document.keys()]
    if len(names) > MAX_FIELDS:
        return None
    # Not items(), which turns every value into Python's own, the sequences too.
    others = {name: document[name] for name in names if name != field}
    if "texts" in others or len(others) + 1 != len(document):  # a key may stand twice
        return None
    if any(isinstance(value, simdjson.Object) for value in others.values()):  # as a state is
        return None
    return {name: value.as_list() if isinstance(value, simdjson.Array) else value for name, value in others.items()}


def _read_whole(nested: Any, opened: int, field: str, kind: Kind, *, may_be_alone: bool) -> Sequences | None:
    """Read the sequences of a body, which opens so many lists for them and among them."""
    try:
        alone = may_be_alone and is_alone(nested, kind)
        listed = [nested] if alone else nested
        # Flattened; refuses all that is not a number, and for ids all that is not an integer.
        if isinstance(kind, Features):
            step_sizes = [list(map(len, sequence)) for sequence in listed]
            sizes = list(map(len, step_sizes))
            steps = sum(sizes)
            values: Any = np.frombuffer(nested.as_buffer(of_type="d"))
            plain = values.size == steps * kind.features and all(
                row.count(kind.features) == len(row) for row in step_sizes
            )
        else:
            sizes, steps = list(map(len, listed)), 0
            values = np.frombuffer(nested.as_buffer(of_type="i"), dtype=np.int64)
            plain = values.size == sum(sizes)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    # One bracket opens the list, one each sequence and each step; any more may be a list among the numbers.
    if not plain or opened != (not alone) + len(sizes) + steps:
        return None
    if isinstance(kind, Features):
        values = to_float32(values).reshape(steps, kind.features)
    return Sequences(values, np.array(sizes, dtype=np.int64), field=field)


def is_alone(nested: Any, kind: Kind) -> bool:
    """Whether what may be one sequence or a list of them is one, by its first element that is not an empty list.

    Args:
        nested: a list of either parser.
        kind: what a step is.
    """
    lists = (list, simdjson.Array)
    first = next((part for part in nested if not isinstance(part, lists) or len(part)), None)
    if isinstance(kind, Features):
        return isinstance(first, lists) and not isinstance(first[0], lists)
    return first is not None and not isinstance(first, lists)


def to_float32(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Round to float32; what overflows becomes infinite, and is refused as such with its place."""
    return _QUIET.copy().run(numbers.astype, np.float32)
