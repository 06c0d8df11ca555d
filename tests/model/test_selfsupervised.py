"""Self-supervised training: views, their loss, and what it must not look at."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact import export_run
from model.data.batches import Batch, SequenceSet
from model.data.datasets import Dataset, LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.pooling import Pooling
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.tasks.selfsupervised import (
    HIDDEN_SHARE,
    SHORTEST_CROP,
    TEMPERATURE,
    SelfSupervised,
    contrast,
    crop,
    find_neighbours,
)
from model.training.evaluate import main as evaluate_main
from model.training.fit import train
from model.training.recipe import Recipe
from model.training.run_directory import read_config, read_model, read_samples
from model.training.train import RECIPES
from model.training.train import main as train_main
from tests.conftest import draw_sequences

TRAINING = TrainConfig(epochs=2, batch_size=8, noise=0.1, offset=0.1, learning_rate=0.02, validation_share=0.2)


def make_task(training: TrainConfig = TRAINING, **encoder: Any) -> SelfSupervised:
    """Build a small task with the same weights each time; it reads 3 features unless told otherwise."""
    torch.manual_seed(0)
    if "vocabulary" not in encoder:
        encoder["features"] = 3
    return SelfSupervised(SequenceEncoder(EncoderConfig(hidden=4, **encoder)), training)


def unlabelled(sequences: list[Any]) -> LabelledSequences:
    """Wrap sequences that have no labels."""
    return LabelledSequences(sequences, None)


def make_kinds(sequences: int = 30) -> Dataset:
    """Make sequences of two kinds, told apart by the mean of a feature."""
    draw = np.random.default_rng(0)
    labels = np.arange(sequences) % 2
    steps = [draw.normal(label, 0.5, (draw.integers(1, 9), 3)).astype(np.float32) for label in labels]
    data = LabelledSequences(steps, labels)
    return Dataset("kinds", data, data, ("a", "b"), "made", "Apache-2.0")


def test_the_loss_is_the_published_one() -> None:
    """Of two sequences whose views agree at right angles to each other's, NT-Xent is log(e^(1/t) + 2) - 1/t."""
    first, second = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = math.log(math.exp(1 / TEMPERATURE) + 2) - 1 / TEMPERATURE
    assert contrast(first, second, torch.zeros(2, 2, dtype=torch.bool)).item() == pytest.approx(
        expected, rel=1e-6
    )  # float32


@pytest.mark.parametrize("neighbours", [set(), {(1, 3)}])
def test_the_loss_equals_the_sum_written_out(neighbours: set[tuple[int, int]]) -> None:
    """The mean over views i and the j that belong to i is that of -log(e^(s_ij/t) / sum over k != i of e^(s_ik/t))."""
    draw = np.random.default_rng(0)
    first, second = draw.standard_normal((2, 5, 3))
    views = [view / np.linalg.norm(view) for view in [*first, *second]]
    near = torch.zeros(5, 5, dtype=torch.bool)
    for one, other in neighbours:
        near[one, other] = near[other, one] = True
    terms = []
    for i, view in enumerate(views):
        weights = [math.exp(float(view @ other) / TEMPERATURE) if k != i else 0.0 for k, other in enumerate(views)]
        own = [j for j in range(10) if (j != i and j % 5 == i % 5) or near[i % 5, j % 5]]
        assert len(own) == (3 if neighbours and i % 5 in (1, 3) else 1)
        terms.append(np.mean([-math.log(weights[j] / sum(weights)) for j in own]))
    found = contrast(torch.from_numpy(first), torch.from_numpy(second), near).item()
    assert found == pytest.approx(np.mean(terms), rel=1e-6)  # views are compared in float32


def test_neighbours_are_found_by_both() -> None:
    """Two embeddings are neighbours if each is among the nearest of the other, wherever their mean lies."""
    angles = torch.tensor([0.0, 0.1, 0.3, 1.5, 1.6])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    embeddings = torch.cat([embeddings, -embeddings])  # so that their mean is zero
    pairs = {1: [(0, 1), (3, 4)], 2: [(0, 1), (0, 2), (1, 2), (3, 4)]}
    for count, expected in pairs.items():
        found = find_neighbours(embeddings + 7.0, count)[:5, :5]
        assert torch.equal(found, found.T)
        assert [tuple(pair) for pair in found.triu().nonzero().tolist()] == expected
    assert not find_neighbours(embeddings, 0).any()
    assert find_neighbours(embeddings[:4], 5).sum() == find_neighbours(embeddings[:4], 1).sum()


@pytest.mark.parametrize("sequences", range(1, 8))
def test_no_sequence_has_more_than_half_of_a_small_batch_for_neighbours(sequences: int) -> None:
    """What is left over at the end of an epoch does not teach that all sequences are alike."""
    torch.manual_seed(0)
    near = find_neighbours(torch.randn(sequences, 4), 5)
    assert (near.sum(dim=1) <= (sequences - 1) / 2).all()


def test_neighbours_are_those_of_the_encoder_as_served() -> None:
    """Dropout, which makes two copies of a sequence differ in training, hides no neighbour, and goes on after that."""
    sequences = draw_sequences([4, 7, 5, 6])
    batch = SequenceSet(unlabelled([sequences[0], *sequences[:3]]))[[0, 1, 2, 3]]
    task = make_task(TrainConfig(neighbours=1), dropout=0.9)
    near = find_neighbours(task.eval().encoder(batch.sequences, batch.lengths), 1)
    assert near[0, 1]
    task.train()
    torch.manual_seed(0)
    first, second = task(batch.sequences, batch.lengths).unbind(dim=1)
    expected = contrast(first, second, near)
    torch.manual_seed(0)
    assert task.training_loss(batch) == expected
    assert task.encoder.training


@pytest.mark.parametrize("neighbours", [0, 2])
def test_a_lone_sequence_teaches_nothing(neighbours: int) -> None:
    """With no other sequence to be confused with, the loss is 0 and every gradient too, never NaN."""
    task = make_task(TrainConfig(neighbours=neighbours))
    loss = task.training_loss(SequenceSet(unlabelled(draw_sequences([4])))[[0]])
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert all(not parameter.grad.any() for parameter in task.parameters() if parameter.grad is not None)


def test_a_crop_is_a_stretch_of_its_own_sequence() -> None:
    """Whatever the length, a crop runs on without gaps inside its row's valid steps, and is long enough."""
    torch.manual_seed(0)
    lengths = torch.arange(1, 30)
    ids = torch.arange(1, 1 + 29 * 40).view(29, 40).masked_fill(torch.arange(40) >= lengths[:, None], -1)
    seen = set()
    for _ in range(50):
        crops, kept = crop(ids, lengths)
        assert crops.shape == (29, int(kept.max()))
        assert ((kept >= (SHORTEST_CROP * lengths).ceil()) & (kept <= lengths)).all()
        for row, steps in enumerate(crops):
            valid = steps[: kept[row]]
            assert (valid > 0).all()
            assert torch.equal(valid, valid[0] + torch.arange(len(valid)))
            assert 40 * row < valid[0] <= 40 * (row + 1)
        seen.add((int(crops[28, 0]) - 28 * 40, int(kept[28])))
    assert len(seen) > 20  # of 50 draws, crops of the longest row mostly differ
    starts_and_ends = {(first, first + count - 1) for first, count in seen if count < 29}
    assert {first for first, _ in starts_and_ends} >= {1}  # and reach its first step, and its last one
    assert {last for _, last in starts_and_ends} >= {29}


def test_crops_of_numbers_and_of_ids_are_cut_alike() -> None:
    """The same draw cuts features and tokens at the same places; an empty row stays empty."""
    ids, lengths = torch.arange(12).view(3, 4), torch.tensor([4, 0, 3])
    torch.manual_seed(5)
    of_ids, kept = crop(ids, lengths)
    torch.manual_seed(5)
    of_numbers, kept_numbers = crop(torch.stack([ids, -ids], dim=2).float(), lengths)
    assert torch.equal(kept, kept_numbers)
    assert kept[1] == 0
    assert torch.equal(of_numbers[:, :, 0].long(), of_ids)


@pytest.mark.parametrize("junk", [1e6, float("nan")])
def test_padding_changes_nothing_in_the_loss(junk: float) -> None:
    """The same draws over a batch padded further, with junk in it, give the same loss to the last bit."""
    task, batch = make_task(), SequenceSet(unlabelled(draw_sequences([3, 9, 1, 6])))[[0, 1, 2, 3]]
    beyond = torch.arange(16)[None, :, None] >= batch.lengths[:, None, None]
    padded = torch.nn.functional.pad(batch.sequences, (0, 0, 0, 7)).masked_fill(beyond, junk)
    losses = []
    for sequences in (batch.sequences, padded):
        torch.manual_seed(1)
        losses.append(task.training_loss(Batch(sequences, batch.lengths, None)))
    assert torch.equal(*losses)
    assert losses[0].isfinite()


def test_tokens_are_hidden_and_numbers_are_changed() -> None:
    """A hidden token becomes padding's, in the stated share, and the others stay; numbers follow the recipe."""
    torch.manual_seed(0)
    ids = make_task(vocabulary=9).augment(torch.full((100, 50), 7))
    assert set(ids.flatten().tolist()) == {0, 7}
    assert (ids == 0).double().mean().item() == pytest.approx(HIDDEN_SHARE, abs=0.02)  # 5,000 draws, s.d. 0.005
    steps = torch.ones(20, 10, 3)
    assert not (make_task().augment(steps) == steps).any()
    assert torch.equal(make_task(TrainConfig()).augment(steps), steps)


@pytest.mark.parametrize("pooling", Pooling.__args__)  # type: ignore[attr-defined]
@pytest.mark.parametrize("inputs", [{}, {"vocabulary": 9}])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_weight_of_any_encoder_learns(pooling: Any, inputs: dict[str, Any], *, bidirectional: bool) -> None:
    """Numbers or tokens, any pooling, a sequence of one step among others: the loss reaches all weights."""
    task = make_task(pooling=pooling, projection=5, bidirectional=bidirectional, **inputs)
    lengths = [1, 2, 7, 4, 1, 9]
    draw = np.random.default_rng(0)
    tokens: list[Any] = [draw.integers(1, 9, length) for length in lengths]
    data = unlabelled(tokens if inputs else draw_sequences(lengths))
    loss = task.training_loss(SequenceSet(data)[list(range(6))])
    torch.autograd.backward(loss)
    assert loss.isfinite()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_measuring_is_repeatable_and_disturbs_nothing() -> None:
    """The same views are measured each time, whatever was drawn before, and later draws are as if nothing had been."""
    task, data = make_task(), unlabelled(draw_sequences([1, 5, 9, 3, 7, 7, 2, 8, 4]))
    torch.manual_seed(3)
    first = task.measure(data)
    following = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), following)
    assert task.measure(data) == first
    assert task.training


@pytest.mark.parametrize(("neighbours", "expected"), [(0, 2), (2, 3)])
def test_measuring_encodes_no_more_than_it_needs(
    neighbours: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two views, and whole sequences only if neighbours are looked for among them."""
    task = make_task(TrainConfig(neighbours=neighbours))
    calls: list[int] = []
    forward = task.encoder.forward

    def count(sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        calls.append(len(lengths))
        return forward(sequences, lengths)

    monkeypatch.setattr(task.encoder, "forward", count)
    task.measure(unlabelled(draw_sequences([3, 5, 4])))
    assert calls == [3] * expected


def test_sequences_without_any_likeness_are_all_matched() -> None:
    """`matched` is 1 where views of a sequence are alike and those of others are not, and the loss is below chance."""
    task = make_task(TrainConfig(batch_size=3))
    with torch.no_grad():
        task.head = torch.nn.Sequential()
        for parameter in task.encoder.parameters():
            parameter.mul_(3)
    signs = np.array([[1, 1, 1], [-1, -1, -1], [1, -1, 1]], np.float32)
    data = unlabelled([np.repeat(9 * sign[None], 40, axis=0) for sign in signs])
    metrics = task.measure(data)
    assert metrics["matched"] == 1.0
    assert metrics["loss"] < math.log(5)


def test_no_label_is_read(tmp_path: Path) -> None:
    """Trained with the labels of a data set, with others and with none, weights and metrics are byte for byte alike."""
    dataset = make_kinds()
    others = LabelledSequences(dataset.train.sequences, np.random.default_rng(1).permutation(dataset.train.labels))
    variants = {"own": dataset.train, "other": others, "none": dataset.train.without_labels()}
    recipe = Recipe(task="selfsupervised", encoder=EncoderConfig(features=3, hidden=4), training=TRAINING)
    for name, data in variants.items():
        classes = () if name == "none" else dataset.classes
        train(tmp_path / name, Dataset("kinds", data, data, classes, "made", "Apache-2.0"), recipe)
    for file in ("weights.safetensors", "metrics.csv"):
        assert len({(tmp_path / name / file).read_bytes() for name in variants}) == 1, file


def test_a_labelled_data_set_is_judged_by_probes(tmp_path: Path) -> None:
    """Kinds that differ are told apart by probes on embeddings that never saw a label; the report knows the labels."""
    recipe = Recipe(task="selfsupervised", encoder=EncoderConfig(features=3, hidden=4), training=TRAINING)
    results = train(tmp_path, make_kinds(60), recipe)
    baselines = {"majority", "statistics_1nn", "statistics_linear", "untrained_probe"}
    assert set(results) == {"matched", "nearest_neighbour", "linear_probe", "validation_matched"} | baselines
    assert results["linear_probe"] > 0.8
    assert read_samples(tmp_path).labels.tolist() == make_kinds(60).test.labels.tolist()


@pytest.mark.parametrize("kind", ["numbers", "tokens"])
def test_unlabelled_files_are_trained_on_and_exported(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a JSONL file without labels to report, evaluation and proven artifact, by three commands."""
    draw = np.random.default_rng(0)
    lengths = [1, 1, *draw.integers(1, 12, 28).tolist()]
    tokens: list[Any] = [draw.integers(1, 7, length) for length in lengths]
    sequences = tokens if kind == "tokens" else draw_sequences(lengths)
    data, run = tmp_path / "mine.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps({"sequence": steps.tolist()}) + "\n" for steps in sequences))
    train_main(["--data", str(data), "--task", "selfsupervised", "--epochs", "2", "--out", str(run)])
    config = read_config(run)
    assert (config.task, config.data.classes) == ("selfsupervised", [])
    recipe = "selfsupervised-tokens.json" if kind == "tokens" else "selfsupervised.json"
    assert config.encoder.layers == json.loads((RECIPES / recipe).read_text())["encoder"].get("layers", 1)
    assert config.encoder.deltas == (0 if kind == "tokens" else 1)
    assert isinstance(read_model(run), TASKS["selfsupervised"])
    assert {path.stem for path in (run / "report").glob("*.png")} == {"learning-curves", "lengths", "embeddings"}
    assert (run / "report.html").exists()
    capsys.readouterr()
    evaluate_main([str(run)])
    assert capsys.readouterr().out.splitlines()[0].split() == ["run", "matched"]
    task = export_run(run, tmp_path / "mine.onnx").task
    assert task is not None
    assert task.name == "selfsupervised"
