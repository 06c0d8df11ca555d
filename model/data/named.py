"""The data sets with a name, but those of texts: made here, or read from a registry package."""

import itertools
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from model.data.datasets import Dataset, DatasetUnavailable, LabelledSequences, Steps


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
        source="made by model/data/named.py",
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


def digit_sums() -> Dataset:
    """Make the many-to-one task of the TensorFlow tutorials: the sum of 1 to 4 integers from 0 to 9.

    Token id d + 1 stands for the digit d. Of the sequences of each length, 1,000 at most, a fifth is held out: no
    sequence is in both parts. `longer` holds 200 sequences each of 5 to 8 digits.
    """
    draw = np.random.default_rng(20260102)
    train: list[Steps] = []
    test: list[Steps] = []
    for length in (1, 2, 3, 4):
        every = np.array(list(itertools.product(range(1, 11), repeat=length)), dtype=np.int64)
        chosen = draw.permutation(every)[:1000]
        test.extend(chosen[: len(chosen) // 5])
        train.extend(chosen[len(chosen) // 5 :])
    longer: list[Steps] = [draw.integers(1, 11, length) for length in (5, 6, 7, 8) for _ in range(200)]
    return Dataset(
        name="sum",
        train=_label_sums(train),
        test=_label_sums(test),
        classes=(),
        source="made by model/data/named.py",
        licence="Apache-2.0",
        vocabulary=11,
        longer=_label_sums(longer),
    )


def _label_sums(sequences: list[Steps]) -> LabelledSequences:
    sums = [int(steps.sum()) - len(steps) for steps in sequences]  # ids count from 1, digits from 0
    return LabelledSequences(sequences, np.array(sums, dtype=np.float32))
