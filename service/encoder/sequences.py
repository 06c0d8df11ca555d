"""Ragged sequences and padded batches: the two shapes that data take between the wire and the session."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from service.encoder.frozen import frozen
from service.encoder.prediction import Predictor
from service.errors import (
    EmptyRequest,
    EmptySequence,
    InvalidLengths,
    NonFiniteValue,
    RequestTooLong,
    SequenceTooLong,
    UnknownToken,
)
from service.settings import Limits

Steps: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int64]  # (t, F), or (t,) token ids: one sequence
Output: TypeAlias = Literal["embedding", "steps", "state", "prediction"]  # what a graph may give
State: TypeAlias = dict[str, npt.NDArray[np.float32]]  # h, and c of LSTMs: (..., layers, directions, H)
Embeddings: TypeAlias = npt.NDArray[np.float32]  # (n, D)
Lengths: TypeAlias = npt.NDArray[np.int64]  # (n,)


@dataclass(frozen=True, slots=True)
class Features:
    """Steps of F numbers each."""

    features: int
    vocabulary: ClassVar[None] = None
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one step."""
        return (self.features,)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Steps that are token ids, `1..V-1`; V is None if it is not known."""

    vocabulary: int | None = None
    features: ClassVar[None] = None
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.int64)


Kind: TypeAlias = Features | Tokens  # what a step is


def make_zeros(kind: Kind, *sizes: int) -> Steps:
    """Return steps of zeros, `(*sizes, F)` or `(*sizes,)`."""
    return np.zeros((*sizes, *kind.shape), dtype=kind.dtype)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model reads, for whoever reads sequences for it.

    Attributes:
        kind: what a step is.
        tokenize: from n texts to n arrays of ids, if the model reads texts too.
        unknown: the id of what its tokenizer does not know; None if there is no such id.
        state_names: what a state to start from is made of; nothing if the model takes none.
        state_shape: `(layers, directions, H)` of each.
    """

    kind: Kind
    tokenize: Callable[[Sequence[str]], list[npt.NDArray[np.int64]]] | None = None
    unknown: int | None = None
    state_names: tuple[str, ...] = ()
    state_shape: tuple[int, ...] = ()


@frozen
class Sequences:
    """The sequences of one request, end to end.

    Attributes:
        values: `(S, F)` float32, or `(S,)` int64 token ids: all steps of all sequences in order.
        lengths: `(n,)`, int64, summing to S.
        state: of `(n, layers, directions, H)`, to start each sequence from; empty if they start from zero.
        field: of the request they came in, for messages.
    """

    values: Steps
    lengths: Lengths
    state: State = field(default_factory=dict)
    field: str = "sequences"

    @property
    def steps(self) -> int:
        """S, the valid steps."""
        return len(self.values)

    def split(self) -> list[Steps]:
        """Return the n sequences as views `(t_i, F)` of `values`."""
        lengths = self.lengths.tolist()
        if len(lengths) == 1:
            return [self.values]
        return [self.values[end - length : end] for end, length in zip(accumulate(lengths), lengths, strict=True)]

    def check(self, limits: Limits, vocabulary: int | None = None) -> None:
        """Refuse what no session should see, whatever format it came in.

        Args:
            limits: what one request may hold.
            vocabulary: V, of token ids; None if it is not known.

        Raises:
            EmptyRequest: there is no sequence.
            RequestTooLong: S is over the limit.
            SequenceTooLong: carries the first such index.
            EmptySequence: carries the first such index.
            NonFiniteValue: names the first NaN or infinity.
            UnknownToken: names the first id outside `1..V-1`.
        """
        if len(self.lengths) > limits.max_request_steps:
            raise RequestTooLong(limits.max_request_steps, self.field)
        lengths = self.lengths.tolist()
        if not lengths:
            raise EmptyRequest(self.field)
        if sum(lengths) + lengths.count(0) > limits.max_request_steps:  # an empty sequence is computed as one step
            raise RequestTooLong(limits.max_request_steps, self.field)
        if max(lengths) > limits.max_sequence_steps:
            index = next(place for place, length in enumerate(lengths) if length > limits.max_sequence_steps)
            raise SequenceTooLong(f"{self.field}[{index}]", lengths[index], limits.max_sequence_steps)
        if not limits.empty_allowed and 0 in lengths:
            raise EmptySequence(f"{self.field}[{lengths.index(0)}]")
        if self.values.dtype == np.int64:
            known = (self.values > 0) & (self.values < (vocabulary or np.iinfo(np.int64).max))
            if not known.all():
                place = int(np.argmin(known))
                raise UnknownToken(self._locate(place), int(self.values[place]), vocabulary)
        if not are_finite(self.values):
            step, feature = divmod(int(np.argmin(np.isfinite(self.values))), self.values.shape[1])
            raise NonFiniteValue(f"{self._locate(step)}[{feature}]")

    def _locate(self, step: int) -> str:
        """Name the place of a step of `values` in the request."""
        ends = np.cumsum(self.lengths)
        index = int(np.searchsorted(ends, step, side="right"))
        return f"{self.field}[{index}][{step - int(ends[index] - self.lengths[index])}]"


def join(sequences: Sequence[Steps], kind: Kind, field: str = "sequences") -> Sequences:
    """Lay sequences end to end.

    Args:
        sequences: n >= 0 arrays, `(t_i, F)` float32 or `(t_i,)` int64.
        kind: what their steps are.
        field: the field of the request they came in.
    """
    values = np.concatenate([make_zeros(kind, 0), *sequences])
    return Sequences(values, np.array([len(steps) for steps in sequences], dtype=np.int64), field=field)


def cut(sequences: Sequences, lengths: list[int]) -> Sequences:
    """Cut padded sequences to their lengths.

    Raises:
        InvalidLengths: the lengths do not fit the sequences.
    """
    padded = sequences.split()
    if len(lengths) != len(padded):
        raise InvalidLengths("lengths", f"has {len(lengths)} entries for {len(padded)} sequences")
    for index, (steps, length) in enumerate(zip(padded, lengths, strict=True)):
        if len(steps) != len(padded[0]):
            reason = f"has {len(steps)} steps and sequences[0] has {len(padded[0])}: with lengths, all are padded alike"
            raise InvalidLengths(f"sequences[{index}]", reason)
        if not 0 <= length <= len(steps):
            raise InvalidLengths(f"lengths[{index}]", f"is {length}: expected 0 to {len(steps)}, the padded steps")
    return _shorten(sequences, padded, lengths)


def drop_padding(sequences: Sequences) -> Sequences:
    """Cut the zeros off the ends of token sequences: id 0 is padding. A zero that stands before a token stays."""
    if sequences.values.dtype != np.int64 or sequences.values.all():
        return sequences
    padded = sequences.split()
    return _shorten(sequences, padded, [int(np.max(np.flatnonzero(ids), initial=-1)) + 1 for ids in padded])


def _shorten(sequences: Sequences, padded: list[Steps], lengths: list[int]) -> Sequences:
    parts = [steps[:length] for steps, length in zip(padded, lengths, strict=True)]
    values: Steps = np.concatenate([sequences.values[:0], *parts])
    return Sequences(values, np.array(lengths, dtype=np.int64), field=sequences.field)


@frozen
class Batch:
    """Sequences padded to one length.

    Attributes:
        steps: `(B, T, F)` float32, or `(B, T)` int64 token ids; zero past each row's length.
        lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.
        state: of `(B, layers, directions, H)`, to start from; empty if rows start from zero.
        deadlines: `(B,)`, when each row is of no use any more, on the clock of `time.perf_counter`; None if never, or
            if the session keeps no deadlines.
    """

    steps: Steps
    lengths: Lengths
    state: State = field(default_factory=dict)
    deadlines: npt.NDArray[np.float64] | None = None


@frozen
class Result:
    """All that a graph gives for a batch.

    Attributes:
        embeddings: `(B, D)`.
        steps: `(B, T, W)`, the outputs of each step, zero past the length; None if the graph has none.
        state: of `(B, layers, directions, H)`, after each row's last valid step; empty if the graph has none.
        logits: `(B, K)`, of what is predicted; None if the graph has none.
    """

    embeddings: Embeddings
    steps: npt.NDArray[np.float32] | None
    state: State
    logits: npt.NDArray[np.float32] | None = None


@frozen
class Answer:
    """What a model gave for the n sequences of one request, in order, and what it cost: all that an answer is made of.

    Attributes:
        embeddings: `(n, D)`.
        steps: n arrays `(t_i, W)`, if they were asked for.
        state: of `(n, layers, directions, H)`, if it was asked for.
        lengths: n valid steps.
        model: the name of the model that ran.
        padded_steps: steps computed, padding included.
        logits: `(n, K)`, if they were asked for.
        predictor: says what the logits mean; None if the model predicts nothing.
    """

    embeddings: Embeddings
    steps: Sequence[npt.NDArray[np.float32]] = ()
    state: State = field(default_factory=dict)
    lengths: Sequence[int] = ()
    model: str = ""
    padded_steps: int = 0
    logits: npt.NDArray[np.float32] | None = None
    predictor: Predictor | None = None

    @property
    def numbers(self) -> int:
        """How many numbers there are in all of it."""
        scores = 0 if self.logits is None else self.logits.size
        return self.embeddings.size + scores + sum([part.size for part in (*self.steps, *self.state.values())])

    def normalized(self) -> "Answer":
        """Return the answer with each embedding scaled to L2 norm 1; a zero vector stays zero."""
        norms = np.linalg.norm(self.embeddings.astype(np.float64), axis=1, keepdims=True)
        scaled = (self.embeddings / np.where(norms > 0, norms, 1.0)).astype(np.float32)
        return replace(self, embeddings=scaled)


def are_finite(numbers: npt.NDArray[np.generic]) -> bool:
    """Whether no number is NaN or infinite; for few numbers several times as fast as `all()` of `isfinite`."""
    return b"\0" not in np.isfinite(numbers).tobytes()


def pad_batch(sequences: Sequence[Steps], state: State | None = None) -> Batch:
    """Right-pad sequences to the longest of them.

    The encoder masks by `lengths`, so what fills the padding never reaches a result.

    Args:
        sequences: n >= 1 arrays, `(t_i, F)` float32 with one F, or `(t_i,)` int64; `0 <= t_i`.
        state: to start them from, n rows; zero if there is none.

    Returns:
        The batch; row i is `sequences[i]`. A lone sequence is not copied. T is never below 1: the recurrent kernels
        refuse an empty time axis.
    """
    first = sequences[0]
    if len(sequences) == 1 and len(first):  # there is nothing to pad
        return Batch(first[np.newaxis], np.array([len(first)], dtype=np.int64), state or {})
    lengths = [len(steps) for steps in sequences]
    shape = (len(lengths), max(1, *lengths), *first.shape[1:])
    if min(lengths) == shape[1]:  # nor here, as mostly in bulk: one copy
        padded = np.concatenate(sequences).reshape(shape)
    else:
        padded = np.zeros(shape, dtype=first.dtype)
        for row, length, steps in zip(padded, lengths, sequences, strict=True):
            row[:length] = steps
    return Batch(padded, np.array(lengths, dtype=np.int64), state or {})
