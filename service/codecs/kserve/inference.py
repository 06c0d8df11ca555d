"""The Open Inference Protocol (KServe V2): tensors to sequences, embeddings to tensors.

Sequences come as the graph takes them, padded, with or without `lengths`; or, with the parameter `ragged`, end to end,
with `lengths` that say where to cut.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.codecs.json import exact
from service.codecs.kserve import tensors
from service.codecs.kserve.schemas import InferHeader, TensorMetadata
from service.codecs.kserve.tensors import HEADER_LENGTH, Tensor
from service.codecs.question import NUMBER_BYTES, RAW_BYTES, Content, Question, Reply
from service.encoder.sequences import InputSpec, Lengths, Output, Sequences, State
from service.encoder.session import EncoderSession
from service.encoder.tokenizer import Texts
from service.errors import FeatureMismatch, InvalidField, InvalidLengths, NonFiniteValue, NotOffered, RequestTooLong

MAX_OTHER_LISTS = 100  # in the JSON of a request: of inputs, outputs and shapes
DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(object): "BYTES"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What requests to a model are held to.

    Attributes:
        spec: what it reads.
        outputs: the tensors it gives, and by which of its outputs.
        name: the model's, which a request may repeat, with the version or without.
        version: of the model, for answers.
        max_steps: steps in all sequences of a request together.
    """

    spec: InputSpec
    outputs: dict[str, Output]
    name: str
    version: str
    max_steps: int


def name_outputs(session: EncoderSession) -> dict[str, Output]:
    """Return the tensors a session gives, by their names in its graph."""
    states = [f"state_{name}" for name in session.state_names] if "state" in session.outputs else []
    plain: dict[str, Output] = {output: output for output in session.outputs if output != "state"}
    return plain | dict.fromkeys(states, "state")


def describe_tensors(session: EncoderSession, spec: InputSpec) -> dict[str, list[TensorMetadata]]:
    """Describe the tensors that a session reads and gives."""
    states = list(session.state_shape or ())
    sequences = (
        TensorMetadata(name="sequences", datatype="INT64", shape=[-1, -1])
        if spec.features is None
        else TensorMetadata(name="sequences", datatype="FP32", shape=[-1, -1, spec.features])
    )
    inputs = [sequences, TensorMetadata(name="lengths", datatype="INT64", shape=[-1])]
    if spec.tokenize is not None:
        inputs.append(TensorMetadata(name="texts", datatype="BYTES", shape=[-1]))
    inputs += [
        TensorMetadata(name=f"initial_{name}", datatype="FP32", shape=[-1, *states]) for name in spec.state_names
    ]
    shapes = {"embedding": [-1, session.dim], "steps": [-1, -1, session.width or 0], "state": [-1, *states]}
    outputs = [
        TensorMetadata(name=name, datatype="FP32", shape=shapes[output])
        for name, output in name_outputs(session).items()
    ]
    return {"inputs": inputs, "outputs": outputs}


def decode(body: bytes, header_length: int | None, signature: Signature) -> Question:
    """Decode a request body.

    Args:
        body: JSON, and behind it the raw data, if any.
        header_length: bytes of the JSON; None where that is all of the body.
        signature: what the model reads and gives.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
        RequestTooLong: there are more sequences, or nested lists, than the steps of a request allow.
    """
    # Nested data have a list a step and a sequence at most, and so many more a sequence in each state.
    if body.count(b"[", 0, header_length) > (3 + signature.spec.state_lists) * signature.max_steps + MAX_OTHER_LISTS:
        raise RequestTooLong(signature.max_steps)
    header, found = tensors.read(body, header_length, signature.max_steps)
    if header.model_name not in (None, signature.name, f"{signature.name}@{signature.version}"):
        raise InvalidField(
            "model_name",
            f"{header.model_name[:40]!r} in the body and {signature.name!r} in the path",
            "the same in both",
        )
    inputs = _name_inputs(found, signature.spec)
    is_ragged = header.parameters.ragged
    sequences, time = _read_sequences(inputs, signature, is_ragged=is_ragged)
    if signature.spec.state_names:
        rows = len(sequences.lengths if isinstance(sequences, Sequences) else sequences.texts)
        sequences = replace(sequences, state=_read_state(inputs, signature.spec, rows))
    wanted = _read_outputs(header, signature)
    outputs: tuple[Output, ...] = tuple({signature.outputs[name]: None for name, _ in wanted})

    def check(lengths: Lengths) -> None:
        rows, padded = len(lengths), _padded_steps(lengths, time)
        if "steps" in outputs and not is_ragged and rows * padded > signature.max_steps:
            expected = f"at most {signature.max_steps}, unless the parameter ragged asks for steps end to end"
            raise InvalidField("outputs", f"for {rows} x {padded} padded steps", expected)

    def write(reply: Reply) -> Content:
        answer = reply.answer
        arrays: dict[str, Any] = {"embedding": answer.embeddings}
        arrays |= {f"state_{name}": part for name, part in answer.state.items()}
        if "steps" in outputs:
            arrays["steps"] = np.concatenate(answer.steps) if is_ragged else _pad(reply, time)
        content = {"model_name": reply.model, "model_version": signature.version}
        content |= {} if header.id is None else {"id": header.id}
        written, length = tensors.write(content, [(Tensor(name, arrays[name]), is_raw) for name, is_raw in wanted])
        if length is None:
            return Content(written, "application/json")
        return Content(written, "application/octet-stream", {HEADER_LENGTH: str(length)})

    timeout = header.parameters.timeout
    return Question(
        sequences,
        write,
        outputs,
        timeout_seconds=timeout / 1e6 if timeout else None,
        number_bytes=RAW_BYTES if all(is_raw for _, is_raw in wanted) else NUMBER_BYTES["float"],
        padded_to=None if is_ragged else time or 0,
        check=check,
    )


def _name_inputs(found: list[Tensor], spec: InputSpec) -> dict[str, Tensor]:
    """Return the inputs by name, each of its right datatype."""
    numbers = "INT64" if spec.features is None else "FP32"
    known = {"sequences": numbers, "lengths": "INT64", **{f"initial_{name}": "FP32" for name in spec.state_names}}
    known |= {} if spec.tokenize is None else {"texts": "BYTES"}
    inputs: dict[str, Tensor] = {}
    for tensor in found:
        if tensor.name not in known:
            if tensor.name == "texts":
                raise NotOffered(f"{tensor.path}", "holds texts, and the model has no tokenizer: send sequences")
            raise InvalidField(f"{tensor.path}.name", repr(tensor.name[:40]), f"one of {', '.join(known)}")
        if tensor.name in inputs:
            raise InvalidField(f"{tensor.path}.name", f"{tensor.name} again", "each input once")
        datatype = DATATYPES[tensor.array.dtype]
        if datatype != known[tensor.name]:
            raise InvalidField(f"{tensor.path}.datatype", datatype, f"{known[tensor.name]}, for {tensor.name}")
        inputs[tensor.name] = tensor
    return inputs


def _read_sequences(
    inputs: dict[str, Tensor], signature: Signature, *, is_ragged: bool
) -> tuple[Sequences | Texts, int | None]:
    """Return the sequences, or texts, and the steps that each is padded to in the request, if it pads them."""
    spec = signature.spec
    if "texts" in inputs:
        texts = inputs["texts"]
        for other in ("sequences", "lengths"):
            if other in inputs:
                raise InvalidField(f"{inputs[other].path}.name", f"{other} beside texts", "one of the two")
        _require_axes(texts, 1, signature)
        return exact.read_texts(texts.array.tolist(), "texts", spec), None
    if "sequences" not in inputs:
        raise InvalidField("inputs", "without sequences", "an input of this name")
    tensor = inputs["sequences"]
    _require_axes(tensor, (1 if is_ragged else 2) + (spec.features is not None), signature)
    if spec.features not in (None, tensor.array.shape[-1]):
        raise FeatureMismatch("sequences", tensor.array.shape[-1], spec.features or 0)
    lengths = None
    if "lengths" in inputs:
        _require_axes(inputs["lengths"], 1, signature)
        lengths = inputs["lengths"].array
    if is_ragged:
        return Sequences(tensor.array, _check_ragged(lengths, len(tensor.array))), None
    rows, time, *features = tensor.array.shape
    sequences = Sequences(tensor.array.reshape(rows * time, *features), np.full(rows, time, dtype=np.int64))
    if lengths is None:
        return exact.drop_padding(sequences), time
    if len(lengths) == rows and (lengths == time).all():
        return sequences, time
    return exact.cut(sequences, lengths.tolist()), time


def _require_axes(tensor: Tensor, axes: int, signature: Signature) -> None:
    """Refuse a tensor of another rank, or one of more sequences than a request may have."""
    if tensor.array.ndim != axes:
        found = f"{list(tensor.array.shape)}"
        raise InvalidField(f"{tensor.path}.shape", found, f"{axes} axes, for {tensor.name}")
    is_of_rows = tensor.name != "sequences" or axes == 2 + (signature.spec.features is not None)
    if is_of_rows and len(tensor.array) > signature.max_steps:  # each costs a step at least
        raise RequestTooLong(signature.max_steps, tensor.name)


def _check_ragged(lengths: Any, steps: int) -> Lengths:
    """Return lengths that cut `steps` steps without a rest."""
    if lengths is None:
        raise InvalidLengths("lengths", "is missing, and ragged sequences are cut by it")
    is_wrong = (lengths < 0) | (lengths > steps)  # so that no sum below overflows
    if is_wrong.any():
        index = int(np.argmax(is_wrong))
        raise InvalidLengths(f"lengths[{index}]", f"is {lengths[index]}: expected 0 to {steps}, the steps there are")
    if int(lengths.sum()) != steps:
        raise InvalidLengths("lengths", f"sums to {lengths.sum()}, and sequences has {steps} steps")
    checked: Lengths = lengths.astype(np.int64, copy=False)
    return checked


def _read_state(inputs: dict[str, Tensor], spec: InputSpec, rows: int) -> State:
    """Read what each sequence starts from: all of a state, or nothing."""
    given = [name for name in spec.state_names if f"initial_{name}" in inputs]
    if not given:
        return {}
    state: State = {}
    for name in spec.state_names:
        if name not in given:
            raise InvalidField("inputs", f"without initial_{name}", f"it beside initial_{given[0]}")
        tensor = inputs[f"initial_{name}"]
        expected = (rows, *spec.state_shape)
        if tensor.array.shape != expected:
            raise InvalidField(f"{tensor.path}.shape", str(list(tensor.array.shape)), str(list(expected)))
        if not np.isfinite(tensor.array).all():
            raise NonFiniteValue(tensor.path)
        state[name] = tensor.array
    return state


def _read_outputs(header: InferHeader, signature: Signature) -> list[tuple[str, bool]]:
    """Return the tensors that are wanted, and whether raw: what the model gives, where nothing is said."""
    default = header.parameters.binary_data_output
    if not header.outputs:
        return [(name, default) for name in signature.outputs]
    wanted: dict[str, bool] = {}
    for index, output in enumerate(header.outputs):
        path = f"outputs[{index}].name"
        if output.name not in signature.outputs:
            raise NotOffered(path, f"is {output.name[:40]!r}, and the model gives {', '.join(signature.outputs)}")
        if output.name in wanted:
            raise InvalidField(path, f"{output.name} again", "each output once")
        asked = output.parameters.binary_data
        wanted[output.name] = default if asked is None else asked
    return list(wanted.items())


def _padded_steps(lengths: Lengths | list[int], time: int | None) -> int:
    """Return what the steps of an answer are padded to: as those of the request, or to the longest of them."""
    return max(lengths, default=0) if time is None else time


def _pad(reply: Reply, time: int | None) -> Any:
    """Pad steps with zeros, as the graph gives them."""
    width = reply.answer.steps[0].shape[1]
    padded = np.zeros((len(reply.lengths), _padded_steps(reply.lengths, time), width), dtype=np.float32)
    for row, steps in zip(padded, reply.answer.steps, strict=True):
        row[: len(steps)] = steps
    return padded
