"""How a recipe does within the training sequences alone, so that recipes are chosen without the test sequences."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.datasets import Dataset
from model.data.splits import cut_folds
from model.data.teachers import teach
from model.data.texts import retokenize
from model.training.fit import train
from model.training.recipe import Hardware, Recipe


@dataclass(frozen=True, slots=True)
class Folds:
    """How the training sequences are divided.

    Attributes:
        count: K, the parts they are cut into, each with its share of every class; the same ones for every seed.
        learn_from_one: learn from one part and judge on all others, which tells recipes apart if learning from K - 1
            parts is too easy; else learn from K - 1 parts and judge on the one left.
    """

    count: int
    learn_from_one: bool = False

    def draw(self, dataset: Dataset) -> Iterator[Dataset]:
        """Return a data set for each fold, whose test sequences are training ones of `dataset`.

        A vocabulary that was made of the training texts is made anew of those that a fold learns from.

        Raises:
            ValueError: there are not at least two folds, or a fold would learn from fewer than two sequences.
        """
        rows = cut_folds(len(dataset.train), dataset.train.given_labels, self.count)
        for fold in rows:
            others = np.setdiff1d(np.arange(len(dataset.train)), fold)
            learned, judged = (fold, others) if self.learn_from_one else (others, fold)
            if min(len(learned), len(judged)) < 2:
                raise ValueError(f"{self.count} folds of {len(dataset.train)} sequences are too small to learn from")
            parts = dataset.train.subset(learned), dataset.train.subset(judged)
            yield _rebuild_vocabulary(replace(dataset, train=parts[0], test=parts[1], longer=None))


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured.

    Attributes:
        names: M metrics, as `model.training.probes` names them.
        seeds: S, those of the trainings.
        values: `(S, K, M)`, on the part of each fold that was held out.
    """

    names: Sequence[str]
    seeds: Sequence[int]
    values: npt.NDArray[np.float64]

    def format(self) -> str:
        """Return a table: a line a training, their mean, and how much folds and seeds differ."""
        lines = [f"{'seed':>6}{'fold':>6}" + "".join(f"{name:>{_width(name)}}" for name in self.names)]
        for seed, folds in zip(self.seeds, self.values, strict=True):
            lines += [self._line(f"{seed:6}{fold:6}", values) for fold, values in enumerate(folds, start=1)]
        lines.append(self._line("mean", self.values.mean(axis=(0, 1))))
        lines.append(self._line("s.d. folds", self.values.mean(axis=0).std(axis=0, ddof=1)))
        if len(self.seeds) > 1:
            lines.append(self._line("s.d. seeds", self.values.mean(axis=1).std(axis=0, ddof=1)))
        return "\n".join(lines)

    def _line(self, title: str, values: npt.NDArray[np.float64]) -> str:
        cells = (f"{value:{_width(name)}.4f}" for name, value in zip(self.names, values, strict=True))
        return f"{title:12}" + "".join(cells)


def cross_validate(
    dataset: Dataset, recipe: Recipe, folds: Folds, seeds: Sequence[int], hardware: Hardware | None = None
) -> Scores:
    """Train and judge a recipe on every fold of the training sequences, once a seed; nothing is kept of the trainings.

    The test sequences are never read. A part of what a fold learns from stops its training early, unless the data set
    has validation sequences of its own.

    Args:
        dataset: whose training sequences are divided.
        recipe: what is trained, and how; the vocabulary's size is each fold's own.
        folds: how they are divided.
        seeds: one training a fold for each.
        hardware: what to train on; by default all that is found.

    Raises:
        ValueError: the folds are too small.
    """
    parts = list(folds.draw(dataset))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            seeded = replace(recipe, training=replace(recipe.training, seed=seed))
            for part in parts:
                encoder = replace(recipe.encoder, vocabulary=part.vocabulary)
                fold = replace(seeded, encoder=encoder)
                results.append(train(Path(folder) / "run", part, fold, hardware=hardware))
    names = list(results[0])
    values = np.array([[result[name] for name in names] for result in results])
    return Scores(names, seeds, values.reshape(len(seeds), len(parts), len(names)))


def _rebuild_vocabulary(fold: Dataset) -> Dataset:
    """Make tokenizer and vectors of the texts that a fold learns from, as a training on these alone would."""
    if fold.build_vocabulary is None or fold.train.texts is None:
        return fold
    tokenizer, vectors = fold.build_vocabulary(fold.train.texts)
    fold = replace(retokenize(fold, tokenizer), vectors=vectors)
    return fold if fold.teacher is None else teach(fold, fold.teacher, targets=False)


def _width(name: str) -> int:
    return max(10, len(name)) + 2
