"""What goes over the wire and comes back: from a part's sequences to a body, from its answer to arrays."""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, ClassVar, Literal, Protocol, TypeAlias
from urllib.parse import urlencode

import httpx
import numpy as np
import numpy.typing as npt

Output: TypeAlias = Literal["embedding", "steps", "state", "prediction"]
Array: TypeAlias = npt.NDArray[np.float32]

# The most that JSON takes: a float64 has up to 24 characters, and a comma; any byte of a text up to 6.
NUMBER_BYTES, BRACKETS_BYTES, ESCAPED_BYTES = 25, 3, 6


@dataclass(frozen=True, slots=True)
class Options:
    """Everything in a request but its sequences.

    Attributes:
        outputs: what is asked for, of what `/info` says the model gives.
        normalize: whether embeddings are scaled to L2 norm 1.
        model: the name of the model that must answer; None for the service's default.
    """

    outputs: tuple[Output, ...] = ("embedding",)
    normalize: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the model gave for n sequences, in order; an output that was not asked for is empty.

    Attributes:
        embeddings: `(n, D)` float32.
        steps: n arrays `(t_i, W)` float32, the outputs of each step.
        state: `h`, and `c` of LSTMs, `(n, layers, directions, H)` float32, after the last step.
        prediction: n numbers; or n objects with the likeliest `label` and the `scores` of labels.
    """

    embeddings: Array
    steps: Sequence[Array] = ()
    state: Mapping[str, Array] = field(default_factory=dict)
    prediction: Sequence[Any] = ()


def join(answers: Sequence[Encoded]) -> Encoded:
    """Put the answers to at least one part together, in order."""
    return Encoded(
        embeddings=np.concatenate([answer.embeddings for answer in answers]),
        steps=[row for answer in answers for row in answer.steps],
        state={name: np.concatenate([answer.state[name] for answer in answers]) for name in answers[0].state},
        prediction=[one for answer in answers for one in answer.prediction],
    )


@dataclass(frozen=True, slots=True)
class Json:
    """JSON both ways: texts, and every output.

    Attributes:
        features: F, the numbers in a step; None if steps are token ids.
        options: the call's options.
    """

    features: int | None
    options: Options
    frame_bytes: ClassVar[int] = 1024  # all of a body but its sequences
    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json"}
    path: ClassVar[str] = "/encode"

    def bound_bytes(self, sequence: Any) -> int:
        """Return the bytes that a sequence cannot exceed in the body."""
        if isinstance(sequence, str):
            return BRACKETS_BYTES + ESCAPED_BYTES * len(sequence.encode())
        return BRACKETS_BYTES + len(sequence) * (BRACKETS_BYTES + NUMBER_BYTES * (self.features or 1))

    def write(self, sequences: Sequence[npt.ArrayLike], first: int) -> bytes:
        """Write a body; float32 comes through exactly.

        Args:
            sequences: at least one, all texts or none.
            first: index of the first of them among the caller's.
        """
        fields: dict[str, Any] = {"outputs": self.options.outputs, "normalize": self.options.normalize}
        fields["encoding_format"] = "base64" if self._is_packed else "float"
        if self.options.model is not None:
            fields["model"] = self.options.model
        if isinstance(sequences[0], str):
            fields["texts"] = sequences
        else:
            fields["sequences"] = [array.tolist() for array in to_arrays(sequences, first, self.features)]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def read(self, response: httpx.Response) -> Encoded:
        """Read an answer."""
        answer = json.loads(response.content)
        rows = self._read_rows(answer.get("embeddings", []))
        steps = [
            row.reshape(length, row.size // max(length, 1))
            for row, length in zip(self._read_rows(answer.get("steps", [])), answer["lengths"], strict=False)
        ]
        state = {name: np.array(part, dtype=np.float32) for name, part in answer.get("state", {}).items()}
        embeddings = np.stack(rows) if rows else np.empty((0, answer["dim"]), dtype=np.float32)
        return Encoded(embeddings, steps, state, answer.get("prediction", ()))

    @property
    def _is_packed(self) -> bool:
        """Whether numbers come as base64, which would not tell the shape of a state. Either keeps every bit."""
        return "state" not in self.options.outputs

    def _read_rows(self, rows: list[Any]) -> list[Array]:
        if self._is_packed:
            return [np.frombuffer(b64decode(row), dtype="<f4").astype(np.float32) for row in rows]
        return [np.array(row, dtype=np.float32) for row in rows]


@dataclass(frozen=True, slots=True)
class Npz:
    """NumPy's npz there and npy back: embeddings of arrays, at the cost of copying them.

    Attributes:
        features: F, the numbers in a step; None if steps are token ids.
        options: the call's options.
    """

    features: int | None
    options: Options
    frame_bytes: ClassVar[int] = 1024  # the zip around both members, and their headers
    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/x-npz", "Accept": "application/x-npy"}

    @property
    def path(self) -> str:
        """The path of the request, with its options."""
        options = {"normalize": "true"} if self.options.normalize else {}
        if self.options.model is not None:
            options["model"] = self.options.model
        return f"/encode?{urlencode(options)}" if options else "/encode"

    def bound_bytes(self, sequence: Any) -> int:
        """Return the bytes that a sequence takes in the body."""
        return 8 + len(sequence) * (8 if self.features is None else 4 * self.features)

    def write(self, sequences: Sequence[npt.ArrayLike], first: int) -> bytes:
        """Write a body.

        Args:
            sequences: at least one.
            first: index of the first of them among the caller's.
        """
        arrays = to_arrays(sequences, first, self.features)
        file = BytesIO()
        values = np.ascontiguousarray(np.concatenate(arrays))  # Fortran's order stays one, and is refused
        np.savez(file, values=values, lengths=np.array([len(array) for array in arrays], dtype=np.int64))
        return file.getvalue()

    def read(self, response: httpx.Response) -> Encoded:
        """Read an answer."""
        embeddings = np.lib.format.read_array(BytesIO(response.content), allow_pickle=False)
        return Encoded(embeddings.astype(np.float32, copy=False))


class Format(Protocol):
    """How a part is written, where it is sent, and how its answer is read."""

    @property
    def frame_bytes(self) -> int:
        """All of a body but its sequences, at most."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request."""

    @property
    def path(self) -> str:
        """The path of the request."""

    def bound_bytes(self, sequence: Any) -> int:
        """Return the bytes that a sequence cannot exceed in the body."""

    def write(self, sequences: Sequence[npt.ArrayLike], first: int) -> bytes:
        """Write a body of at least one sequence, the first of which has that index among the caller's."""

    def read(self, response: httpx.Response) -> Encoded:
        """Read an answer."""


def choose(features: int | None, options: Options, sequence: object) -> Format:
    """Choose the format of a part by what is asked, and by its first sequence."""
    is_plain = options.outputs == ("embedding",) and not isinstance(sequence, str)
    return Npz(features, options) if is_plain else Json(features, options)


def to_arrays(sequences: Sequence[npt.ArrayLike], first: int, features: int | None) -> list[npt.NDArray[Any]]:
    """Make of each sequence what the model reads: `(t_i, F)` float32, or `(t_i,)` int64.

    Args:
        sequences: of one part.
        first: index of the first of them among the caller's.
        features: F; None for token ids.

    Raises:
        TypeError: a sequence is not of numbers, or its ids are not integers.
        ValueError: a sequence has another shape.
    """
    kinds, dtype = ("iu", np.int64) if features is None else ("iuf", np.float32)
    tail = () if features is None else (features,)
    arrays = []
    for index, sequence in enumerate(sequences, first):
        expected = "token ids, (steps,)" if features is None else f"numbers, (steps, {features})"
        try:
            array = np.asarray(sequence)
        except ValueError as error:
            raise ValueError(f"sequences[{index}] is ragged within: the model reads {expected}") from error
        if array.ndim and not len(array):
            array = np.empty((0, *tail), dtype)
        if array.dtype.kind not in kinds:
            raise TypeError(f"sequences[{index}] is of {array.dtype}: the model reads {expected}")
        if array.shape[1:] != tail:
            turned = ": channels-first data must be transposed" if array.ndim == 2 and len(array) == features else ""
            raise ValueError(f"sequences[{index}] has the shape {array.shape}: the model reads {expected}{turned}")
        with np.errstate(over="ignore"):  # the service names the place of what becomes infinite
            arrays.append(array.astype(dtype, copy=False))
    return arrays
