"""The Open Inference Protocol (KServe V2): tensors to sequences, embeddings to tensors.

Sequences come as the graph takes them, padded, with or without `lengths`; or, with the parameter `ragged`, end to end,
with `lengths` that say where to cut.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from service.codecs.binary.arrays import read_lengths
from service.codecs.json import exact
from service.codecs.json.plain import Bounds, require_bounds
from service.codecs.kserve import tensors
from service.codecs.kserve.schemas import InferHeader
from service.codecs.kserve.tensor_json import Array
from service.codecs.kserve.tensors import Tensor
from service.codecs.question import NUMBER_BYTES, RAW_BYTES, Question, Written
from service.encoder.sequences import (
    Answer,
    Features,
    InputSpec,
    Kind,
    Lengths,
    Output,
    Sequences,
    State,
    cut,
    drop_padding,
)
from service.encoder.session import EncoderSession
from service.encoder.tokenizer import Texts
from service.errors import FeatureMismatch, InvalidField, InvalidLengths, NonFiniteValue, NotOffered, RequestTooLong
from service.settings import Limits

MAX_OTHER_LISTS = 100  # in the JSON of a request: of inputs, outputs and shapes
# Writes tensors, each with whether it is wanted raw, beside what else an answer says.
WriteTensors: TypeAlias = Callable[[dict[str, Any], list[tuple[Tensor, bool]]], Written]
DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(object): "BYTES"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What requests to a model are held to.

    Attributes:
        spec: what the model reads.
        outputs: the tensors it gives, and by which of its outputs.
        name: the model's name, which a request may repeat, with the version or without.
        version: the model's version, for answers.
        limits: what a request may hold.
    """

    spec: InputSpec
    outputs: dict[str, Output]
    name: str
    version: str
    limits: Limits


def name_outputs(session: EncoderSession) -> dict[str, Output]:
    """Return the tensors a session gives, by their names in its graph."""
    states = [f"state_{name}" for name in session.state_names] if "state" in session.outputs else []
    plain: dict[str, Output] = {output: output for output in ("embedding", "steps") if output in session.outputs}
    logits: dict[str, Output] = {"logits": "prediction"} if session.predictor else {}
    return plain | dict.fromkeys(states, "state") | logits


def name_inputs(spec: InputSpec) -> dict[str, tuple[str, list[int]]]:
    """Return the tensors that a model reads: each one's datatype, and its shape, -1 for a size that varies."""
    inputs = {"sequences": (DATATYPES[spec.kind.dtype], [-1, -1, *spec.kind.shape]), "lengths": ("INT64", [-1])}
    inputs |= {} if spec.tokenize is None else {"texts": ("BYTES", [-1])}
    return inputs | {f"initial_{name}": ("FP32", [-1, *spec.state_shape]) for name in spec.state_names}


def describe_tensors(session: EncoderSession, spec: InputSpec) -> dict[str, list[dict[str, Any]]]:
    """Describe the tensors that a session reads and gives, each as `schemas.TensorMetadata` has it."""
    shapes = {
        "embedding": [-1, session.dim],
        "steps": [-1, -1, session.width or 0],
        "state": [-1, *(session.state_shape or ())],
        "prediction": [-1, session.predictor.size if session.predictor else 0],
    }
    outputs = {name: ("FP32", shapes[output]) for name, output in name_outputs(session).items()}
    return {
        kind: [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in tensors.items()]
        for kind, tensors in (("inputs", name_inputs(spec)), ("outputs", outputs))
    }


def parse(body: bytes, header_length: int | None, signature: Signature) -> Question:
    """Parse a request body, unless it must hold more than a request may.

    Args:
        body: JSON, and behind it the raw data, if any.
        header_length: bytes of the JSON; None if that is all of the body.
        signature: what the model reads and gives.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    text, limits, bounds = body[:header_length], signature.limits, Bounds.of([signature.spec])
    # Nested data have a list a step and a sequence at most, and so many more a sequence in each state.
    require_bounds(text, limits, bounds, (3 + bounds.state_lists) * limits.max_request_steps + MAX_OTHER_LISTS)
    header, found = tensors.read(body, header_length, limits.max_request_steps)
    return ask(header, found, signature, tensors.write)


def ask(header: InferHeader, found: list[Tensor], signature: Signature, write_tensors: WriteTensors) -> Question:
    """Return what a request asks, whatever its tensors were written in.

    Args:
        header: what it says.
        found: its inputs.
        signature: what the model reads and gives.
        write_tensors: writes the answer.

    Raises:
        InvalidRequest: one of its subclasses, naming the first fault.
    """
    limits = signature.limits
    if header.model_name not in (None, signature.name, f"{signature.name}@{signature.version}"):
        raise InvalidField(
            "model_name",
            f"{header.model_name[:40]!r} in the body and {signature.name!r} in the path",
            "the same in both",
        )
    is_ragged = header.parameters.ragged
    time = None if is_ragged else _find_padding(found)
    wanted = _read_outputs(header, signature)
    outputs: tuple[Output, ...] = tuple({signature.outputs[name]: None for name, _ in wanted})

    def check(lengths: Lengths) -> None:
        rows, padded, most = len(lengths), _padded_steps(lengths, time), limits.max_request_steps
        if "steps" in outputs and not is_ragged and rows * padded > most:
            expected = f"at most {most}, unless the parameter ragged asks for steps end to end"
            raise InvalidField("outputs", f"for {rows} x {padded} padded steps", expected)

    def write(answer: Answer) -> Written:
        arrays: dict[str, Any] = {"embedding": answer.embeddings}
        arrays |= {f"state_{name}": part for name, part in answer.state.items()} | {"logits": answer.logits}
        if "steps" in outputs:
            arrays["steps"] = np.concatenate(answer.steps) if is_ragged else _pad(answer, time)
        content = {"model_name": answer.model, "model_version": signature.version}
        content |= {} if header.id is None else {"id": header.id}
        return write_tensors(content, [(Tensor(name, arrays[name]), is_raw) for name, is_raw in wanted])

    timeout = header.parameters.timeout
    return Question(
        partial(_read, found, limits, is_ragged=is_ragged),
        write,
        signature.name,
        outputs,
        normalize=header.parameters.normalize,
        timeout_seconds=timeout / 1e6 if timeout else None,
        number_bytes=RAW_BYTES if all(is_raw for _, is_raw in wanted) else NUMBER_BYTES["float"],
        padded_to=None if is_ragged else time or 0,
        gives_logits=True,
        check=check,
    )


def _read(found: list[Tensor], limits: Limits, spec: InputSpec, *, is_ragged: bool) -> Sequences | Texts:
    """Read the sequences, or texts, of a request, and what they start from."""
    inputs = _name_inputs(found, spec)
    sequences = _read_sequences(inputs, spec, limits, is_ragged=is_ragged)
    if spec.state_names:
        rows = len(sequences.lengths if isinstance(sequences, Sequences) else sequences.texts)
        sequences = replace(sequences, state=_read_state(inputs, spec, rows))
    return sequences


def _find_padding(found: list[Tensor]) -> int | None:
    """Return the steps that each sequence is padded to in a request; None if it has no padded sequences."""
    padded = (tensor.array.shape[1] for tensor in found if tensor.name == "sequences" and tensor.array.ndim > 1)
    return next(padded, None)


def _name_inputs(found: list[Tensor], spec: InputSpec) -> dict[str, Tensor]:
    """Return the inputs by name, each of its right datatype."""
    known = name_inputs(spec)
    inputs: dict[str, Tensor] = {}
    for tensor in found:
        if tensor.name not in known:
            if tensor.name == "texts":
                raise NotOffered(f"{tensor.path}", "holds texts, and the model has no tokenizer: send sequences")
            raise InvalidField(f"{tensor.path}.name", repr(tensor.name[:40]), f"one of {', '.join(known)}")
        if tensor.name in inputs:
            raise InvalidField(f"{tensor.path}.name", f"{tensor.name} again", "each input once")
        datatype, (expected, _) = DATATYPES[tensor.array.dtype], known[tensor.name]
        if datatype != expected:
            raise InvalidField(f"{tensor.path}.datatype", datatype, f"{expected}, for {tensor.name}")
        inputs[tensor.name] = tensor
    return inputs


def _read_sequences(
    inputs: dict[str, Tensor], spec: InputSpec, limits: Limits, *, is_ragged: bool
) -> Sequences | Texts:
    """Read the sequences, or texts, without what they start from."""
    if "texts" in inputs:
        for other in ("sequences", "lengths"):
            if other in inputs:
                raise InvalidField(f"{inputs[other].path}.name", f"{other} beside texts", "one of the two")
        _require_axes(inputs["texts"], 1, limits)
        return exact.read_texts(inputs["texts"].array.tolist(), "texts", spec)
    if "sequences" not in inputs:
        raise InvalidField("inputs", "without sequences", "an input of this name")
    lengths = None
    if "lengths" in inputs:
        _require_axes(inputs["lengths"], 1, limits)
        lengths = inputs["lengths"].array
    return _cut_tensor(inputs["sequences"], lengths, spec.kind, limits, is_ragged=is_ragged)


def _cut_tensor(tensor: Tensor, lengths: Array | None, kind: Kind, limits: Limits, *, is_ragged: bool) -> Sequences:
    """Cut the tensor of all sequences, padded or end to end, into these."""
    shape = kind.shape
    _require_axes(tensor, (1 if is_ragged else 2) + len(shape), limits, has_rows=not is_ragged)
    if isinstance(kind, Features) and tensor.array.shape[-1:] != shape:
        steps = tensor.array.shape[1] if lengths is None and not is_ragged else None
        raise FeatureMismatch("sequences", tensor.array.shape[-1], kind.features, steps)
    if is_ragged:
        if lengths is None:
            raise InvalidLengths("lengths", "is missing, and ragged sequences are cut by it")
        return Sequences(tensor.array, read_lengths(lengths, len(tensor.array)))
    rows, time = tensor.array.shape[:2]
    sequences = Sequences(tensor.array.reshape(rows * time, *shape), np.full(rows, time, dtype=np.int64))
    if lengths is None:
        return drop_padding(sequences)
    if len(lengths) == rows and (lengths == time).all():
        return sequences
    return cut(sequences, lengths.tolist())


def _require_axes(tensor: Tensor, axes: int, limits: Limits, *, has_rows: bool = True) -> None:
    """Refuse a tensor of another rank, or one with a row for each of more sequences than a request may have."""
    if tensor.array.ndim != axes:
        found = f"{list(tensor.array.shape)}"
        raise InvalidField(f"{tensor.path}.shape", found, f"{axes} axes, for {tensor.name}")
    if has_rows and len(tensor.array) > limits.max_request_steps:  # each costs a step at least
        raise RequestTooLong(limits.max_request_steps, tensor.name)


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
    """Return the tensors that are wanted, and whether raw: all that the model gives, if nothing is said."""
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


def _padded_steps(lengths: Lengths | Iterable[int], time: int | None) -> int:
    """Return what the steps of an answer are padded to: as those of the request, or to the longest of them."""
    return max(lengths, default=0) if time is None else time


def _pad(answer: Answer, time: int | None) -> Any:
    """Pad steps with zeros, as the graph gives them."""
    width = answer.steps[0].shape[1]
    padded = np.zeros((len(answer.lengths), _padded_steps(answer.lengths, time), width), dtype=np.float32)
    for row, steps in zip(padded, answer.steps, strict=True):
        row[: len(steps)] = steps
    return padded
