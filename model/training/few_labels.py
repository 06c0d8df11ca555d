"""What embeddings are worth if few sequences have labels: as many of each class as are asked for, then all."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from model.data.datasets import Dataset, LabelledSequences
from model.encoder.encoder import SequenceEncoder
from model.tasks.task import Task, run_batches
from model.training.baselines import count_grams, make_probe, make_untrained, summarise
from model.training.fit import train
from model.training.recipe import read_recipe

Rows: TypeAlias = npt.NDArray[np.int64]
Parts: TypeAlias = tuple[Any, Any]  # what a method reads of the training and of the test sequences, (n, K) each

SOFTNESSES = np.logspace(-4, 4, 9)  # an SVM's C, chosen by cross-validation, as published figures have it
FOLDS = 5  # of that; a class with fewer labels leaves nothing to choose by, and C is the largest
METHODS = ("probe", "nearest neighbour", "SVM")  # on embeddings of the trained encoder, and of an untrained one
SUPERVISED, STATISTICS = "supervised", "SVM on statistics"


class NoClasses(ValueError):
    """Labels cannot be drawn of each class."""

    def __init__(self, name: str) -> None:
        super().__init__(f"--few-labels draws labels of each class, and {name} is not labelled with classes")


@dataclass(frozen=True, slots=True)
class Curves:
    """How accuracy grows with labels.

    Attributes:
        counts: labels a class; None stands for all there are.
        values: by method `(counts, draws)`, accuracy on the test sequences; of several encoders, their draws in a row.
    """

    counts: Sequence[int | None]
    values: dict[str, npt.NDArray[np.float64]]

    def format(self) -> str:
        """Return a table: a line for each number of labels, mean and standard deviation of each method."""
        lines = ["labels a class" + "".join(f"{name:>{_width(name)}}" for name in self.values)]
        for row, count in enumerate(self.counts):
            cells = [
                f"{f'{drawn[row].mean():.4f} ± {drawn[row].std(ddof=1):.4f}':>{_width(name)}}"
                for name, drawn in self.values.items()
            ]
            lines.append(f"{'all' if count is None else count!s:14}" + "".join(cells))
        return "\n".join(lines)


def learn_from_few(tasks: Sequence[Task], dataset: Dataset, counts: Sequence[int], draws: int) -> Curves:
    """Judge encoders by what is learned on their embeddings from few labels, and what is learned without them.

    Beside them stand the same encoder untrained, a classifier trained on these labels alone as without a recipe, and an
    SVM on the mean and deviation of each feature, or on the count of each token.

    Args:
        tasks: encoders that were trained alike.
        dataset: whose training labels are drawn, and on whose test sequences all are judged.
        counts: labels a class; a class that has fewer gives all it has.
        draws: how often labels are drawn, at least 2; draw i is always the same one.

    Raises:
        NoClasses: the labels are not classes.
        ValueError: a single draw has no deviation.
    """
    if not dataset.classes:
        raise NoClasses(dataset.name)
    if draws < 2:
        raise ValueError(f"--draws is {draws}: it must be at least 2, to say how much draws differ")
    rows = [[draw_few(dataset.train, count, draw) for draw in range(draws)] for count in [*counts, None]]
    kinds = {"": [task.encoder for task in tasks], "untrained ": [make_untrained(tasks[0].encoder, dataset)]}
    values: dict[str, npt.NDArray[np.float64]] = {}
    for kind, encoders in kinds.items():
        embedded = [_embed(encoder, dataset) for encoder in encoders]
        for method in METHODS:
            found = [_judge(method, parts, dataset, rows) for parts in embedded]
            values[kind + method] = np.concatenate(found, axis=1)
    values[SUPERVISED] = np.array([[_train(dataset, few, seed) for seed, few in enumerate(drawn)] for drawn in rows])
    values[STATISTICS] = _judge("SVM", _describe(dataset), dataset, rows)
    return Curves([*counts, None], values)


def draw_few(data: LabelledSequences, count: int | None, seed: int) -> Rows:
    """Draw rows, as many of each class; more of them with the same seed are the same ones and others.

    Args:
        data: sequences with classes.
        count: of each class, or as many as it has; None takes all.
        seed: of the draw.

    Returns:
        The rows, in ascending order.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    by_class = [order[data.labels[order] == label][:count] for label in np.unique(data.labels)]
    return np.sort(np.concatenate(by_class))


def make_svm(labels: npt.NDArray[Any]) -> BaseEstimator:
    """Make a support vector machine with a radial kernel, whose C is chosen on the labels `(n,)` it will learn from."""
    machine = make_pipeline(StandardScaler(), SVC(C=SOFTNESSES[-1]))
    if np.unique(labels, return_counts=True)[1].min() < FOLDS:
        return machine
    return GridSearchCV(machine, {"svc__C": SOFTNESSES}, cv=FOLDS)


def _width(name: str) -> int:
    return max(15, len(name)) + 2


def _make_learner(method: str, labels: npt.NDArray[Any]) -> BaseEstimator:
    if method == "SVM":
        return make_svm(labels)
    return make_probe() if method == "probe" else KNeighborsClassifier(1)


def _embed(encoder: SequenceEncoder, dataset: Dataset) -> Parts:
    known, asked = (run_batches(encoder, encoder, part).cpu().numpy() for part in (dataset.train, dataset.test))
    return known, asked


def _describe(dataset: Dataset) -> Parts:
    """Return mean and deviation of each feature, or the count of each token."""
    if dataset.features is None:
        known, asked = count_grams(dataset.train, dataset.test, 1)
        return known.toarray(), asked.toarray()
    kept = slice(1, 1 + 2 * dataset.features)
    known, asked = (
        np.stack([summarise(steps)[kept] for steps in part.sequences]) for part in (dataset.train, dataset.test)
    )
    return known, asked


def _judge(method: str, parts: Parts, dataset: Dataset, rows: list[list[Rows]]) -> npt.NDArray[np.float64]:
    """Return the accuracy of a method that learns from each of the draws: `(counts, draws)`."""
    known, asked = parts

    def score(few: Rows) -> float:
        labels = dataset.train.labels[few]
        return float(_make_learner(method, labels).fit(known[few], labels).score(asked, dataset.test.labels))

    drawn_few = [[score(few) for few in drawn] for drawn in rows[:-1]]
    return np.array([*drawn_few, [score(rows[-1][0])] * len(rows[-1])])  # of all labels every draw is the same


def _train(dataset: Dataset, few: Rows, seed: int) -> float:
    """Return the accuracy of a classifier that is trained on these rows alone, as without a recipe."""
    part = replace(dataset, train=dataset.train.subset(few), validation=None, longer=None)
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder) / "run", part, read_recipe(None, part, "classification", seed=seed))["accuracy"]
