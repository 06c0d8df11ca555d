"""Ragged sequences and padded batches: the two shapes the data takes between the wire and the session."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.errors import EmptyRequest, EmptySequence, NonFiniteValue, RequestTooLong, SequenceTooLong

Steps: TypeAlias = npt.NDArray[np.float32]  # (t, F): one sequence
Embeddings: TypeAlias = npt.NDArray[np.float32]  # (n, D)
Lengths: TypeAlias = npt.NDArray[np.int64]  # (n,)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold.

    Attributes:
        max_sequence_steps: steps in one sequence.
        max_request_steps: steps in all sequences together.
        empty_allowed: whether a sequence may have no step.
    """

    max_sequence_steps: int
    max_request_steps: int
    empty_allowed: bool


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of one request, end to end.

    Attributes:
        values: `(S, F)`, float32, all steps of all sequences in order.
        lengths: `(n,)`, int64, summing to S.
    """

    values: npt.NDArray[np.float32]
    lengths: Lengths

    @property
    def steps(self) -> int:
        """S, the valid steps."""
        return len(self.values)

    def split(self) -> list[Steps]:
        """Return the n sequences as views `(t_i, F)` of `values`."""
        ends = np.cumsum(self.lengths).tolist()
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths.tolist(), strict=True)]

    def check(self, limits: Limits) -> None:
        """Refuse what no session should see, whatever format it came in.

        Raises:
            EmptyRequest: there is no sequence.
            RequestTooLong: S is over the limit.
            SequenceTooLong: carries the first such index.
            EmptySequence: carries the first such index.
            NonFiniteValue: names the first NaN or infinity.
        """
        if not len(self.lengths):
            raise EmptyRequest
        if np.maximum(self.lengths, 1).sum() > limits.max_request_steps:  # an empty sequence is computed as one step
            raise RequestTooLong(limits.max_request_steps)
        if self.lengths.max() > limits.max_sequence_steps:
            index = int(np.argmax(self.lengths > limits.max_sequence_steps))
            raise SequenceTooLong(index, int(self.lengths[index]), limits.max_sequence_steps)
        if not limits.empty_allowed and not self.lengths.all():
            raise EmptySequence(int(np.argmin(self.lengths != 0)))
        finite = np.isfinite(self.values)
        if not finite.all():
            step, feature = divmod(int(np.argmin(finite)), self.values.shape[1])
            ends = np.cumsum(self.lengths)
            index = int(np.searchsorted(ends, step, side="right"))
            raise NonFiniteValue(f"sequences[{index}][{step - int(ends[index] - self.lengths[index])}][{feature}]")


def join(sequences: Sequence[Steps], features: int) -> Sequences:
    """Lay sequences end to end.

    Args:
        sequences: n >= 0 arrays `(t_i, F)`, float32.
        features: F.
    """
    values = np.concatenate([np.empty((0, features), dtype=np.float32), *sequences])
    return Sequences(values, np.array([len(steps) for steps in sequences], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences padded to one length.

    Attributes:
        steps: `(B, T, F)`, float32, zero past each row's length.
        lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.
    """

    steps: npt.NDArray[np.float32]
    lengths: Lengths

    @property
    def time(self) -> int:
        """T, the padded length of every row."""
        return int(self.steps.shape[1])


def pad_batch(sequences: Sequence[Steps]) -> Batch:
    """Right-pad sequences to the longest of them.

    The encoder masks by `lengths`, so what fills the padding never reaches a result.

    Args:
        sequences: n >= 1 arrays `(t_i, F)`, float32, `0 <= t_i`, all of one F.

    Returns:
        The batch; row i is `sequences[i]`. T is never below 1: the recurrent kernels refuse an empty time axis.
    """
    lengths = np.array([len(steps) for steps in sequences], dtype=np.int64)
    padded = np.zeros((len(sequences), max(1, int(lengths.max())), sequences[0].shape[1]), dtype=np.float32)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = steps
    return Batch(padded, lengths)
