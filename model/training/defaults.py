"""What is trained if no recipe says otherwise: it follows the size of the data set.

A small set needs updates, not epochs: 60 epochs of 50 sequences in batches of 32 are 120 updates, of which the warm-up
takes a fifth. The figures behind the numbers here are in `docs/decisions/training.md`.
"""

import math
from typing import Any

from model.data.datasets import Dataset

UPDATES = 1000  # at least, of the weights
FEWEST_EPOCHS = 10
BATCHES = 16  # in an epoch of a small set, of at least and at most so many sequences
SMALLEST_BATCH, LARGEST_BATCH = 8, 32
EMBEDDING = 64  # numbers at least for a token
SMALL = 100  # sequences; fewer than so many spare none for validation
FOLDS = 5  # of a small set, by which a regressor is drawn to the mean: its error, unlike a share, has no bound
HEADED = ("classification", "regression")  # the tasks whose head reads the pooled vector


def choose_embedding(vocabulary: int) -> int:
    """Return how many numbers a token becomes: eight times the fourth root of the vocabulary, and at least 64.

    The fourth root itself, as in TensorFlow's tutorials, is what an encoder takes if a recipe says `null`.
    """
    return max(EMBEDDING, int(8 * vocabulary**0.25))


def choose_encoder(dataset: Dataset, task: str) -> dict[str, Any]:
    """Return the fields of `EncoderConfig` for a data set without a recipe."""
    if task not in HEADED:
        return {}
    if dataset.vocabulary is not None:
        return {"pooling": "mean+max"}
    return {"deltas": 1, "pooling": "mean+std"}


def choose_training(dataset: Dataset, task: str) -> dict[str, Any]:
    """Return the fields of `TrainConfig` for a data set without a recipe.

    No training stops before its learning rate has come down, which is when a small set gains most. A regressor's head
    drops nothing: the numbers that remain would be scaled up, which changes a sum but hardly a class.
    """
    fitting = len(dataset.train)
    batch_size = max(SMALLEST_BATCH, min(LARGEST_BATCH, fitting // BATCHES))
    epochs = max(FEWEST_EPOCHS, math.ceil(UPDATES * batch_size / fitting))
    sized: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "patience": epochs}
    if task not in HEADED:
        return sized
    is_regression = task == "regression"
    if fitting < SMALL:
        sized |= {"validation_share": 0.0} | ({"shrink_folds": FOLDS} if is_regression else {})
    sized["learning_rate"] = 1e-3 if dataset.vocabulary is None else 3e-3
    return sized if is_regression else sized | {"head_dropout": 0.3, "head_norm": True}
