"""What is held out of training, and the control that shuffles every sequence."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model.data.datasets import Dataset, LabelledSequences


def split(data: LabelledSequences, share: float, seed: int) -> tuple[LabelledSequences, LabelledSequences]:
    """Hold out a part of `data`: the same share of every class, or of all rows where labels are no classes.

    Args:
        data: n >= 2 sequences.
        share: rounded up; but of what there is, at least one row remains.
        seed: of the draw.

    Returns:
        What remains, and what is held out.
    """
    draw = np.random.default_rng(seed)
    is_classified = data.labels.ndim == 1 and data.labels.dtype == np.int64
    strata = data.labels if is_classified else np.zeros(len(data), dtype=np.int64)
    held_out: list[npt.NDArray[np.int64]] = []
    for label in np.unique(strata):
        rows = draw.permutation(np.flatnonzero(strata == label))
        held_out.append(rows[: min(int(np.ceil(share * len(rows))), len(rows) - 1)])
    apart = np.sort(np.concatenate(held_out))
    remaining = np.setdiff1d(np.arange(len(data)), apart)
    return data.subset(remaining), data.subset(apart)


def shuffle_frames(data: LabelledSequences, seed: int) -> LabelledSequences:
    """Permute the steps of every sequence: the control that shows what order is worth."""
    draw = np.random.default_rng(seed)
    sequences = [draw.permutation(steps) for steps in data.sequences]
    partners = None if data.partners is None else [draw.permutation(steps) for steps in data.partners]
    return LabelledSequences(sequences, data.labels, partners)


def shuffle_dataset(dataset: Dataset) -> Dataset:
    """Permute the steps of every sequence, in training, validation and test."""
    validation = None if dataset.validation is None else shuffle_frames(dataset.validation, 3)
    train, test = shuffle_frames(dataset.train, 1), shuffle_frames(dataset.test, 2)
    return replace(dataset, train=train, test=test, validation=validation)
