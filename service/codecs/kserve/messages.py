"""The messages of the Open Inference Protocol over gRPC: tensors in protobuf, raw or as typed contents."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from service.codecs.kserve import inference, tensors
from service.codecs.kserve.schemas import InferHeader, TensorHeader
from service.codecs.kserve.tensor_json import Array, count_elements, kind_of
from service.codecs.kserve.tensors import Tensor
from service.codecs.options import validate
from service.codecs.question import RAW_BYTES, Question, Written
from service.errors import InvalidField, MalformedBody, RequestTooLong

SERVICE = "inference.GRPCInferenceService"
HEADERS = ((b"content-type", b"application/x-protobuf"),)
CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}

# Bodies up to this size are decoded at once: what they can grow to is a few megabytes.
SMALL_BYTES = 2**16
MAX_FIELDS = 1000  # of a message, beside its texts
MAX_SHAPE_BYTES = 80
MAX_INTEGERS = 2**22  # of a message, packed: 32 MB in memory, of which each may have come as one byte
# Which fields hold messages, by their numbers: of a request, of an input, of its contents.
INPUT, SHAPE, TEXT = 5, 3, 8
INTEGERS = range(1, 6)  # the fields of contents that are packed varints
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "request": {4: "map", INPUT: "input", 6: "output"},
    "input": {4: "map", 5: "contents"},
    "output": {2: "map"},
    "map": {2: "value"},
}

# A pool of our own: clients of the protocol have these names in the one that all share.
POOL = DescriptorPool()
FILE = "open_inference.proto"
POOL.Add(FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes()).file[0])


def message(kind: str, /, **fields: Any) -> Any:
    """Make a message of the protocol."""
    return _kind_of(kind)(**fields)


def decode(kind: str, body: bytes, max_texts: int = 0) -> Any:
    """Read a message of the protocol.

    Args:
        kind: its kind.
        body: as it came.
        max_texts: texts that it may hold.

    Raises:
        MalformedBody: it is not one, or has more parts than any request needs, each of which takes memory.
        RequestTooLong: it holds more texts.
    """
    if len(body) > SMALL_BYTES:
        _require_few_fields(memoryview(body), "request", [MAX_FIELDS, max_texts, MAX_INTEGERS], max_texts)
    try:
        return _kind_of(kind).FromString(body)
    except DecodeError:
        raise MalformedBody("protobuf", f"it is not a {kind}") from None


def parse(request: Any, signature: inference.Signature) -> Question:
    """Parse a request to infer.

    Args:
        request: a `ModelInferRequest`.
        signature: what the model reads and gives.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: a tensor holds more texts than a request may have.
    """
    header = validate(InferHeader, _read_header(request), InferHeader.model_fields)
    raw = [memoryview(part) for part in request.raw_input_contents]
    if raw and len(raw) != len(header.inputs):
        raise InvalidField("raw_input_contents", f"{len(raw)} parts", f"{len(header.inputs)}, one for each input")
    found = []
    for index, (described, given) in enumerate(zip(header.inputs, request.inputs, strict=True)):
        path = f"inputs[{index}]"
        if described.datatype == "BYTES" and count_elements(described, path) > signature.limits.max_request_steps:
            raise RequestTooLong(signature.limits.max_request_steps, described.name)
        if raw:
            if given.HasField("contents"):
                raise InvalidField(f"{path}.contents", "given beside raw_input_contents", "one of the two")
            array = tensors.read_raw(raw[index], described, path, f"raw_input_contents[{index}]")
        else:
            array = _read_contents(given.contents, described, path)
        found.append(Tensor(described.name, array.reshape(described.shape), path))
    question = inference.ask(header, found, signature, partial(_write, is_raw=bool(raw)))
    return replace(question, number_bytes=RAW_BYTES)


def _kind_of(name: str) -> type[Any]:
    kind: type[Any] = GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))
    return kind


def _read_header(request: Any) -> dict[str, object]:
    """Return what a request says, without its data, in the shape of the protocol's JSON."""
    inputs = [
        {"name": one.name, "shape": list(one.shape), "datatype": one.datatype, "parameters": {}}
        for one in request.inputs
    ]
    outputs = [{"name": one.name} for one in request.outputs]
    parameters = {name: _read_parameter(value) for name, value in request.parameters.items()}
    return {"id": request.id or None, "parameters": parameters, "inputs": inputs, "outputs": outputs or None}


def _read_parameter(value: Any) -> object:
    choice = value.WhichOneof("parameter_choice")
    return None if choice is None else getattr(value, choice)


def _read_contents(contents: Any, tensor: TensorHeader, path: str) -> Array:
    """Read the typed contents of a tensor."""
    kind, count = kind_of(tensor, path), count_elements(tensor, path)
    name = CONTENTS[tensor.datatype]
    others = [field.name for field, _ in contents.ListFields() if field.name != name]
    if others:
        raise InvalidField(f"{path}.contents.{others[0]}", "given", f"{name}, for {tensor.datatype}")
    values = getattr(contents, name)
    if len(values) != count:
        raise InvalidField(f"{path}.contents.{name}", f"of {len(values)} elements", f"{count}, as the shape says")
    if tensor.datatype != "BYTES":
        return np.fromiter(values, kind.dtype, count)
    array = np.empty(count, dtype=object)
    for index, value in enumerate(values):
        try:
            array[index] = str(value, "utf-8")
        except UnicodeDecodeError:
            raise InvalidField(f"{path}.contents.{name}[{index}]", "not UTF-8", "a text") from None
    return array


def _write(content: dict[str, Any], outputs: list[tuple[Tensor, bool]], *, is_raw: bool) -> Written:
    """Write an answer: raw if the request was, for no client reads both."""
    answer = message("ModelInferResponse", **content)
    for tensor, _ in outputs:
        described = answer.outputs.add(name=tensor.name, datatype="FP32", shape=tensor.array.shape)
        flat = np.ascontiguousarray(tensor.array, dtype="<f4").reshape(-1)
        if is_raw:
            answer.raw_output_contents.append(flat.tobytes())
        else:
            described.contents.fp32_contents.extend(flat)
    return answer.SerializeToString(), HEADERS


def _require_few_fields(body: memoryview, kind: str, left: list[int], max_texts: int) -> None:
    """Refuse a message whose fields would take far more memory than its bytes.

    Args:
        body: the message.
        kind: of `MESSAGES`.
        left: fields, texts and packed integers that may still come.
        max_texts: texts that a request may hold.

    Raises:
        MalformedBody: it has too many, or its bytes are not a message.
        RequestTooLong: it holds too many texts.
    """
    try:
        at = 0
        while at < len(body):
            tag, at = _read_varint(body, at)
            number, wire = tag >> 3, tag & 7
            is_text = kind == "contents" and number == TEXT
            left[is_text] -= 1
            if left[1] < 0:
                raise RequestTooLong(max_texts, "texts")
            if left[0] < 0:
                raise MalformedBody("protobuf", f"it has more than {MAX_FIELDS} fields")
            if wire != 2:
                at = _read_varint(body, at)[1] if wire == 0 else at + {1: 8, 5: 4}[wire]
                continue
            size, at = _read_varint(body, at)
            if kind == "input" and number == SHAPE and size > MAX_SHAPE_BYTES:
                raise MalformedBody("protobuf", "a shape has too many axes")
            if kind == "contents" and number in INTEGERS:
                # The last byte of each is below 128.
                left[2] -= int(np.count_nonzero(np.frombuffer(body[at : at + size], dtype=np.int8) >= 0))
                if left[2] < 0:
                    few = f"more than {MAX_INTEGERS} integers in typed contents: send them in raw_input_contents"
                    raise MalformedBody("protobuf", few)
            if nested := MESSAGES.get(kind, {}).get(number):
                _require_few_fields(body[at : at + size], nested, left, max_texts)
            at += size
    except (IndexError, KeyError):
        raise MalformedBody("protobuf", "it ends within a field, or has one of an unknown kind") from None


def _read_varint(body: memoryview, at: int) -> tuple[int, int]:
    """Return a number of one to ten bytes, and where the next field begins."""
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
