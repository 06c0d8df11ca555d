"""What is trained without a recipe."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.datasets import Dataset, LabelledSequences
from model.encoder.config import EncoderConfig
from model.training import train as train_module
from model.training.defaults import choose_embedding, choose_training
from model.training.recipe import describe_folds, read_recipe
from tests.model.test_train import make_dataset


def make_texts() -> Dataset:
    """Make a data set of 97 token ids, padding included."""
    ids = LabelledSequences([np.arange(1, 4)] * 4, np.array([0, 1, 0, 1]))
    return Dataset("texts", ids, ids, ("no", "yes"), "made", "Apache-2.0", vocabulary=97)


@pytest.mark.parametrize("count", [20, 50, 270, 2000, 100_000])
def test_small_sets_get_enough_updates(count: int) -> None:
    """However few sequences there are, their weights change a thousand times before training may stop."""
    easy = make_dataset()
    row = easy.train.subset(np.zeros(1, dtype=np.int64))
    dataset = replace(easy, train=LabelledSequences(row.sequences * count, np.zeros(count, dtype=np.int64)))
    chosen = choose_training(dataset, "classification")
    batch_size, epochs = chosen["batch_size"], chosen["epochs"]
    assert epochs * count / batch_size >= 1000
    assert 8 <= batch_size <= 32
    assert chosen["patience"] == epochs
    assert ("validation_share" in chosen) == (count < 100)


def test_defaults_follow_what_is_read() -> None:
    """Features get slopes and statistics, tokens an embedding of some size; a regressor's encoder is a classifier's."""
    features = read_recipe(None, make_dataset()).encoder
    assert (features.deltas, features.pooling) == (1, "mean+std")
    tokens = read_recipe(None, make_texts())
    assert (tokens.encoder.deltas, tokens.encoder.embedding) == (0, choose_embedding(97))
    assert read_recipe(None, make_texts(), "regression").encoder == tokens.encoder
    assert read_recipe(None, make_texts(), "selfsupervised").encoder.pooling == "mean"


def test_a_regressor_drops_nothing_and_is_drawn_to_the_mean_of_a_small_set() -> None:
    """Its head is plain, and five folds of fewer than 100 sequences say how far its predictions are to be trusted."""
    small, classifier = (choose_training(make_dataset(), task) for task in ("regression", "classification"))
    assert "head_dropout" not in small
    assert "head_norm" not in small
    assert (small["validation_share"], small["shrink_folds"]) == (0.0, 5)
    assert "shrink_folds" not in classifier
    assert (classifier["head_dropout"], classifier["head_norm"], classifier["validation_share"]) == (0.3, True, 0.0)
    large = replace(make_dataset(), train=LabelledSequences([np.ones((1, 2), np.float32)] * 100, None))
    assert not {"validation_share", "shrink_folds"} & choose_training(large, "regression").keys()


def test_more_trainings_are_announced() -> None:
    """A regressor of a small set says that it is trained six times; a classifier is not."""
    assert describe_folds(read_recipe(None, make_dataset(), "regression")).startswith("5 more trainings follow")
    assert describe_folds(read_recipe(None, make_dataset())) == ""


def test_what_is_asked_for_wins_over_defaults() -> None:
    """The epochs of the command line are kept."""
    assert read_recipe(None, make_dataset(), epochs=3).training.epochs == 3


def test_the_fourth_root_is_asked_for_by_null(tmp_path: Path) -> None:
    """An embedding of 3 numbers for 97 tokens, as in TensorFlow's tutorials, is what null means; it is no default."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"encoder": {"embedding": null}}')
    assert read_recipe(recipe, make_texts()).encoder.step_size == 3
    recipe.write_text("{}")
    assert read_recipe(recipe, make_texts()).encoder.step_size == 64
    assert choose_embedding(50_000) > choose_embedding(10_000) > choose_embedding(97) == 64


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What a recipe leaves out has one value, whatever the data: its figures can be had again."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"training": {"epochs": 5}}')
    found = read_recipe(recipe, make_dataset())
    assert found.encoder == EncoderConfig(features=2)
    assert (found.training.batch_size, found.training.patience) == (32, 30)


@pytest.mark.parametrize("path", sorted(train_module.RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_shipped_recipes_state_the_embedding(path: Path) -> None:
    """No shipped recipe of tokens depends on how the size of an embedding is chosen; GloVe's have theirs."""
    is_stated = "embedding" in json.loads(path.read_text(encoding="utf-8")).get("encoder", {})
    given = (
        "japanese-vowels",
        "selfsupervised",
        "selfsupervised-tokens",
        "which-first",
        "sts-b",
        "distil",
        "sts-b-from-run",
    )
    assert is_stated == (path.stem not in given)
