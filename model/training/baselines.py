"""What an encoder must beat on its own split: methods of one line, and itself before training."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from model.data.datasets import Dataset, LabelledSequences, Steps
from model.encoder.encoder import SequenceEncoder
from model.tasks.task import Task, run_batches

MOST_SEQUENCES = 10_000  # of each part, the first ones of a seeded draw: a baseline takes seconds
LONGEST_GRAM = 3  # tokens
PENALTIES = np.logspace(-3, 3, 7)  # of ridge regression, which chooses by leaving one out

Matrix: TypeAlias = Any  # (n, K): a dense array, or a sparse one of scipy, which has no types

SUMMARY = {
    "features": "the length and each feature's mean, deviation, least and largest value",
    "tokens": "the count of each token",
}
BASELINES = {
    "majority": "always saying the most frequent class",
    "statistics_1nn": "the nearest neighbour by {summary}",
    "statistics_linear": "logistic regression on {summary}",
    "bayes_ngrams": "naive Bayes on one to three tokens in a row",
    "untrained_probe": "logistic regression on this encoder's embeddings before any training",
    "mean_r2": "always saying the mean",
    "statistics_1nn_r2": "the nearest neighbour by {summary}",
    "statistics_ridge_r2": "ridge regression on {summary}",
    "untrained_r2": "ridge regression on this encoder's embeddings before any training",
    "unigram_perplexity": "the frequency of each token",
    "bigram_perplexity": "the frequency of each pair of tokens in a row (Kneser-Ney)",
    "mean_vectors_spearman": "the average of the pretrained vectors",
    "sif_vectors_spearman": "the average of the pretrained vectors by SIF",
}
JUDGED_BY = {
    "accuracy": True,
    "r2": True,
    "spearman": True,
    "perplexity": False,
    "linear_probe": True,
}  # more is better


def measure_baselines(task: Task, dataset: Dataset) -> dict[str, float]:
    """Measure on the test sequences what the encoder must beat; everything is fitted on the training sequences.

    Args:
        task: trained, or not.
        dataset: the split that the task is judged on.

    Returns:
        What the task knows; and of classes accuracies, of numbers shares of the variance explained (R2), by the names
        in `BASELINES`.
    """
    kind = dataset.label_kind
    if kind not in ("classes", "numbers"):
        return task.measure_baselines(dataset)
    train, test = _draw(dataset.train), _draw(dataset.test)
    encoder = make_untrained(task.encoder, dataset)
    embedded = run_batches(encoder, encoder, train).cpu().numpy(), run_batches(encoder, encoder, test).cpu().numpy()
    described = _describe(train, test)
    if kind == "classes":
        methods: list[tuple[str, BaseEstimator, tuple[Matrix, Matrix]]] = [
            ("majority", DummyClassifier(strategy="most_frequent"), described),
            ("statistics_1nn", KNeighborsClassifier(1), described),
            ("statistics_linear", LogisticRegression(max_iter=5000), described),
            ("untrained_probe", make_probe(), embedded),
        ]
        if dataset.vocabulary is not None:
            methods.append(("bayes_ngrams", MultinomialNB(alpha=0.1), count_grams(train, test, LONGEST_GRAM)))
    else:
        methods = [
            ("mean_r2", DummyRegressor(), described),
            ("statistics_1nn_r2", KNeighborsRegressor(1), described),
            ("statistics_ridge_r2", RidgeCV(PENALTIES), described),
            ("untrained_r2", make_pipeline(StandardScaler(), RidgeCV(PENALTIES)), embedded),
        ]
    found = {
        name: float(method.fit(known, train.labels).score(asked, test.labels))
        for name, method, (known, asked) in methods
    }
    return found | task.measure_baselines(dataset)


def describe_baselines(results: Mapping[str, float], *, tokens: bool) -> str:
    """Say in a sentence whether the encoder beats the best of its baselines; empty if there are none.

    Args:
        results: of `model.training.probes.evaluate`.
        tokens: whether steps are token ids.
    """
    metric = next((name for name in JUDGED_BY if name in results), None)
    suffix = {"accuracy": "", "linear_probe": ""}.get(metric or "", f"_{metric}")
    found = {name: results[name] for name in BASELINES if name in results and name.endswith(suffix)}
    if metric is None or not found:
        return ""
    is_more_better, own = JUDGED_BY[metric], results[metric]
    best = (max if is_more_better else min)(found, key=found.__getitem__)
    is_beaten = own > found[best] if is_more_better else own < found[best]
    method = BASELINES[best].format(summary=SUMMARY["tokens" if tokens else "features"])
    verb = "beats" if is_beaten else "does not beat"
    return f"the encoder's {metric.replace('_', ' ')} of {own:.4f} {verb} {found[best]:.4f}, that of {method}"


def make_probe() -> BaseEstimator:
    """Make what judges embeddings by a linear map: logistic regression on standardised numbers."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))


def make_untrained(encoder: SequenceEncoder, dataset: Dataset) -> SequenceEncoder:
    """Make the encoder that this one was before its training, on its device: same sizes, random weights.

    Standardisation, of slopes too, and pretrained vectors, which are there before any training, are kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = SequenceEncoder(encoder.config)
    for own, fitted in (
        (fresh.standardization, encoder.standardization),
        (fresh.slope_standardization, encoder.slope_standardization),
    ):
        if own is not None and fitted is not None:
            own.load_state_dict(fitted.state_dict())
    if fresh.embedding is not None and dataset.vectors is not None:
        with torch.no_grad():
            fresh.embedding.weight.copy_(torch.from_numpy(dataset.vectors))
    return fresh.to(next(encoder.parameters()).device).eval()


def summarise(steps: Steps) -> npt.NDArray[np.float64]:
    """Return the length of `(t, F)`, t >= 1, and of each feature mean, deviation, least and largest: `(4F + 1,)`."""
    values = steps.astype(np.float64)
    parts = [values.mean(axis=0), values.std(axis=0), values.min(axis=0), values.max(axis=0)]
    return np.concatenate([[len(values)], *parts])


def _describe(train: LabelledSequences, test: LabelledSequences) -> tuple[Matrix, Matrix]:
    """Return what sequences are without order, scaled by the training ones: statistics, or counts of tokens."""
    if train.sequences[0].ndim == 1:
        known, asked = count_grams(train, test, 1)
        scaler: BaseEstimator = MaxAbsScaler()
    else:
        known, asked = (np.stack([summarise(steps) for steps in part.sequences]) for part in (train, test))
        scaler = StandardScaler()
    return scaler.fit_transform(known), scaler.transform(asked)


def count_grams(train: LabelledSequences, test: LabelledSequences, longest: int) -> tuple[Matrix, Matrix]:
    """Count the n-grams of up to `longest` tokens that the training sequences hold, in each sequence."""

    def cut(ids: Steps) -> Iterator[tuple[int, ...]]:
        known = ids.tolist()
        return (tuple(known[at : at + size]) for size in range(1, longest + 1) for at in range(len(known) + 1 - size))

    counter = CountVectorizer(analyzer=cut)
    return counter.fit_transform(train.sequences), counter.transform(test.sequences)


def _draw(data: LabelledSequences) -> LabelledSequences:
    """Keep at most `MOST_SEQUENCES`, always the same ones."""
    if len(data) <= MOST_SEQUENCES:
        return data
    return data.subset(np.sort(np.random.default_rng(0).permutation(len(data))[:MOST_SEQUENCES]))
