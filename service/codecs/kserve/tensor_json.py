"""The JSON of V2 requests: what they say of their tensors, and data that are not raw bytes, flat or nested.

Like `json.ragged`, it is read in two ways: a fast one that reads plain data straight into an array, and at any doubt an
exact one that names the fault.
"""

import codecs
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import simdjson

from service.codecs.json import exact
from service.codecs.json.plain import MAX_FIELDS, count_lists, to_float32
from service.codecs.kserve.schemas import InferHeader, TensorHeader
from service.codecs.options import validate
from service.errors import InvalidField, NotANumber

MAX_AXES, MAX_ELEMENTS = 8, 2**31  # what a shape may say; numpy cannot make arrays of any shape, not even empty ones

Array: TypeAlias = npt.NDArray[Any]


class Kind(NamedTuple):
    """How data of one datatype are read: by numpy, by simdjson, and value by value."""

    dtype: str
    buffer: str
    is_read: Callable[[object], bool]
    expected: str


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS = {
    "FP32": Kind("<f4", "d", _is_number, "a number"),
    "INT64": Kind("<i8", "i", _is_integer, "an integer of 64 bits"),
    "BYTES": Kind("O", "", lambda value: isinstance(value, str), "a string"),
}


def read_plain(text: bytes) -> tuple[InferHeader, list[Array | None]] | None:
    """Read JSON that is right and plain; return None at any doubt."""
    try:
        document: Any = simdjson.Parser().parse(text)
        if text.startswith(codecs.BOM_UTF8):
            return None
        fields = _convert(document, besides="inputs")
        inputs = [_convert(tensor, besides="data") for tensor in document["inputs"]]
        header = InferHeader.model_validate({**fields, "inputs": inputs})
        brackets = 1 + ("outputs" in fields)
        arrays: list[Array | None] = []
        for index, (tensor, source) in enumerate(zip(header.inputs, document["inputs"], strict=True)):
            brackets += 1
            count = count_elements(tensor, f"inputs[{index}]")
            if "data" not in source:
                arrays.append(None)
                continue
            data = source["data"]
            kind = KINDS[tensor.datatype]
            flat = data.as_buffer(of_type=kind.buffer)
            array: Array = np.frombuffer(flat, np.float64 if kind.buffer == "d" else np.int64)
            brackets += _count_lists(data, tensor.shape)
            if array.size != count:
                return None
            arrays.append(to_float32(array) if kind.buffer == "d" else array)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # pydantic's is a ValueError, too
        return None
    # simdjson flattens: any more brackets than these may be lists among the numbers.
    return (header, arrays) if count_lists(text) == brackets else None


def _convert(value: Any, besides: str = "") -> Any:
    """Turn what simdjson found into Python's, but for one field.

    Raises:
        ValueError: a field stands twice, or there are too many.
    """
    if isinstance(value, simdjson.Array):
        return [_convert(part) for part in value]
    if not isinstance(value, simdjson.Object):
        return value
    names = list(value.keys())  # items() would turn all that is below into Python's
    if len(set(names)) != len(names) or len(names) > MAX_FIELDS:
        raise ValueError
    return {name: _convert(value[name]) for name in names if name != besides}


def _count_lists(data: Any, shape: list[int]) -> int:
    """Count the lists of data that are flat, or nested as their shape says.

    Raises:
        ValueError: they are neither.
        TypeError: a number stands where a list belongs.
    """
    if not isinstance(data[0], simdjson.Array):
        return 1
    level, count = [data], 1
    for size in shape[:-1]:
        if any(len(part) != size for part in level):
            raise ValueError
        level = [child for part in level for child in part]
        count += len(level)
    if any(len(part) != shape[-1] for part in level):
        raise ValueError
    return count


def read_exact(text: bytes) -> tuple[InferHeader, list[Array | None]]:
    """Read JSON value by value, and name the first fault."""
    document = exact.read_document(text)
    inputs = document.get("inputs")
    described = inputs if isinstance(inputs, list) else []
    data = [tensor.pop("data", None) if isinstance(tensor, dict) else None for tensor in described]
    header = validate(InferHeader, document, InferHeader.model_fields)
    return header, [
        None if values is None else _read_values(values, tensor, f"inputs[{index}]")
        for index, (values, tensor) in enumerate(zip(data, header.inputs, strict=True))
    ]


def _read_values(values: object, tensor: TensorHeader, path: str) -> Array:
    """Read the data of a tensor, flat or nested as its shape says."""
    kind, count = kind_of(tensor, path), count_elements(tensor, path)
    is_flat = not (isinstance(values, list) and values and isinstance(values[0], list))
    shape = (count,) if is_flat else tuple(tensor.shape)
    found = list(_walk(values, f"{path}.data", shape, kind))
    if kind.dtype == "O":
        return np.array(found, dtype=object)
    return to_float32(np.array(found, dtype=np.float64)) if kind.buffer == "d" else np.array(found, np.int64)


def _walk(value: object, path: str, shape: tuple[int, ...], kind: Kind) -> Iterator[Any]:
    if not shape:
        if not kind.is_read(value):
            found = exact.describe(value)
            raise NotANumber(path, found) if kind.buffer == "d" else InvalidField(path, found, kind.expected)
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise InvalidField(path, exact.describe(value), f"a list of {shape[0]}, as the shape says")
    for index, part in enumerate(value):
        yield from _walk(part, f"{path}[{index}]", shape[1:], kind)


def kind_of(tensor: TensorHeader, path: str) -> Kind:
    """Return how data of a tensor's datatype are read.

    Raises:
        InvalidField: no input is of that datatype.
    """
    if tensor.datatype not in KINDS:
        raise InvalidField(f"{path}.datatype", exact.describe(tensor.datatype), f"one of {', '.join(KINDS)}")
    return KINDS[tensor.datatype]


def count_elements(tensor: TensorHeader, path: str) -> int:
    """Return how many elements a tensor has, by its shape.

    Raises:
        InvalidField: no array can be of that shape.
    """
    if len(tensor.shape) > MAX_AXES or prod(max(size, 1) for size in tensor.shape) > MAX_ELEMENTS:
        expected = f"at most {MAX_AXES} axes and {MAX_ELEMENTS} elements"
        raise InvalidField(f"{path}.shape", str(tensor.shape[: MAX_AXES + 1]), expected)
    return prod(tensor.shape)
