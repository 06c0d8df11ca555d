"""What was read, in a sentence for whoever trains on it, and what is odd about it."""

from collections import Counter

import numpy as np

from model.data.datasets import Dataset

MOST_NAMES = 8  # of features that are listed
MOST_CLASSES = 0.5  # of the sequences: labels with more classes are hardly classes


def describe_dataset(dataset: Dataset) -> str:
    """Say how many sequences there are in each part, how long they are, what a step is and what the labels are."""
    parts = [len(dataset.train), len(dataset.test)]
    lengths = [*dataset.train.lengths, *dataset.test.lengths]
    counted = f"{parts[0]:,} sequences to learn from and {parts[1]:,} to test on"
    said = [f"{counted}, of {min(lengths):,} to {max(lengths):,} steps", _describe_steps(dataset)]
    if labels := _describe_labels(dataset):
        said.append(labels)
    return f"{dataset.name}: {'; '.join(said)}"


def describe_odd_labels(dataset: Dataset) -> str:
    """Say that labels are hardly classes, if a user's file has a class for every other sequence; empty otherwise."""
    count = len(dataset.train) + len(dataset.test)
    if dataset.file is None or len(dataset.classes) <= MOST_CLASSES * count:
        return ""
    return f"the labels of {count} sequences are {len(dataset.classes)} classes: --task regression learns numbers"


def _describe_steps(dataset: Dataset) -> str:
    if dataset.tokenizer is not None:
        return f"texts, with a vocabulary of {dataset.vocabulary:,}"
    if dataset.vocabulary is not None:
        return f"a step is a token id below {dataset.vocabulary:,}"
    names = ", ".join(dataset.columns[:MOST_NAMES]) + ", ..." * (len(dataset.columns) > MOST_NAMES)
    return f"a step is {dataset.features} number{'s' * (dataset.features != 1)}{f' ({names})' * bool(names)}"


def _describe_labels(dataset: Dataset) -> str:
    if dataset.label_kind == "classes":
        (most, count), *_ = Counter(dataset.train.labels.tolist()).most_common(1)
        share = count / len(dataset.train)
        return f"{len(dataset.classes)} classes, of which {dataset.classes[most]!r} is {share:.0%}"
    if dataset.label_kind in ("numbers", "pairs"):
        labels = np.concatenate([dataset.train.labels, dataset.test.labels])
        return f"labels from {labels.min():g} to {labels.max():g}"
    return ""
