"""The native JSON: `{"sequences": [[[0.1, 0.2], ...], ...], ...}` in, `{"embeddings": [[...], ...], ...}` out.

Decoding is in two passes over different parsers. The fast one reads numbers straight into an array and checks only
what is cheap to check; at any doubt the exact one walks the document, and names the fault or reads what is right.
"""

import base64
import codecs
import json
from collections import Counter
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import orjson
import simdjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import (
    FeatureMismatch,
    InvalidField,
    InvalidLengths,
    MalformedJson,
    NotANumber,
    RequestTooLong,
)
from service.sequences import Embeddings, Sequences, Steps, join


class EncodeOptions(BaseModel):
    """Everything in a request but its sequences."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = Field(None, description="Name of the model, as `/info` gives it; the loaded one by default.")
    lengths: list[int] | None = Field(
        None, description="With sequences padded to one length: the number of valid steps in each."
    )
    normalize: bool = Field(False, description="Scale each embedding to L2 norm 1; a zero vector stays zero.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64` gives each embedding as base64 of its little-endian float32."
    )


class EncodeRequest(EncodeOptions):
    """Sequences to encode, each a list of steps, each step a list of the model's features."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sequences": [[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [[1.0, 0.0]]], "normalize": False}]
        }
    )

    sequences: Annotated[list[list[list[float]]], Field(min_length=1)]


class Usage(BaseModel):
    """What a request cost."""

    sequences: int
    steps: int = Field(description="Valid steps.")
    padded_steps: int = Field(description="Steps computed, padding included, in whatever batches the request ran in.")


class EncodeResponse(BaseModel):
    """One embedding for each sequence, in order."""

    embeddings: list[list[float]] | list[str]
    dim: int
    lengths: list[int]
    model: str
    usage: Usage


def decode(body: bytes, features: int, max_steps: int) -> tuple[Sequences, EncodeOptions]:
    """Decode a request body.

    Args:
        body: JSON, UTF-8.
        features: F, the numbers in each step.
        max_steps: steps in all sequences together; a body that must hold more is not parsed at all.

    Returns:
        The sequences, cut to `lengths` where these are given, and the options.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: there are more than `max_steps` steps.
    """
    # Brackets open the list of sequences, `lengths`, each sequence and each step; no sequence costs less than a step.
    if body.count(b"[") > 2 * max_steps + 2:
        raise RequestTooLong(max_steps)
    decoded = _decode_fast(body, features)
    sequences, fields = _decode_exactly(body, features) if decoded is None else decoded
    try:
        options = EncodeOptions.model_validate(fields)
    except ValidationError as error:
        _raise_first(error)
    return (sequences if options.lengths is None else _cut(sequences, options.lengths)), options


def encode(embeddings: Embeddings, lengths: list[int], model: str, usage: Usage, options: EncodeOptions) -> bytes:
    """Encode an answer.

    Args:
        embeddings: `(n, D)`, in the request's order.
        lengths: n valid steps.
        model: name of the model that ran.
        usage: what it cost.
        options: the request's own.
    """
    if options.normalize:
        norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
        embeddings = (embeddings / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    as_base64 = options.encoding_format == "base64"
    return orjson.dumps(
        {
            "embeddings": [base64.b64encode(row).decode() for row in embeddings.astype("<f4")]
            if as_base64
            else embeddings,
            "dim": embeddings.shape[1],
            "lengths": lengths,
            "model": model,
            "usage": usage.model_dump(),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _decode_fast(body: bytes, features: int) -> tuple[Sequences, dict[str, Any]] | None:
    """Decode a body that is right and plain; return None at any doubt."""
    try:
        document = simdjson.Parser().parse(body)
        if not isinstance(document, simdjson.Object) or body.startswith(codecs.BOM_UTF8):
            return None
        nested: Any = document["sequences"]
        step_sizes = [list(map(len, sequence)) for sequence in nested]
        numbers = np.frombuffer(nested.as_buffer(of_type="d"))  # flattened; refuses all that is not a number
        fields = {
            name: value.as_list() if isinstance(value, simdjson.Array) else value
            for name, value in document.items()
            if name != "sequences"
        }
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    lengths = np.array([len(sizes) for sizes in step_sizes], dtype=np.int64)
    steps = int(lengths.sum())
    plain = (
        len(fields) + 1 == len(document)  # or a key stands twice
        and all(sizes.count(features) == len(sizes) for sizes in step_sizes)
        and numbers.size == steps * features
    )
    # One bracket opens the list, one each sequence and each step; any more may be a list among the numbers.
    brackets = 1 + len(lengths) + steps + isinstance(fields.get("lengths"), list)
    if not plain or body.count(b"[") != brackets:
        return None
    return Sequences(_to_float32(numbers).reshape(steps, features), lengths), fields


def _decode_exactly(body: bytes, features: int) -> tuple[Sequences, dict[str, Any]]:
    """Decode any body, or raise its first fault."""
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_keys, parse_int=_parse_int)
    except RecursionError:
        raise MalformedJson("it is nested too deeply") from None
    except ValueError as error:
        raise MalformedJson(str(error)) from error
    if not isinstance(document, dict):
        raise InvalidField("The body", _describe(document), "an object with the field sequences")
    if "sequences" not in document:
        raise InvalidField("sequences", "missing", "a list of sequences")
    nested = document.pop("sequences")
    if not isinstance(nested, list):
        raise InvalidField("sequences", _describe(nested), "a list of sequences")
    sequences = [_read_sequence(sequence, f"sequences[{index}]", features) for index, sequence in enumerate(nested)]
    return join(sequences, features), document


def _read_sequence(sequence: object, path: str, features: int) -> Steps:
    if not isinstance(sequence, list):
        raise InvalidField(path, _describe(sequence), "a sequence: a list of steps")
    for time, step in enumerate(sequence):
        if not isinstance(step, list):
            raise InvalidField(f"{path}[{time}]", _describe(step), f"a step: a list of {features} numbers")
        for place, number in enumerate(step):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise NotANumber(f"{path}[{time}][{place}]", _describe(number))
        if len(step) != features:
            raise FeatureMismatch(f"{path}[{time}]", len(step), features)
    return _to_float32(np.array(sequence, dtype=np.float64).reshape(len(sequence), features))


def _to_float32(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such with its place
        return numbers.astype(np.float32)


def _parse_int(digits: str) -> int | float:
    """Read an integer; one beyond 64 bits becomes the nearest float, and one beyond any float infinity."""
    return int(digits) if len(digits) < 19 else float(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise InvalidField(_quote(twice), "given twice", "each field once")
    return unique


def _cut(sequences: Sequences, lengths: list[int]) -> Sequences:
    """Cut padded sequences to their lengths."""
    padded = sequences.split()
    if len(lengths) != len(padded):
        raise InvalidLengths("lengths", f"has {len(lengths)} entries for {len(padded)} sequences")
    for index, (steps, length) in enumerate(zip(padded, lengths, strict=True)):
        if len(steps) != len(padded[0]):
            reason = f"has {len(steps)} steps and sequences[0] has {len(padded[0])}: with lengths, all are padded alike"
            raise InvalidLengths(f"sequences[{index}]", reason)
        if not 0 <= length <= len(steps):
            raise InvalidLengths(f"lengths[{index}]", f"is {length}: expected 0 to {len(steps)}, the padded steps")
    cut = [steps[:length] for steps, length in zip(padded, lengths, strict=True)]
    return join(cut, sequences.values.shape[1])


def _raise_first(error: ValidationError) -> NoReturn:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else _quote(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(EncodeRequest.model_fields)
        raise InvalidField(path, "not a field of this request", f"one of {known}") from error
    raise InvalidField(path, _describe(first["input"]), first["msg"].removeprefix("Input should be ")) from error


def _describe(value: object) -> str:
    """Say what kind of JSON value this is, quoting nothing long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return "a number"
        case str():
            return f"the string {_quote(value)}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def _quote(text: str) -> str:
    """Quote what a client wrote, shortened; the name of a field stays as it is."""
    return text if text in EncodeRequest.model_fields else repr(text[:40])
