"""The tensors of the Open Inference Protocol: JSON, and data in it or, raw and little-endian, behind it."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from service.codecs.kserve.schemas import InferHeader, TensorHeader
from service.codecs.kserve.tensor_json import Array, count_elements, kind_of, read_exact, read_plain
from service.codecs.question import Written
from service.errors import InvalidField, MalformedBody, RequestTooLong

HEADER_LENGTH = "Inference-Header-Content-Length"
HEADERS = ((b"content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or an answer.

    Attributes:
        name: its name.
        array: an array of its shape: float32, int64, or texts as objects.
        path: its place in the request.
    """

    name: str
    array: Array
    path: str = ""


def read(body: bytes, header_length: int | None, max_texts: int) -> tuple[InferHeader, list[Tensor]]:
    """Read an inference request.

    Args:
        body: JSON, and behind it the raw data, if any.
        header_length: bytes of the JSON; None if that is all of the body.
        max_texts: steps that a request may have, of which a text costs one at least.

    Returns:
        What it says, and its inputs. Raw numbers are views of the body, whatever their alignment in it.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: a tensor holds more texts.
    """
    if header_length is not None and header_length > len(body):
        raise MalformedBody("binary", f"{HEADER_LENGTH} is {header_length}, and the body has {len(body)} bytes")
    text = body[:header_length]
    raw = memoryview(body)[len(text) :]
    # If the numbers are raw, so little JSON is left that the exact way is the faster one.
    header, arrays = (None if raw else read_plain(text)) or read_exact(text)
    for index, tensor in enumerate(header.inputs):
        if count_elements(tensor, f"inputs[{index}]") > max_texts and tensor.datatype == "BYTES":
            raise RequestTooLong(max_texts, tensor.name)
    sizes = [tensor.parameters.binary_data_size for tensor in header.inputs]
    total = sum(size or 0 for size in sizes)
    if total != len(raw):
        raise MalformedBody("binary", f"{len(raw)} bytes follow its JSON, which announces {total} by binary_data_size")
    tensors: list[Tensor] = []
    start = 0
    for index, (tensor, size) in enumerate(zip(header.inputs, sizes, strict=True)):
        array = arrays[index]
        if (array is None) == (size is None):
            expected = "data, or binary_data_size in its parameters"
            raise InvalidField(f"inputs[{index}]", "without data" if array is None else "with data twice", expected)
        if array is None:
            path = f"inputs[{index}]"
            part = raw[start : start + (size or 0)]
            array = read_raw(part, tensor, path, f"{path}.parameters.binary_data_size")
        start += size or 0
        tensors.append(Tensor(tensor.name, array.reshape(tensor.shape), f"inputs[{index}]"))
    return header, tensors


def write(content: dict[str, Any], outputs: Sequence[tuple[Tensor, bool]]) -> Written:
    """Write an answer as JSON, with raw data behind it if they are wanted.

    Args:
        content: what the JSON holds beside the outputs.
        outputs: float32 tensors, each with whether it goes raw behind the JSON.
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor, is_raw in outputs:
        description: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": "FP32"}
        if is_raw:
            raw.append(tensor.array.astype("<f4", copy=False).tobytes())
            description["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            description["data"] = np.ascontiguousarray(tensor.array).reshape(-1)
        described.append(description)
    text = orjson.dumps({**content, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return text, HEADERS
    length = (HEADER_LENGTH.lower().encode(), b"%d" % len(text))
    return b"".join([text, *raw]), ((b"content-type", b"application/octet-stream"), length)


def read_raw(raw: memoryview, tensor: TensorHeader, path: str, place: str) -> Array:
    """Read the raw data of a tensor: numbers as a view, texts each behind its length in four bytes.

    Args:
        raw: the data.
        tensor: says what they are.
        path: the tensor's place in the request.
        place: that of what says how many bytes they have.

    Raises:
        InvalidField: they are not that.
    """
    kind, count = kind_of(tensor, path), count_elements(tensor, path)
    if kind.dtype == "O":
        return np.array(list(_read_texts(raw, count, path, place)), dtype=object)
    size = np.dtype(kind.dtype).itemsize
    if count * size != len(raw):
        expected = f"{count * size}, {size} for each of {count} numbers"
        raise InvalidField(place, str(len(raw)), expected)
    return np.frombuffer(raw, dtype=kind.dtype)


def _read_texts(raw: memoryview, count: int, path: str, place: str) -> Iterator[str]:
    start = 0
    for index in range(count):
        if start + 4 > len(raw):
            raise InvalidField(place, str(len(raw)), f"more: text {index} of {count} has no length")
        (size,) = struct.unpack_from("<I", raw, start)
        start += 4
        if start + size > len(raw):
            raise InvalidField(place, str(len(raw)), f"more: text {index} has {size} bytes")
        try:
            yield str(raw[start : start + size], "utf-8")
        except UnicodeDecodeError:
            raise InvalidField(f"{path}[{index}]", "not UTF-8", "a text") from None
        start += size
    if start != len(raw):
        raise InvalidField(place, str(len(raw)), f"{start}, the lengths and bytes of {count} texts")
