"""The sequences of a shard, each checked as the service checks those of a request."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from service.codecs.question import Written
from service.encoder.sequences import Answer, InputSpec, Sequences, Steps, are_finite, make_zeros
from service.errors import FeatureMismatch, LengthwiseError
from service.settings import Limits

PLACE = "sequence"  # what messages call the one sequence of a row


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a batch.

    Attributes:
        name: its `custom_id`, None if it has none.
        count: the sequences it holds.
        write: writes the body of its answer; None if it is refused.
    """

    name: str | None
    count: int
    write: Callable[[Answer], Written] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a shard.

    Attributes:
        sequences: n of them, `(t, F)` or `(t,)`; an empty one if the row has an error. Of requests, those of all.
        errors: why a row cannot be encoded, by its place among the n.
        columns: what else the rows hold: a pyarrow table of n rows, or n objects of JSON, or n requests; None if
            nothing else is kept.
    """

    sequences: list[Steps]
    errors: dict[int, LengthwiseError] = field(default_factory=dict)
    columns: Any = None

    @property
    def steps(self) -> int:
        """Steps of all sequences."""
        return sum(map(len, self.sequences))


def empty(spec: InputSpec) -> Steps:
    """Return a sequence without steps."""
    return make_zeros(spec.kind, 0)


def check(
    found: Sequence[Steps | LengthwiseError],
    spec: InputSpec,
    limits: Limits,
    columns: Any = None,
    wholes: Sequence[npt.NDArray[Any]] | None = None,
) -> Rows:
    """Check each sequence of a shard.

    Args:
        found: n sequences, or why there is none.
        spec: what the model reads.
        limits: what one sequence may be.
        columns: what else the rows hold.
        wholes: arrays that hold the steps of all, if there are such, and none is missing: checked at once, they mostly
            spare checking each.
    """
    errors: dict[int, LengthwiseError] = {}
    sequences = [empty(spec) if isinstance(one, LengthwiseError) else one for one in found]
    doubtful: Iterable[int] = range(len(found))
    if wholes is not None and all(_is_plain(whole, spec) for whole in wholes):
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        is_empty = lengths == 0
        doubtful = np.flatnonzero((lengths > limits.max_sequence_steps) | (is_empty & (not limits.empty_allowed)))
    for row in doubtful:
        one = found[row]
        try:
            if isinstance(one, LengthwiseError):
                raise one
            _check_one(one, spec, limits)
        except LengthwiseError as error:
            errors[int(row)] = error
            sequences[row] = empty(spec)
    return Rows(sequences, errors, columns)


def _is_plain(whole: npt.NDArray[Any], spec: InputSpec) -> bool:
    """Whether nothing can be wrong with any sequence but its length."""
    if spec.kind.features is None:
        top = spec.kind.vocabulary or np.iinfo(np.int64).max
        return whole.ndim == 1 and (not len(whole) or bool(whole.min() > 0 and whole.max() < top))
    return whole.ndim == 2 and whole.shape[1] == spec.kind.features and _is_finite(whole)


def _is_finite(whole: npt.NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite: then the sum is neither, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(whole.sum())) or are_finite(whole)


def _check_one(steps: Steps, spec: InputSpec, limits: Limits) -> None:
    if steps.ndim == 2 and spec.kind.features is not None and steps.shape[1] != spec.kind.features:
        raise FeatureMismatch(f"{PLACE}[0]", steps.shape[1], spec.kind.features)
    Sequences(steps, np.array([len(steps)], np.int64), field=PLACE).check(limits, spec.kind.vocabulary)


def split(whole: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[Any]]:
    """Yield n views of an array that holds the steps of all, by where each begins and the last one ends, `(n + 1,)`."""
    return (whole[start:stop] for start, stop in pairwise(ends.tolist()))
