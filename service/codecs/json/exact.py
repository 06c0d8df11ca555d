"""Reads a request's JSON value by value, and names the first fault: slow, and sure."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import simdjson

from service.codecs.json.plain import to_float32
from service.encoder.sequences import (
    Features,
    InputSpec,
    Kind,
    Sequences,
    State,
    Steps,
    drop_padding,
    join,
)
from service.encoder.tokenizer import Texts
from service.errors import (
    FeatureMismatch,
    InvalidField,
    MalformedJson,
    NonFiniteValue,
    NotANumber,
    NotOffered,
)

FIELDS = ("sequences", "texts", "model", "lengths", "state", "outputs", "normalize", "encoding_format")
SHALLOW_BRACKETS = 900  # that many cannot be nested too deeply for any parser


def read_document(body: bytes) -> dict[str, Any]:
    """Parse a body.

    Raises:
        MalformedJson: it is not JSON.
        InvalidField: it is not an object, or a field stands twice.
    """
    document = _parse(body)
    if not isinstance(document, dict):
        raise InvalidField("The body", describe(document), "an object")
    return document


def read_sequences(document: dict[str, Any], spec: InputSpec) -> Sequences | Texts:
    """Read `sequences`, or `texts`, of a document that has one of them.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    if "texts" in document:
        for other in ("sequences", "lengths"):
            if other in document and spec.tokenize is not None:
                raise InvalidField(other, "given beside texts", "one of the two")
        return read_texts(document["texts"], "texts", spec)
    return read_nested(document["sequences"], "sequences", spec)


def read_nested(nested: object, field: str, spec: InputSpec) -> Sequences:
    """Read a list of sequences.

    Args:
        nested: what stands in the request.
        field: the place where it stands.
        spec: what the model reads.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    if not isinstance(nested, list):
        raise InvalidField(field, describe(nested), "a list of sequences")
    sequences = [_read_sequence(sequence, f"{field}[{index}]", spec.kind) for index, sequence in enumerate(nested)]
    return join(sequences, spec.kind, field)


def read_texts(texts: object, field: str, spec: InputSpec) -> Texts:
    """Read a list of texts.

    Args:
        texts: what stands in the request.
        field: the place where it stands.
        spec: what the model reads.

    Raises:
        NotOffered: the model has no tokenizer.
        InvalidField: it is not a list of strings.
    """
    if spec.tokenize is None:
        raise NotOffered(field, "asks for a tokenizer, and the model has none: send sequences")
    if not isinstance(texts, list):
        raise InvalidField(field, describe(texts), "a list of strings")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidField(f"{field}[{index}]", describe(text), "a string")
    return Texts(texts, field=field)


def read_line(line: bytes, spec: InputSpec) -> Steps | str:
    """Read one sequence that stands alone: a list of steps or of token ids, or a string if the model reads texts.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault, in `sequences[0]`.
    """
    value = _parse(line)
    if isinstance(value, str) and spec.tokenize is not None:
        return value
    return drop_padding(join([_read_sequence(value, "sequences[0]", spec.kind)], spec.kind)).values


def read_state(value: object, spec: InputSpec, rows: int) -> State:
    """Read `state`: for each sequence what it starts from, `{"h": [n][layers][directions][H], "c": ...}`.

    Raises:
        NotOffered: the model takes none.
        InvalidField: it is of another shape.
        NotANumber: something else stands where a number belongs.
        NonFiniteValue: a number is not finite.
    """
    if not spec.state_names:
        raise NotOffered("state", "is given, and the model starts every sequence from zero")
    if not isinstance(value, dict) or sorted(value) != sorted(spec.state_names):
        raise InvalidField("state", describe(value), f"an object with {' and '.join(spec.state_names)}")
    shape = (rows, *spec.state_shape)
    return {name: _read_array(value[name], f"state.{name}", shape) for name in spec.state_names}


def describe(value: object) -> str:
    """Say what kind of JSON value this is, quoting nothing long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return "a number"
        case str():
            return f"the string {quote(value)}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def quote(text: str) -> str:
    """Quote what a client wrote, shortened; the name of a field stays as it is."""
    return text if text in FIELDS else repr(text[:40])


def _read_sequence(sequence: object, path: str, kind: Kind) -> Steps:
    return _read_steps(sequence, path, kind) if isinstance(kind, Features) else _read_tokens(sequence, path)


def _read_tokens(sequence: object, path: str) -> Steps:
    if not isinstance(sequence, list):
        raise InvalidField(path, describe(sequence), "a sequence: a list of token ids")
    for time, token in enumerate(sequence):
        if isinstance(token, bool) or not isinstance(token, int):
            raise InvalidField(f"{path}[{time}]", describe(token), "a token id: an integer")
    return np.array(sequence, dtype=np.int64)


def _read_steps(sequence: object, path: str, kind: Features) -> Steps:
    features = kind.features
    if not isinstance(sequence, list):
        raise InvalidField(path, describe(sequence), "a sequence: a list of steps")
    for time, step in enumerate(sequence):
        if not isinstance(step, list):
            raise InvalidField(f"{path}[{time}]", describe(step), f"a step: a list of {features} numbers")
        for place, number in enumerate(step):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise NotANumber(f"{path}[{time}][{place}]", describe(number))
        if len(step) != features:
            is_even = all(isinstance(one, list) and len(one) == len(step) for one in sequence)
            raise FeatureMismatch(f"{path}[{time}]", len(step), features, len(sequence) if is_even else None)
    return to_float32(np.array(sequence, dtype=np.float64).reshape(len(sequence), features))


def _read_array(value: object, path: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Read nested lists of numbers of exactly this shape."""
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotANumber(path, describe(value))
        number = to_float32(np.array(value, dtype=np.float64))
        if not np.isfinite(number):
            raise NonFiniteValue(path)
        return number
    if not isinstance(value, list) or len(value) != shape[0]:
        raise InvalidField(path, describe(value), f"a list of {shape[0]}")
    parts = [_read_array(part, f"{path}[{index}]", shape[1:]) for index, part in enumerate(value)]
    return np.array(parts, dtype=np.float32).reshape(shape)


def _parse(body: bytes) -> Any:
    if _is_too_deep(body):
        raise MalformedJson("it is nested too deeply")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_int=_parse_int)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is not a character: this raises
    except RecursionError:
        raise MalformedJson("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise MalformedJson(f"its byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        place = _find_half(value, half)
        raise MalformedJson(f"{place} holds {ascii(half)[1:-1]}, which alone is half a character") from None
    except ValueError as error:
        raise MalformedJson(str(error)) from error
    return value


def _is_too_deep(body: bytes) -> bool:
    """Whether lists and objects are nested over 1024 times, which json takes or not by the version of Python."""
    if body.count(b"[") + body.count(b"{") <= SHALLOW_BRACKETS:
        return False
    try:
        simdjson.Parser().parse(body)
    except (RuntimeError, ValueError) as error:
        return str(error).startswith("DEPTH_ERROR")
    return False


def _find_half(value: object, half: str, place: str = "") -> str | None:
    """Return where half a character stands in a document."""
    if isinstance(value, str) and half in value:
        return place or "the string"
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, list):
        parts = ((f"{place}[{index}]", part) for index, part in enumerate(value))
    if isinstance(value, dict):
        if any(half in name for name in value):
            return f"the name of a field of {place or 'the body'}"
        parts = ((f"{place}.{name}".removeprefix("."), part) for name, part in value.items())
    return next((found for name, part in parts if (found := _find_half(part, half, name))), None)


def _parse_int(digits: str) -> int | float:
    """Read an integer; one beyond 64 bits becomes the nearest float, and one beyond any float infinity."""
    return int(digits) if len(digits) < 19 else float(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise InvalidField(quote(twice), "given twice", "each field once")
    return unique
