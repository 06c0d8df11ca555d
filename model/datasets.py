"""The data sets the project trains on, read from registry packages at run time; none is committed here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Steps: TypeAlias = npt.NDArray[np.float32]  # (t, F)


class DatasetUnavailable(Exception):
    """A data set's package is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the data is read from the package {package!r}, which is not installed: pip install '.[train]'"
        )


@dataclass(frozen=True, slots=True)
class LabelledSequences:
    """Sequences of any length with one class each.

    Attributes:
        sequences: n arrays `(t_i, F)`, float32, `t_i >= 1`.
        labels: `(n,)`, int64, indices into `Dataset.classes`.
    """

    sequences: list[Steps]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequences)

    def subset(self, rows: npt.NDArray[np.int64]) -> "LabelledSequences":
        """Keep the given rows, in the given order."""
        return LabelledSequences([self.sequences[row] for row in rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A classification data set with its official split.

    Attributes:
        classes: the label of each class index, as the source writes it.
        source: where the data comes from.
        licence: under which terms, as the source states them.
    """

    name: str
    train: LabelledSequences
    test: LabelledSequences
    classes: tuple[str, ...]
    source: str
    licence: str

    @property
    def features(self) -> int:
        """F, the numbers in a step."""
        return int(self.train.sequences[0].shape[1])


def japanese_vowels() -> Dataset:
    """Read JapaneseVowels: which of 9 speakers said a vowel, from 12 LPC cepstra a frame, 7 to 29 frames.

    The official split: 270 training and 370 test utterances (Kudo, Toyama, Shimbo, 1999).

    Raises:
        DatasetUnavailable: sktime, whose distribution carries the files, is not installed.
    """
    spec = find_spec("sktime")  # locates the files without importing the library
    if spec is None or spec.origin is None:
        raise DatasetUnavailable("sktime")
    folder = Path(spec.origin).parent / "datasets" / "data" / "JapaneseVowels"
    classes = tuple(str(speaker) for speaker in range(1, 10))
    return Dataset(
        name="japanese-vowels",
        train=_read_ts(folder / "JapaneseVowels_TRAIN.ts", classes),
        test=_read_ts(folder / "JapaneseVowels_TEST.ts", classes),
        classes=classes,
        source="UCI Machine Learning Repository, Japanese Vowels, doi:10.24432/C5NS47, from the files in sktime",
        licence="donors ask to be informed of publications and to be asked before commercial use",
    )


def _read_ts(path: Path, classes: tuple[str, ...]) -> LabelledSequences:
    """Read sktime's `.ts` text: one case a line, features separated by colons, the label last."""
    _, _, body = path.read_text(encoding="utf-8").partition("@data")
    sequences: list[Steps] = []
    labels: list[int] = []
    for line in body.split():
        *columns, label = line.split(":")
        features = np.array([column.split(",") for column in columns], dtype=np.float32)  # (F, t)
        sequences.append(np.ascontiguousarray(features.T))
        labels.append(classes.index(label))
    return LabelledSequences(sequences, np.array(labels, dtype=np.int64))


def which_first() -> Dataset:
    """Make a task that order alone decides: which of two marks comes first.

    A sequence is noise of 3 features and 5 to 40 steps, with a mark A (feature 0) and a mark B (feature 1) at two
    different steps; the class says which is earlier. Both classes hold the same steps in every respect but their
    order, so that whatever ignores order is right half the time. The data is made, with a fixed seed.
    """
    draw = np.random.default_rng(20260101)
    return Dataset(
        name="which-first",
        train=_draw_marks(draw, 600),
        test=_draw_marks(draw, 1000),
        classes=("A first", "B first"),
        source="made by model/datasets.py",
        licence="Apache-2.0",
    )


def _draw_marks(draw: np.random.Generator, cases: int) -> LabelledSequences:
    labels = draw.integers(0, 2, cases)
    sequences: list[Steps] = []
    for label in labels:
        steps = draw.normal(0.0, 0.3, (draw.integers(5, 41), 3)).astype(np.float32)
        first, second = sorted(draw.choice(len(steps), 2, replace=False))
        steps[first, label] += 3.0
        steps[second, 1 - label] += 3.0
        sequences.append(steps)
    return LabelledSequences(sequences, labels)


DATASETS: dict[str, Callable[[], Dataset]] = {"japanese-vowels": japanese_vowels, "which-first": which_first}
