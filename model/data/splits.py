"""What is held out of training, the folds of a cross-validation, and the control that shuffles every sequence."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model.data.datasets import Dataset, LabelledSequences, Labels

Rows = npt.NDArray[np.int64]
FOLD_SEED = 0  # the same folds for every training seed


def split(data: LabelledSequences, share: float, seed: int) -> tuple[LabelledSequences, LabelledSequences]:
    """Hold out a part of `data`; see `draw_rows`, whose arguments and order these are."""
    remaining, apart = draw_rows(len(data), data.given_labels, share, seed)
    return data.subset(remaining), data.subset(apart)


def draw_rows(count: int, labels: Labels | None, share: float, seed: int) -> tuple[Rows, Rows]:
    """Draw rows to hold out: the same share of every class, or of all rows if labels are not classes.

    Args:
        count: the number of rows, at least 2.
        labels: one for each row, or None.
        share: rounded up; but of what there is, at least one row remains.
        seed: of the draw.

    Returns:
        The rows that remain, and those that are held out, each in ascending order.

    Raises:
        ValueError: no class has two rows, so that none can be held out.
    """
    draw = np.random.default_rng(seed)
    is_classified = labels is not None and labels.dtype == np.int64
    strata = np.asarray(labels) if is_classified else np.zeros(count, dtype=np.int64)
    held_out: list[npt.NDArray[np.int64]] = []
    for label in np.unique(strata):
        rows = draw.permutation(np.flatnonzero(strata == label))
        held_out.append(rows[: min(int(np.ceil(share * len(rows))), len(rows) - 1)])
    apart = np.sort(np.concatenate(held_out))
    if not len(apart):
        raise ValueError(f"of {count} sequences none can be held out: no class has two of them")
    return np.setdiff1d(np.arange(count), apart), apart


def cut_folds(count: int, labels: Labels | None, folds: int) -> list[Rows]:
    """Cut rows into parts that differ in size by one for each class at most, always the same ones.

    Args:
        count: the number of rows.
        labels: one for each row, or None; each part has its share of every class, if they are classes.
        folds: how many parts, at least 2.

    Returns:
        The rows of each part, in ascending order.

    Raises:
        ValueError: there are fewer than two parts.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds leave nothing to judge on: it takes at least 2")
    order = np.random.default_rng(FOLD_SEED).permutation(count)
    if labels is not None and labels.dtype == np.int64:
        order = order[np.argsort(labels[order], kind="stable")]
    return [np.sort(order[part::folds]) for part in range(folds)]


def shuffle_frames(data: LabelledSequences, seed: int) -> LabelledSequences:
    """Permute the steps of every sequence: the control that shows what order is worth."""
    draw = np.random.default_rng(seed)
    sequences = [draw.permutation(steps) for steps in data.sequences]
    partners = None if data.partners is None else [draw.permutation(steps) for steps in data.partners]
    return LabelledSequences(sequences, data.given_labels, partners)


def shuffle_dataset(dataset: Dataset) -> Dataset:
    """Permute the steps of every sequence, in training, validation and test, and of longer ones."""
    validation = None if dataset.validation is None else shuffle_frames(dataset.validation, 3)
    longer = None if dataset.longer is None else shuffle_frames(dataset.longer, 4)
    train, test = shuffle_frames(dataset.train, 1), shuffle_frames(dataset.test, 2)
    return replace(dataset, train=train, test=test, validation=validation, longer=longer)
