"""What an encoder must beat on its own split, and what is said of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.datasets import Dataset, LabelledSequences, Steps
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.supervised import SequenceClassifier, SequenceRegressor
from model.training import baselines
from model.training.baselines import describe_baselines, make_untrained, measure_baselines, summarise

TRAINING = TrainConfig()


def make_numbers(count: int, seed: int) -> tuple[list[Steps], np.ndarray]:
    """Make sequences of two features whose label is twice the length plus the largest value of the first."""
    draw = np.random.default_rng(seed)
    sequences: list[Steps] = [draw.normal(0, 1, (draw.integers(1, 9), 2)).astype(np.float32) for _ in range(count)]
    return sequences, np.array([2 * len(steps) + steps[:, 0].max() for steps in sequences], dtype=np.float32)


def make_dataset(train: LabelledSequences, test: LabelledSequences, classes: tuple[str, ...] = ()) -> Dataset:
    """Make a data set of two parts, of tokens if its steps are integers."""
    vocabulary = 9 if train.sequences[0].ndim == 1 else None
    return Dataset("made", train, test, classes, "made", "Apache-2.0", vocabulary=vocabulary)


def test_statistics_are_those_of_each_feature() -> None:
    """The length comes first, then mean, deviation, least and largest of each feature."""
    steps = np.array([[1, 10], [3, 10]], dtype=np.float32)
    assert summarise(steps).tolist() == [2, 2, 10, 1, 0, 1, 10, 3, 10]


def test_baselines_of_numbers_are_fitted_on_training_sequences() -> None:
    """A label that is linear in length and the largest value is explained by ridge regression on statistics."""
    dataset = make_dataset(LabelledSequences(*make_numbers(80, 1)), LabelledSequences(*make_numbers(40, 2)))
    task = SequenceRegressor(SequenceEncoder(EncoderConfig(features=2, hidden=3)), TRAINING)
    task.prepare(dataset.train)
    found = measure_baselines(task, dataset)
    assert set(found) == {"mean_r2", "statistics_1nn_r2", "statistics_ridge_r2", "untrained_r2"}
    assert found["statistics_ridge_r2"] > 0.999 > found["statistics_1nn_r2"] > 0.5
    assert -0.2 < found["mean_r2"] <= 0.0


def test_baselines_of_tokens_read_their_order() -> None:
    """Naive Bayes tells by pairs of tokens what their counts alone do not say; the majority is the training one's."""
    draw = np.random.default_rng(0)

    def make(count: int) -> LabelledSequences:
        labels = np.arange(count, dtype=np.int64) % 3 // 2  # two thirds are of the first class
        pairs = [np.array([[1, 2], [2, 1]][label]) for label in labels]
        return LabelledSequences([np.concatenate([draw.integers(3, 9, 4), pair]) for pair in pairs], labels)

    dataset = make_dataset(make(90), make(60), ("12", "21"))
    task = SequenceClassifier(SequenceEncoder(EncoderConfig(vocabulary=9, hidden=3)), TRAINING, 2)
    found = measure_baselines(task, dataset)
    assert set(found) == {"majority", "statistics_1nn", "statistics_linear", "untrained_probe", "bayes_ngrams"}
    assert found["majority"] == pytest.approx(2 / 3)
    assert found["bayes_ngrams"] == 1.0
    assert found["statistics_linear"] < 0.8


def test_the_untrained_encoder_keeps_nothing_that_was_learned() -> None:
    """Weights are drawn anew; standardisation and pretrained vectors, which no training made, stay."""
    vectors = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    tokens = LabelledSequences([np.array([1, 2])], None)
    trained = SequenceEncoder(EncoderConfig(vocabulary=9, embedding=2, hidden=3))
    dataset = replace(make_dataset(tokens, tokens), vectors=vectors)
    state = torch.get_rng_state()
    fresh = make_untrained(trained, dataset)
    assert torch.equal(torch.get_rng_state(), state)
    assert fresh.embedding is not None
    assert fresh.embedding.weight.tolist() == vectors.tolist()
    learned = dict(trained.layers.named_parameters())
    assert not any(torch.equal(weights, learned[name]) for name, weights in fresh.layers.named_parameters())


def test_the_untrained_encoder_scales_features_and_slopes_as_the_trained_one() -> None:
    """What was fitted on the training sequences before the first update is the same in both."""
    trained = SequenceEncoder(EncoderConfig(features=2, hidden=3, deltas=1))
    numbers = LabelledSequences(*make_numbers(8, 3))
    trained.fit_statistics([torch.from_numpy(steps) for steps in numbers.sequences])
    fresh = make_untrained(trained, make_dataset(numbers, numbers))
    kept = {name: part.tolist() for name, part in trained.state_dict().items() if "standardization" in name}
    assert len(kept) == 4
    assert {name: fresh.state_dict()[name].tolist() for name in kept} == kept


def test_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more sequences than a baseline reads in seconds it takes a fixed number, always the same ones."""
    monkeypatch.setattr(baselines, "MOST_SEQUENCES", 7)
    data = LabelledSequences(*make_numbers(30, 3))
    first, again = baselines._draw(data), baselines._draw(data)
    assert len(first) == 7
    assert first.labels.tolist() == again.labels.tolist()


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            {"accuracy": 0.4, "majority": 0.1, "statistics_1nn": 0.6, "validation_accuracy": 0.9},
            "accuracy of 0.4000 does not beat 0.6000, that of the nearest neighbour by the length and each feature's",
        ),
        ({"accuracy": 0.6, "statistics_1nn": 0.6}, "accuracy of 0.6000 does not beat 0.6000"),
        ({"accuracy": 0.7, "majority": 0.1, "bayes_ngrams": 0.6}, "accuracy of 0.7000 beats 0.6000, that of naive"),
        ({"mse": 2.0, "r2": 0.5, "mean_r2": 0.0, "untrained_r2": 0.4}, "r2 of 0.5000 beats 0.4000, that of ridge"),
        (
            {"perplexity": 80.0, "unigram_perplexity": 300.0, "bigram_perplexity": 70.0},
            "perplexity of 80.0000 does not beat 70.0000, that of the frequency of each pair",
        ),
        ({"matched": 0.9, "linear_probe": 0.8, "untrained_probe": 0.7}, "linear probe of 0.8000 beats 0.7000"),
    ],
)
def test_the_verdict_names_the_best_baseline(results: dict[str, float], said: str) -> None:
    """The encoder is compared with the best of its baselines by the metric of its task; a tie is not a win."""
    assert f"the encoder's {said}" in describe_baselines(results, tokens=False)


def test_nothing_is_said_without_baselines() -> None:
    """A task without baselines gets no verdict."""
    assert describe_baselines({"matched": 0.9}, tokens=False) == ""
