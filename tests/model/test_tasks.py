"""Heads, losses and augmentation."""

import numpy as np
import pytest
import torch

from model.data.batches import SequenceSet
from model.data.datasets import LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.head import LinearHead
from model.tasks.supervised import SequenceClassifier, SequenceRegressor
from model.tasks.task import Augmentation, run_batches


def make_classifier(training: TrainConfig, classes: int) -> SequenceClassifier:
    """Build a small classifier with random weights."""
    return SequenceClassifier(SequenceEncoder(EncoderConfig(features=1, hidden=1)), training, classes)


def test_an_offset_shifts_a_sequence_as_a_whole() -> None:
    """An offset is one number a feature for all steps of a sequence, in units of the feature's deviation."""
    torch.manual_seed(0)
    std = torch.tensor([1.0, 100.0])
    shifted = Augmentation(offset=1.0)(torch.zeros(500, 4, 2), std)
    assert torch.equal(shifted, shifted[:, :1].expand_as(shifted))
    # The deviation of 500 draws is within 15 % of the true one in all but freak cases; the seed is fixed.
    torch.testing.assert_close(shifted[:, 0].std(dim=0), std, rtol=0.15, atol=0)


def test_noise_is_drawn_for_every_number() -> None:
    """Noise differs from step to step, in units of the feature's deviation."""
    torch.manual_seed(0)
    std = torch.tensor([1.0, 100.0])
    noise = Augmentation(noise=0.5)(torch.zeros(20, 50, 2), std)
    torch.testing.assert_close(noise.flatten(0, 1).std(dim=0), 0.5 * std, rtol=0.15, atol=0)


def test_labels_are_smoothed_in_training_only() -> None:
    """A perfect prediction costs nothing in evaluation, and something in training."""
    model = SequenceClassifier(
        SequenceEncoder(EncoderConfig(features=1, hidden=1)), TrainConfig(label_smoothing=0.1), 2
    )
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([100.0, 0.0]))
    data = LabelledSequences([np.zeros((3, 1), np.float32)], np.array([0]))
    assert model.measure(data) == {"loss": 0.0, "accuracy": 1.0}
    assert model.training_loss(SequenceSet(data)[[0]]) > 1


def test_a_head_normalises_and_drops_in_training_only() -> None:
    """In evaluation it is one linear map, which `fold` returns, however it was trained."""
    torch.manual_seed(0)
    head = LinearHead(6, 3, TrainConfig(head_norm=True, head_dropout=0.5))
    embeddings = 3 * torch.randn(40, 6) + 2
    assert not torch.equal(head(embeddings), head(embeddings))  # two draws of what is dropped
    for _ in range(60):
        head(embeddings)
    with torch.no_grad():
        assert head.norm is not None
        head.norm.weight.uniform_(0.5, 2)
        head.norm.bias.uniform_(-1, 1)
        found = head.eval()(embeddings).numpy()
    weight, bias = head.fold()
    np.testing.assert_allclose(found, embeddings.numpy() @ weight.T + bias, rtol=0, atol=1e-5)  # float32 of O(1)
    assert not np.allclose(weight, head.weight.detach().numpy())


def test_a_lone_sequence_is_trained_on_with_a_normalising_head() -> None:
    """The last batch of an epoch may hold one sequence, which has no deviation of its own."""
    head = LinearHead(4, 2, TrainConfig(head_norm=True)).train()
    assert head(torch.ones(1, 4)).isfinite().all()
    assert head.norm is not None
    assert not head.norm.running_mean.any()  # type: ignore[union-attr]  # it tracks statistics


def test_a_plain_head_has_the_weights_of_earlier_runs() -> None:
    """Without either it is a linear layer, whose weights have the names they had in 0.1.0."""
    assert [*LinearHead(4, 2, TrainConfig()).state_dict()] == ["weight", "bias"]


def test_balanced_weights_make_rare_classes_count_as_much() -> None:
    """Nine rows of one class weigh as much as the one of another, and the mean weight of a row is 1."""
    labels = np.array([0] * 9 + [1])
    data = LabelledSequences([np.zeros((2, 1), np.float32)] * 10, labels)
    task = make_classifier(TrainConfig(class_weights="balanced", label_smoothing=0.0), classes=3)
    task.prepare(data)
    assert task.class_weights is not None
    np.testing.assert_allclose(task.class_weights.numpy()[:2], [10 / 27, 10 / 3], rtol=1e-6)  # float32
    with torch.no_grad():
        task.head.weight.zero_()
        task.head.bias.copy_(torch.tensor([3.0, 0.0, -50.0]))
    losses = [-np.log(np.exp(logit) / (np.exp(3) + 1)) for logit in (3.0, 0.0)]
    expected = (9 * 10 / 27 * losses[0] + 10 / 3 * losses[1]) / (9 * 10 / 27 + 10 / 3)
    assert task.measure(data)["loss"] == pytest.approx(expected, rel=1e-5)
    assert task.training_loss(SequenceSet(data)[list(range(10))]).item() == pytest.approx(expected, rel=1e-5)


def make_encoder() -> SequenceEncoder:
    """Build a small encoder with random weights."""
    return SequenceEncoder(EncoderConfig(features=1, hidden=2))


def make_regressor() -> SequenceRegressor:
    """Build a regressor with a known head: it predicts the training mean plus one standard deviation."""
    task = SequenceRegressor(make_encoder(), TrainConfig())
    with torch.no_grad():
        task.head.weight.zero_()
        task.head.bias.fill_(1.0)
    return task


def test_a_regressor_learns_in_units_of_its_targets() -> None:
    """The head's 1 is the training targets' mean plus their standard deviation, and the loss has no unit."""
    task = make_regressor()
    data = LabelledSequences([np.zeros((2, 1), np.float32)] * 2, np.array([1000.0, 3000.0], np.float32))
    task.prepare(data)
    batch = SequenceSet(data)[[0, 1]]
    assert task(batch.sequences, batch.lengths).tolist() == [3000.0, 3000.0]
    assert task.training_loss(batch).item() == pytest.approx(2.0)  # errors of 2 and 0 standard deviations
    assert task.measure(data) == pytest.approx({"loss": 2.0, "mse": 2e6, "mae": 1000.0, "r2": -1.0})


def test_one_target_for_all_is_predicted() -> None:
    """Without variance there is nothing to divide by: the loss is finite, and the share explained undefined."""
    task = make_regressor()
    data = LabelledSequences([np.zeros((1, 1), np.float32)] * 3, np.full(3, 5.0, np.float32))
    task.prepare(data)
    metrics = task.measure(data)
    assert metrics["mse"] == 1.0
    assert np.isnan(metrics["r2"])


@pytest.mark.parametrize(("slope", "factor"), [(0.5, 0.5), (3.0, 1.0), (-1.0, 0.0)])
def test_predictions_are_drawn_to_the_mean_as_far_as_they_were_wrong(slope: float, factor: float) -> None:
    """If true deviations are half of those predicted of held-out sequences, so are predictions; none are enlarged."""
    torch.manual_seed(0)
    task, other = (SequenceRegressor(make_encoder(), TrainConfig(shrink_folds=3)).eval() for _ in range(2))
    other.target_mean.fill_(100.0)
    sequences = [np.full((length, 1), length, np.float32) for length in range(1, 8)]
    predicted = other.judge(LabelledSequences(sequences, np.zeros(7, np.float32))).predicted
    data = LabelledSequences(sequences, (100 + slope * (predicted - 100)).astype(np.float32))
    before, learned = task.judge(data).predicted, []

    def train_on(part: LabelledSequences) -> SequenceRegressor:
        learned.append({len(steps) for steps in part.sequences})
        return other

    assert task.calibrate(data, train_on)["shrunk_to"] == pytest.approx(factor, abs=1e-5)
    mean = float(task.target_mean)
    np.testing.assert_allclose(task.judge(data).predicted, mean + factor * (before - mean), atol=1e-5)
    held_out = [set(range(1, 8)) - lengths for lengths in learned]
    assert sorted(length for lengths in held_out for length in lengths) == list(range(1, 8))
    assert len(held_out) == 3


@pytest.mark.parametrize(("count", "number"), [(1, 1.0), (7, np.nan)])
def test_a_regressor_that_nothing_was_learned_about_says_the_mean(count: int, number: float) -> None:
    """Of one sequence none can be held out, and a fold's training may fail: the head is not made NaN by it."""
    task, other = (SequenceRegressor(make_encoder(), TrainConfig(shrink_folds=3)).eval() for _ in range(2))
    other.target_mean.fill_(number)
    data = LabelledSequences([np.ones((2, 1), np.float32)] * count, np.arange(count).astype(np.float32))
    task.prepare(data)
    assert task.calibrate(data, lambda part: other if len(part) else pytest.fail("of nothing")) == {"shrunk_to": 0.0}
    assert set(task.judge(data).predicted) == {float(task.target_mean)}


def test_a_regressor_without_folds_is_left_as_it_is() -> None:
    """Nothing else is trained, and nothing is recorded."""
    data = LabelledSequences([np.zeros((1, 1), np.float32)] * 2, np.array([0.0, 4.0], np.float32))
    assert make_regressor().calibrate(data, lambda _: pytest.fail("another one was trained")) == {}


def test_judgements_are_row_by_row() -> None:
    """A classifier is right or wrong about each sequence, a regressor off by so much."""
    task = make_regressor()
    data = LabelledSequences([np.zeros((1, 1), np.float32)] * 2, np.array([0.0, 4.0], np.float32))
    judgement = task.judge(data)
    assert (judgement.predicted.tolist(), judgement.merit.tolist()) == ([1.0, 1.0], [1.0, 3.0])
    classifier = make_classifier(TrainConfig(), classes=2)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([0.0, 1.0]))
    judgement = classifier.judge(LabelledSequences(data.sequences, np.array([1, 0])))
    assert (judgement.predicted.tolist(), judgement.merit.tolist()) == ([1, 1], [1.0, 0.0])


def test_batches_run_by_length_come_back_in_order() -> None:
    """Sequences are sorted to pad little; row i is for sequence i all the same."""
    lengths = np.random.default_rng(0).integers(1, 20, 150).tolist()
    data = LabelledSequences([np.full((length, 1), length, np.float32) for length in lengths], np.zeros(150, np.int64))
    found = run_batches(torch.nn.Linear(1, 1), lambda sequences, lengths: sequences[:, 0, 0] + 0 * lengths, data)
    assert found.tolist() == lengths


def test_running_a_module_leaves_its_mode_alone() -> None:
    """It is evaluated without dropout, and goes on in the mode it was in."""
    module = torch.nn.Dropout(0.5)
    module.register_parameter("place", torch.nn.Parameter(torch.zeros(1)))
    data = LabelledSequences([np.ones((1, 1), np.float32)] * 50, np.zeros(50, np.int64))
    assert run_batches(module.train(), lambda sequences, _: module(sequences), data).min() == 1
    assert module.training
    run_batches(module.eval(), lambda sequences, _: sequences, data)
    assert not module.training


def test_token_ids_are_not_augmented() -> None:
    """Noise changes numbers; ids stay ids."""
    task = make_classifier(TrainConfig(noise=1.0, offset=1.0), classes=2)
    ids = torch.tensor([[1, 2, 0]])
    assert torch.equal(task.augment(ids), ids)
    numbers = torch.ones(1, 3, 1)
    assert not torch.equal(task.augment(numbers), numbers)
