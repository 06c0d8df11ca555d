"""What other libraries hold sequences in, as the list of arrays that `encode` takes. None of them is imported.

Each function returns one array a sequence, `(steps, features)` or `(steps,)`, in the order it was given, with the bits
that were there. What is a view costs no memory.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = list[npt.NDArray[Any]]


def from_aeon(collection: Iterable[npt.ArrayLike]) -> Arrays:
    """Turn series of aeon, whose channels come first.

    Args:
        collection: n series of `(channels, time)`, in a list or in one array; or of `(time,)`, of one channel each.

    Raises:
        ValueError: a series has another number of dimensions.
    """
    series = [np.atleast_2d(_to_numpy(one)) for one in collection]
    for index, one in enumerate(series):
        if one.ndim != 2:
            raise ValueError(f"collection[{index}] has the shape {one.shape}: expected (channels, time)")
    return [one.T for one in series]


def from_tslearn(dataset: npt.ArrayLike) -> Arrays:
    """Cut series of tslearn, which end in steps of NaN.

    A NaN before the last step that has a number stays where it is, and the service names its place.

    Args:
        dataset: `(n, time, features)`, or `(n, time)` of one feature.

    Raises:
        ValueError: it has another number of dimensions.
    """
    series = _to_numpy(dataset)
    if series.ndim == 2:
        series = series[:, :, np.newaxis]
    if series.ndim != 3:
        raise ValueError(f"the data set has the shape {series.shape}: expected (n, time, features)")
    has_number = ~np.isnan(series).all(axis=2)
    return [
        one[: np.flatnonzero(there)[-1] + 1 if there.any() else 0]
        for one, there in zip(series, has_number, strict=True)
    ]


def from_sktime(frame: Any) -> Arrays:
    """Cut a pandas frame of sktime, whose index says whose step a row is.

    Args:
        frame: a column a feature, indexed by `(instance, time)`, or by several levels and then the time. Instances keep
            the order in which they first come, and their rows stay as they are.

    Raises:
        ValueError: the index has one level only.
    """
    if frame.index.nlevels < 2:
        raise ValueError("the frame's index has one level: expected (instance, time), as sktime's pd-multiindex has")
    owners, _ = frame.index.droplevel(-1).factorize()
    return _cut(frame.to_numpy()[np.argsort(owners, kind="stable")], np.bincount(owners))


def from_torch(sequences: Any, lengths: Any = None, *, batch_first: bool = True) -> Arrays:
    """Cut a padded tensor, or take a `PackedSequence` apart.

    Args:
        sequences: a tensor `(n, time, features)` of numbers or `(n, time)` of token ids, or a packed sequence.
        lengths: of the sequences in a padded tensor; None if they are all as long as it is.
        batch_first: false for a padded tensor `(time, n, ...)`.

    Raises:
        ValueError: the lengths are not those of sequences in this tensor.
    """
    if hasattr(sequences, "batch_sizes"):
        return _unpack(sequences)
    padded = _to_numpy(sequences)
    if not batch_first:
        padded = padded.swapaxes(0, 1)
    count, most = padded.shape[:2]
    ends = np.full(count, most) if lengths is None else _to_numpy(lengths)
    if ends.shape != (count,) or (ends < 0).any() or (ends > most).any():
        raise ValueError(f"the lengths {ends.tolist()} are not those of {count} sequences of up to {most} steps")
    return [steps[:end] for steps, end in zip(padded, ends.tolist(), strict=True)]


def from_tf_ragged(values: Any, row_splits: Any) -> Arrays:
    """Cut the values of a ragged tensor of TensorFlow, as `from_tf_ragged(ragged.values, ragged.row_splits)`.

    Args:
        values: the steps of all sequences end to end, `(steps, features)` or `(steps,)`.
        row_splits: where each sequence begins and the last one ends: `n + 1` numbers, the first of them 0.

    Raises:
        ValueError: the splits are not those of these values.
    """
    steps, splits = _to_numpy(values), _to_numpy(row_splits)
    if splits.ndim != 1 or splits[:1].tolist() != [0] or splits[-1] != len(steps) or (np.diff(splits) < 0).any():
        raise ValueError(f"row_splits do not cut {len(steps)} steps: expected them to rise from 0 to {len(steps)}")
    return _cut(steps, np.diff(splits))


def _unpack(packed: Any) -> Arrays:
    """Take a packed sequence apart: it holds the first step of all sequences, the longest first, then the second."""
    steps, sizes = _to_numpy(packed.data), _to_numpy(packed.batch_sizes)
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    cut = [steps[begins[: np.count_nonzero(sizes > rank)] + rank] for rank in range(sizes[0] if len(sizes) else 0)]
    if packed.unsorted_indices is None:
        return cut
    return [cut[rank] for rank in _to_numpy(packed.unsorted_indices)]


def _cut(steps: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Arrays:
    return np.split(steps, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _to_numpy(held: Any) -> npt.NDArray[Any]:
    """Return an array of what holds numbers; a tensor leaves its graph and its device."""
    if hasattr(held, "detach"):
        held = held.detach().cpu()
        held = held.float() if str(held.dtype) == "torch.bfloat16" else held  # which numpy does not have
    return np.asarray(held)
