"""The head in the artifact: what a task predicts, proven as the embedding is."""

import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.artifact import ProofFailed, export_run, prove
from export.graph import GraphOptions, build_graph
from export.oracle import Case
from export.verify import run_torch
from model.encoder.config import EncoderConfig
from model.encoder.pooling import Pooling
from model.tasks.config import TrainConfig
from model.tasks.supervised import SequenceRegressor
from model.training.run_directory import read_model, read_samples
from service.catalogue.vetting.structure import check_structure
from service.encoder.prediction import soften
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from tests.conftest import draw_sequences
from tests.export.making import PREDICTION, TEXTS_AHEAD, make_run

pytestmark = pytest.mark.usefixtures("small_grid")

NORMAL = TrainConfig(head_norm=True, head_dropout=0.5)
TASKS = ("classification", "regression")
CLASSES = {"classification": ("a", "b", "c"), "regression": (), "language-model": ()}
TAILS: list[dict[str, Any]] = [{}, {"projection": 5, "normalize": True}]


def export_task(folder: Path, config: EncoderConfig, task: str, options: GraphOptions = PREDICTION) -> Path:
    """Export a made run of a task, proof and all."""
    make_run(folder / "run", config, task, CLASSES[task], NORMAL)
    export_run(folder / "run", folder / "m.onnx", options=options)
    return folder / "m.onnx"


@pytest.mark.parametrize(("task", "cell", "tail"), [*itertools.product(TASKS, ("lstm", "gru"), TAILS)])
@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_predictions_pass_the_proof(
    task: str, cell: Any, tail: dict[str, Any], pooling: Pooling, tmp_path: Path
) -> None:
    """They equal torch's and a numpy loop's, and are the same to the last bit in any batch, as embeddings are."""
    config = EncoderConfig(features=3, hidden=5, cell=cell, pooling=pooling, deltas=1, **tail)
    make_run(tmp_path, config, task, CLASSES[task], NORMAL)
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    graph = build_graph(model.encoder, PREDICTION, model.fold_head())
    checks = [check for check in prove(model.encoder, graph, samples, task=model) if "prediction" in check.claim]
    assert [check.tolerance for check in checks] == [5e-6] * 4 + [0.0] * 3
    check_structure(graph.SerializeToString(), "m.onnx")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("options", [PREDICTION, GraphOptions(prediction=True, state=True, initial_state=True)])
@pytest.mark.parametrize("embedding", [3, 5], ids=["own-head", "tied"])
def test_next_tokens_pass_the_proof(embedding: int, options: GraphOptions, cell: Any, tmp_path: Path) -> None:
    """A language model's scores are those after each row's last step, from whatever state it starts."""
    config = EncoderConfig(vocabulary=9, embedding=embedding, hidden=5, layers=2, cell=cell, bidirectional=False)
    make_run(tmp_path, config, "language-model", ())
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    graph = build_graph(model.encoder, options, model.fold_head())
    checks = [check for check in prove(model.encoder, graph, samples, task=model) if "prediction" in check.claim]
    assert len(checks) == 7


def test_numbers_of_any_size_pass_the_proof(tmp_path: Path) -> None:
    """A target whose deviation is a million is predicted as exactly as float32 can, and near zero no more exactly."""
    make_run(tmp_path, EncoderConfig(features=3, hidden=5), "regression", ())
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    assert isinstance(model, SequenceRegressor)
    model.target_std.fill_(1e6)
    model.target_mean.fill_(0.0)
    (first,) = run_torch(model.encoder, [Case(samples[0])], task=model)
    model.target_mean.fill_(-float(first.logits[0]))  # so that little is left of a sum of large numbers
    assert prove(model.encoder, build_graph(model.encoder, PREDICTION, model.fold_head()), samples, task=model)


def test_a_wrong_head_fails_the_proof(tmp_path: Path) -> None:
    """A head that forgets to undo the scaling of targets is refused, by its own claims."""
    make_run(tmp_path, EncoderConfig(features=3, hidden=5), "regression", ())
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    head = model.fold_head()
    assert head is not None
    head.bias[:] -= 14.0
    with pytest.raises(ProofFailed) as caught:
        prove(model.encoder, build_graph(model.encoder, PREDICTION, head), samples, task=model)
    failed = [check.claim for check in caught.value.checks if not check.holds]
    assert failed
    assert all(claim.startswith("prediction equals") for claim in failed)


def test_a_large_mean_of_targets_hides_no_wrong_head(tmp_path: Path) -> None:
    """Of targets of ten million, give or take a hundred, a wrong head is off by less than a millionth of them."""
    make_run(tmp_path, EncoderConfig(features=3, hidden=5), "regression", ())
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    assert isinstance(model, SequenceRegressor)
    model.target_mean.fill_(1e7)
    head = model.fold_head()
    assert head is not None
    assert prove(model.encoder, build_graph(model.encoder, PREDICTION, head), samples, task=model)
    model.target_std.fill_(100.0)  # so that what float32 keeps beside the mean can tell two heads apart
    head = model.fold_head()
    assert head is not None
    head.weight[:] = head.weight[:, ::-1]
    with pytest.raises(ProofFailed, match="prediction equals"):
        prove(model.encoder, build_graph(model.encoder, PREDICTION, head), samples, task=model)


def test_small_targets_hide_no_wrong_head(tmp_path: Path) -> None:
    """If targets deviate by a millionth, a right head is proven, and one with the wrong sign is refused."""
    make_run(tmp_path, EncoderConfig(features=3, hidden=5), "regression", ())
    model, samples = read_model(tmp_path), read_samples(tmp_path).sequences
    assert isinstance(model, SequenceRegressor)
    model.target_mean.fill_(2e-6)
    model.target_std.fill_(1e-6)
    head = model.fold_head()
    assert head is not None
    assert prove(model.encoder, build_graph(model.encoder, PREDICTION, head), samples, task=model)
    head.weight[:] *= -1
    with pytest.raises(ProofFailed, match="prediction equals"):
        prove(model.encoder, build_graph(model.encoder, PREDICTION, head), samples, task=model)


@pytest.mark.parametrize(
    ("task", "config"),
    [
        ("classification", EncoderConfig(features=3, hidden=4)),
        ("regression", EncoderConfig(features=3, hidden=4)),
        ("language-model", TEXTS_AHEAD),
    ],
)
def test_the_session_predicts_what_the_task_does(task: str, config: EncoderConfig, tmp_path: Path) -> None:
    """Class and probabilities, the number in its own units, and the next token by its name are those of torch."""
    session = open_session(export_task(tmp_path, config, task))
    model, samples = read_model(tmp_path / "run"), read_samples(tmp_path / "run").sequences
    assert session.manifest is not None
    assert session.manifest.prediction is not None
    assert session.outputs == ("embedding", "prediction")
    result = session.run_all(pad_batch(samples))
    assert result.logits is not None
    assert session.predictor is not None
    found = session.predictor.describe(result.logits)
    expected = np.stack([run_torch(model.encoder, [Case(steps)], task=model)[0].logits for steps in samples])
    if task == "regression":
        np.testing.assert_allclose(found, expected[:, 0], rtol=5e-6)
        assert 5 < expected.mean() < 23  # the scaling of targets, 14 and 3, is undone
        return
    probabilities = torch.from_numpy(expected).softmax(dim=1).numpy()
    names = {"classification": "abc", "language-model": ["[PAD]", "[UNK]", "so", "it"]}[task]
    for one, row in zip(found, probabilities, strict=True):
        assert one["label"] == names[row.argmax()]
        np.testing.assert_allclose([one["scores"][name] for name in names], row, rtol=0, atol=1e-5)


def test_probabilities_of_large_logits_are_finite() -> None:
    """Neither a large score nor the least float32 overflows, and each row adds up to 1."""
    found = soften(np.array([[3e38, np.finfo(np.float32).min], [1.0, 1.0]], dtype=np.float32))
    assert found.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_what_predicts_nothing_is_refused_by_the_command(tmp_path: Path) -> None:
    """A task without a head and weights trained elsewhere have nothing to predict with; the sentence says so."""
    make_run(tmp_path / "run", EncoderConfig(features=3, hidden=2), "selfsupervised", ())
    with pytest.raises(SystemExit, match="the encoder has no head"):
        main([str(tmp_path / "run"), "-o", str(tmp_path / "m.onnx"), "--prediction"])
    assert not (tmp_path / "m.onnx").exists()


def test_an_artifact_without_predictions_has_no_head(tmp_path: Path) -> None:
    """Only an export that asks for predictions writes the head down; the graph is otherwise the encoder's."""
    path = export_task(tmp_path, EncoderConfig(features=3, hidden=4), "classification", GraphOptions())
    session = open_session(path)
    assert session.outputs == ("embedding",)
    assert session.manifest is not None
    assert session.manifest.prediction is None
    assert session.run_all(pad_batch(draw_sequences([2]))).logits is None
