"""Training: the run directory, resuming, and what the commands say."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact import export_run
from model.data.catalogue import DATASETS
from model.data.datasets import Dataset, LabelledSequences
from model.data.files import load_dataset
from model.data.splits import split
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.tasks.supervised import SequenceClassifier, SequenceRegressor
from model.tasks.task import WrongLabels
from model.training import train as train_module
from model.training.evaluate import main as evaluate_main
from model.training.fit import train
from model.training.probes import evaluate
from model.training.recipe import Recipe, describe_trap, read_recipe
from model.training.run_directory import (
    BrokenRun,
    read_config,
    read_model,
    read_results,
    read_samples,
    read_training_lengths,
)
from model.training.train import main as train_main

ENCODER = EncoderConfig(features=2, hidden=6, dropout=0.2)
TRAINING = TrainConfig(epochs=4, batch_size=8, noise=0.1, validation_share=0.2, learning_rate=0.05)
RECIPE = Recipe(encoder=ENCODER, training=TRAINING)


def vary(**changes: Any) -> Recipe:
    """Return the recipe with other training fields."""
    return dataclasses.replace(RECIPE, training=dataclasses.replace(TRAINING, **changes))


def make_dataset() -> Dataset:
    """Make a task that is easy to learn: whether the first feature is mostly positive."""
    draw = np.random.default_rng(0)

    def make(count: int) -> LabelledSequences:
        labels = np.arange(count) % 2
        sequences = [draw.normal(0, 0.5, (draw.integers(1, 9), 2)).astype(np.float32) for _ in labels]
        for steps, label in zip(sequences, labels, strict=True):
            steps[:, 0] += 2 * label - 1
        return LabelledSequences(sequences, labels)

    return Dataset("easy", make(60), make(40), ("no", "yes"), "made", "Apache-2.0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A finished run and its metrics."""
    run = tmp_path_factory.mktemp("runs") / "easy"
    return run, train(run, make_dataset(), RECIPE)


def test_a_run_directory_holds_everything(finished: tuple[Path, dict[str, float]]) -> None:
    """Config as JSON, weights as safetensors, metrics as CSV, samples and results: an export needs no more."""
    run, results = finished
    config = read_config(run)
    assert (config.encoder, config.training) == (ENCODER, TRAINING)
    assert config.data.classes == ["no", "yes"]
    assert config.data.longest_training_sequence == 8
    assert read_results(run) == results
    assert len(read_samples(run)) == 40
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert header == "epoch,train_loss,val_loss,val_accuracy"
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[3].split(",")[1]) < float(rows[0].split(",")[1])


def test_the_easy_task_is_learned(finished: tuple[Path, dict[str, float]]) -> None:
    """Head, nearest neighbour and probe are right nearly always, where a coin is half the time."""
    _, results = finished
    learned = {"accuracy", "nearest_neighbour", "linear_probe", "validation_accuracy"}
    baselines = {"majority", "statistics_1nn", "statistics_linear", "untrained_probe"}
    assert set(results) == learned | baselines
    assert all(results[name] >= 0.9 for name in learned), results
    assert results["majority"] == 0.5


def test_the_saved_model_is_the_evaluated_one(finished: tuple[Path, dict[str, float]]) -> None:
    """Weights read back score what was recorded."""
    run, results = finished
    found = evaluate(read_model(run), make_dataset())
    assert found == {name: results[name] for name in found}


def test_standardization_is_fitted_on_training_sequences_only(finished: tuple[Path, dict[str, float]]) -> None:
    """Neither validation nor test sequences enter the mean."""
    run, _ = finished
    fitting, _ = split(make_dataset().train, TRAINING.validation_share, TRAINING.seed)
    standardization = read_model(run).encoder.standardization
    assert standardization is not None
    mean = torch.from_numpy(np.concatenate(fitting.sequences)).double().mean(dim=0).float()
    assert torch.equal(standardization.mean, mean)


def test_probes_are_fitted_on_training_sequences_only() -> None:
    """If all labels of the test sequences are turned, they are wrong as often as they were right before."""
    dataset = make_dataset()
    turned = dataclasses.replace(dataset.test, given_labels=1 - dataset.test.labels)
    task = SequenceClassifier(SequenceEncoder(ENCODER), TRAINING, 2).eval()
    before, after = evaluate(task, dataset), evaluate(task, dataclasses.replace(dataset, test=turned))
    for name in ("nearest_neighbour", "linear_probe"):
        assert before[name] + after[name] == pytest.approx(1.0)


def test_nothing_is_held_out_if_the_share_is_zero(tmp_path: Path) -> None:
    """All sequences are learned from, and no metric claims to be of sequences that were not."""
    results = train(tmp_path, make_dataset(), vary(validation_share=0.0, epochs=1))
    assert not any(name.startswith("validation") for name in results)
    assert len(read_training_lengths(tmp_path)) == len(make_dataset().train)


def test_the_same_seed_gives_the_same_weights(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Training is repeatable; another seed differs."""
    run, _ = finished
    train(tmp_path / "again", make_dataset(), RECIPE)
    train(tmp_path / "other", make_dataset(), vary(seed=1))
    weights = [(path / "weights.safetensors").read_bytes() for path in (run, tmp_path / "again", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


def test_a_broken_off_training_resumes_to_the_same_weights(
    finished: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in its third epoch and resumed, a training ends where an unbroken one does."""
    measure, measured = SequenceClassifier.measure, iter(range(2))

    def break_off(task: SequenceClassifier, data: LabelledSequences) -> dict[str, float]:
        next(measured)
        return measure(task, data)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceClassifier, "measure", break_off)
        with pytest.raises(StopIteration):
            train(tmp_path, make_dataset(), RECIPE)
    results = train(tmp_path, make_dataset(), RECIPE, resume=True)
    run, expected = finished
    assert results == expected
    for name in ("weights.safetensors", "metrics.csv", "config.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name


KILLED_IN_ITS_THIRD_EPOCH = """
import os, signal, sys
from pathlib import Path
from model.tasks.supervised import SequenceClassifier
from model.training.fit import train
from tests.model.test_train import RECIPE, make_dataset

loss, steps = SequenceClassifier.training_loss, iter(range(2 * 6 + 3))

def loss_or_death(task, batch):
    if next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(task, batch)

SequenceClassifier.training_loss = loss_or_death
train(Path(sys.argv[1]), make_dataset(), RECIPE)
"""


def test_a_killed_training_resumes_to_the_same_weights(finished: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """A process killed with SIGKILL amid an epoch, resumed in another, ends with the bytes of an unbroken one."""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED_IN_ITS_THIRD_EPOCH, tmp_path], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert not (tmp_path / "weights.safetensors").exists()
    results = train(tmp_path, make_dataset(), RECIPE, resume=True)
    run, expected = finished
    assert results == expected
    for name in ("weights.safetensors", "metrics.csv", "results.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name


def read_checkpoint(run: Path) -> dict[str, Any]:
    """Read what a training may be resumed from."""
    checkpoint: dict[str, Any] = torch.load(run / "last.ckpt", weights_only=True)
    return checkpoint


def test_a_training_that_stopped_early_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it stopped and before it was measured, a training is resumed without another epoch."""
    measured = iter([1.0, 2.0, 2.0, 5.0])  # the fourth is of the trained encoder
    monkeypatch.setattr(SequenceClassifier, "measure", lambda *_: {"loss": next(measured), "accuracy": 0.0})
    monkeypatch.setattr("model.training.fit.evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, make_dataset(), vary(patience=2))
    monkeypatch.setattr("model.training.fit.evaluate", lambda *_: {})
    train(tmp_path, make_dataset(), vary(patience=2), resume=True)
    assert len(read_checkpoint(tmp_path)["history"]) == 3


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    """What 0.1.0 left to resume from is told from ours, and so is a file that is not a checkpoint."""
    train(tmp_path, make_dataset(), vary(epochs=1))
    torch.save({"epoch": 0, "callbacks": {}}, tmp_path / "last.ckpt")
    with pytest.raises(BrokenRun, match=r"another version wrote its last\.ckpt"):
        train(tmp_path, make_dataset(), vary(epochs=1), resume=True)
    (tmp_path / "last.ckpt").write_bytes(b"nothing of the kind")
    with pytest.raises(BrokenRun, match=r"last\.ckpt: "):
        train(tmp_path, make_dataset(), vary(epochs=1), resume=True)


@pytest.mark.parametrize(("measured", "epochs"), [([float("nan")], 1), ([2.0, float("inf")], 2)])
def test_a_training_ends_when_its_metric_is_lost(
    measured: list[float], epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After NaN or infinity no epoch follows; the weights are those of the first epoch, the best there is."""
    scores, seen = iter([*measured, 0.0, 0.0, 0.0, 0.0]), []

    def measure(task: SequenceClassifier, _data: LabelledSequences) -> dict[str, float]:
        seen.append(task.head.weight.detach().clone())
        return {"loss": next(scores), "accuracy": 0.0}

    monkeypatch.setattr(SequenceClassifier, "measure", measure)
    train(tmp_path, make_dataset(), RECIPE)
    assert len(read_checkpoint(tmp_path)["history"]) == epochs
    assert torch.equal(read_model(tmp_path).state_dict()["head.weight"], seen[0])


def test_long_gradients_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm over all weights is at most 1 at every step, and NaN in a gradient does not end a training."""
    norms: list[float] = []
    loss, step = SequenceClassifier.training_loss, torch.optim.AdamW.step

    def measure_norm(optimizer: torch.optim.AdamW) -> None:
        gradients = [weights.grad for group in optimizer.param_groups for weights in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm([one for one in gradients if one is not None])))
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", measure_norm)
    monkeypatch.setattr(SequenceClassifier, "training_loss", lambda task, batch: 1e3 * loss(task, batch))
    train(tmp_path, make_dataset(), vary(epochs=1))
    assert norms == pytest.approx([1.0] * len(norms), abs=1e-3)  # float32
    monkeypatch.setattr(SequenceClassifier, "training_loss", lambda task, batch: float("nan") * loss(task, batch))
    monkeypatch.setattr(SequenceClassifier, "measure", lambda *_: {"loss": 1.0, "accuracy": 0.0})
    monkeypatch.setattr("model.training.fit.evaluate", lambda *_: {})
    train(tmp_path, make_dataset(), vary(epochs=1))


def test_the_learning_rate_warms_up_and_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all steps of a training it rises to its peak within the first fifth, and then falls to next to nothing."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def note_rate(optimizer: torch.optim.AdamW) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", note_rate)
    train(tmp_path, make_dataset(), vary(epochs=5))
    peak = rates.index(max(rates))
    assert len(rates) == 5 * 6
    assert peak == 0.2 * len(rates) - 1
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == TRAINING.learning_rate
    assert rates[-1] < 1e-3 * TRAINING.learning_rate


def test_five_steps_in_all_are_a_training(tmp_path: Path) -> None:
    """Their warm-up is one step, by whose length torch's schedule would divide."""
    train(tmp_path, make_dataset(), vary(epochs=5, batch_size=60))
    assert len(read_checkpoint(tmp_path)["history"]) == 5


def test_a_resumed_training_goes_on_from_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the last epoch was not an improvement, none before it is trained again."""
    measured = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(SequenceClassifier, "measure", lambda *_: {"loss": next(measured), "accuracy": 0.0})
    with pytest.raises(StopIteration):  # the fourth measurement breaks the training off
        train(tmp_path, make_dataset(), RECIPE)
    assert [metrics["val_loss"] for metrics in read_checkpoint(tmp_path)["history"]] == [1.0, 2.0, 3.0]


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saved weights are those of the epoch with the best validation metric, not the last."""
    measured, seen = iter([3.0, 1.0, 2.0, 1.0, 0.0, 0.0]), []

    def measure(task: SequenceClassifier, _data: LabelledSequences) -> dict[str, float]:
        seen.append(task.head.weight.detach().clone())
        return {"loss": next(measured), "accuracy": 0.0}

    monkeypatch.setattr(SequenceClassifier, "measure", measure)
    train(tmp_path, make_dataset(), RECIPE)
    kept = read_model(tmp_path).state_dict()["head.weight"]
    assert [torch.equal(kept, weights) for weights in seen[:4]] == [False, True, False, False]


def test_token_ids_are_learned_from(tmp_path: Path) -> None:
    """A file of token ids trains, is evaluated and exported as one of numbers is."""
    data, draw = tmp_path / "ids.jsonl", np.random.default_rng(0)
    with data.open("w") as file:
        for _ in range(80):
            ids = draw.integers(1, 4, draw.integers(1, 6)).tolist()
            file.write(json.dumps({"sequence": ids, "label": sum(ids)}) + "\n")
    run = tmp_path / "run"
    train_main(["--data", str(data), "--task", "regression", "--out", str(run), "--epochs", "2"])
    assert read_config(run).encoder.vocabulary == 4
    assert all(steps.dtype == np.int64 for steps in read_samples(run).sequences)
    assert (run / "report.html").exists()
    assert export_run(run, tmp_path / "ids.onnx").dim == read_config(run).encoder.dim


def test_training_in_mixed_precision_leaves_float32_weights(
    finished: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    """The easy task is learned in half precision too; the weights differ from a float32 run's, and are float32."""
    results = train(tmp_path, make_dataset(), vary(precision="bf16-mixed"))
    assert results["accuracy"] >= 0.9
    assert (tmp_path / "weights.safetensors").read_bytes() != (finished[0] / "weights.safetensors").read_bytes()
    assert {tensor.dtype for tensor in read_model(tmp_path).state_dict().values()} == {torch.float32}


def test_a_regression_is_learned(tmp_path: Path) -> None:
    """Most of the variance of a sum over steps is explained; the run says which task it was."""
    draw = np.random.default_rng(0)

    def make(count: int, longest: int) -> LabelledSequences:
        sequences = [draw.normal(0, 1, (draw.integers(1, longest), 2)).astype(np.float32) for _ in range(count)]
        return LabelledSequences(
            sequences, np.array([100 + 10 * steps[:, 0].mean() for steps in sequences], np.float32)
        )

    dataset = Dataset("means", make(200, 6), make(50, 6), (), "made", "Apache-2.0", longer=make(20, 12))
    results = train(tmp_path, dataset, dataclasses.replace(vary(epochs=15), task="regression"))
    assert list(results)[:6] == ["mse", "mae", "r2", "longer_mse", "longer_mae", "longer_r2"]
    assert results["r2"] > 0.8
    assert read_config(tmp_path).task == "regression"
    found = evaluate(read_model(tmp_path), dataset)
    assert found == {name: results[name] for name in found}


def test_a_regressor_of_noise_says_the_mean_again_when_resumed(tmp_path: Path) -> None:
    """What nothing explains is predicted near the mean, by a factor on record; resumed, the weights are the same."""
    draw = np.random.default_rng(0)
    parts = [
        LabelledSequences([draw.normal(0, 1, (3, 2)).astype(np.float32) for _ in range(12)], labels)
        for labels in draw.normal(100, 10, (2, 12)).astype(np.float32)
    ]
    dataset = Dataset("noise", parts[0], parts[1], (), "made", "Apache-2.0")
    bare, recipe = (
        dataclasses.replace(vary(epochs=2, validation_share=0.0, shrink_folds=folds), task="regression")
        for folds in (0, 3)
    )
    results = train(tmp_path / "run", dataset, recipe)
    assert 0.0 <= results["shrunk_to"] < 1.0
    assert "shrunk_to" not in train(tmp_path / "plain", dataset, bare)
    task, other = (read_model(tmp_path / name) for name in ("run", "plain"))
    assert isinstance(task, SequenceRegressor)
    assert isinstance(other, SequenceRegressor)
    torch.testing.assert_close(task.head.weight, results["shrunk_to"] * other.head.weight)
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    assert train(tmp_path / "run", dataset, recipe, resume=True) == results
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_a_task_refuses_labels_it_cannot_learn_from(tmp_path: Path) -> None:
    """Classes are not numbers to regress on, and the sentence says what was found."""
    with pytest.raises(WrongLabels, match="the task regression learns from numbers, and easy is labelled with classes"):
        train(tmp_path, make_dataset(), dataclasses.replace(RECIPE, task="regression"))


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    """An empty directory cannot be resumed, and the sentence says so."""
    with pytest.raises(BrokenRun, match=r"there is no last\.ckpt to resume from"):
        train(tmp_path, make_dataset(), RECIPE, resume=True)


def test_a_run_is_resumed_with_its_own_config_only(finished: tuple[Path, dict[str, float]]) -> None:
    """Another seed would train on sequences that were held out; the run stays as it was."""
    run, _ = finished
    with pytest.raises(BrokenRun, match="started with another config"):
        train(run, make_dataset(), vary(seed=9), resume=True)
    assert read_config(run).training == TRAINING


def test_nothing_of_two_runs_is_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that starts over and breaks off leaves no older weights beside its config."""
    train(tmp_path, make_dataset(), vary(epochs=1))
    monkeypatch.setattr(SequenceClassifier, "training_loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, make_dataset(), vary(epochs=1, seed=9))
    with pytest.raises(BrokenRun, match=r"weights\.safetensors"):
        read_model(tmp_path)


def test_a_head_that_normalises_is_trained_saved_and_exported(tmp_path: Path) -> None:
    """Statistics pooling, slopes, dropout before the head and BatchNorm go through a run directory as all else does."""
    encoder = EncoderConfig(features=2, hidden=6, deltas=1, pooling="mean+std")
    training = dataclasses.replace(TRAINING, noise=0.0, head_dropout=0.3, head_norm=True)
    results = train(tmp_path / "run", make_dataset(), Recipe(encoder=encoder, training=training))
    assert results["accuracy"] > 0.9
    assert read_model(tmp_path / "run").measure(make_dataset().test)["accuracy"] == results["accuracy"]
    assert export_run(tmp_path / "run", tmp_path / "m.onnx").dim == 24


@pytest.mark.parametrize(
    ("encoder", "training", "named"),
    [
        ({"pooling": "mean+std", "dropout": 0.2}, {}, ["encoder dropout"]),
        ({"pooling": "mean+std+max"}, {"noise": 0.1}, ["training noise"]),
        ({"pooling": "mean+std", "dropout": 0.2}, {"noise": 0.1}, ["encoder dropout", "training noise"]),
        ({"pooling": "mean+std"}, {"head_dropout": 0.3, "offset": 0.5}, []),
        ({"pooling": "mean+max", "dropout": 0.2}, {"noise": 0.1}, []),
    ],
)
def test_what_inflates_deviations_in_training_is_told(
    encoder: dict[str, Any], training: dict[str, Any], named: list[str]
) -> None:
    """Noise and dropout on each step beside a pooled deviation are named, and nothing else is."""
    recipe = Recipe(encoder=EncoderConfig(features=2, **encoder), training=TrainConfig(**training))
    told = describe_trap(recipe)
    assert all(name in told for name in named)
    assert bool(told) == bool(named)


def test_the_command_tells_what_inflates_deviations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is on the terminal before training begins."""
    recipe = Recipe(encoder=EncoderConfig(features=2, pooling="mean+std", dropout=0.1), training=TrainConfig())
    monkeypatch.setattr(train_module, "_prepare", lambda _: (recipe, make_dataset()))
    for name in ("train", "write_report", "print_predictions"):
        monkeypatch.setattr(train_module, name, lambda *_, **__: {})
    train_main(["--dataset", "sum", "--out", str(tmp_path)])
    assert "train: the pooling mean+std measures how steps deviate" in capsys.readouterr().err


def test_training_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the validation loss has not improved for `patience` epochs, training ends."""
    monkeypatch.setattr(SequenceClassifier, "measure", lambda *_: {"loss": 1.0, "accuracy": 0.0})
    train(tmp_path, make_dataset(), vary(epochs=50, patience=2))
    epochs = {row.split(",")[0] for row in (tmp_path / "metrics.csv").read_text().splitlines()[1:]}
    assert epochs == {"0", "1", "2"}


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the easy task known to the commands, and return its recipe."""
    monkeypatch.setitem(DATASETS, "easy", make_dataset)
    recipe = tmp_path / "easy.json"
    recipe.write_text(json.dumps({"encoder": {"hidden": 4}, "training": {"epochs": 2, "learning_rate": 0.05}}))
    return recipe


def test_the_commands_train_and_evaluate_over_seeds(
    easy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run a seed, a line each, then mean and standard deviation over them."""
    out = tmp_path / "runs"
    train_main(["--dataset", "easy", "--recipe", str(easy), "--out", str(out), "--seeds", "2", "--seed", "5"])
    assert [read_config(run).training.seed for run in sorted(out.iterdir())] == [5, 6]
    capsys.readouterr()
    evaluate_main([str(out / "seed-5"), str(out / "seed-6")])
    header, first, second, mean, deviation = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "accuracy", "nearest_neighbour", "linear_probe"]
    assert len({len(line) for line in (header, mean, deviation)}) == 1
    accuracies = [float(line.split()[1]) for line in (first, second)]
    assert float(mean.split()[1]) == pytest.approx(np.mean(accuracies), abs=1e-4)  # four digits are printed
    assert float(deviation.split()[1]) == pytest.approx(np.std(accuracies, ddof=1), abs=1e-4)


@pytest.mark.parametrize("says", ["flag", "recipe"])
def test_the_shuffled_control_is_trained_and_judged_on_shuffled_frames(says: str, easy: Path, tmp_path: Path) -> None:
    """The run remembers that it is a control, and its samples are permuted ones, if the flag or the recipe says so."""
    flags = ["--dataset", "easy", "--recipe", str(easy), "--out", str(tmp_path / "c")]
    if says == "recipe":
        recipe = json.loads(easy.read_text())
        recipe["training"]["shuffle_frames"] = True
        easy.write_text(json.dumps(recipe))
    train_main([*flags, *(["--shuffle-frames"] if says == "flag" else [])])
    assert read_config(tmp_path / "c").training.shuffle_frames
    shuffled, plain = read_samples(tmp_path / "c").sequences, load_dataset("easy").test.sequences
    assert any(not np.array_equal(one, other) for one, other in zip(shuffled, plain, strict=True))
    assert all(
        np.array_equal(np.sort(one, axis=0), np.sort(other, axis=0)) for one, other in zip(shuffled, plain, strict=True)
    )


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"training": {"epoch": 3}}, "epoch"),
        ({"encoder": {"hidden": 0}}, "hidden is 0"),
        ({"task": "guessing"}, "guessing"),
        ([], "not a JSON object"),
        (None, "No such"),
    ],
)
def test_a_bad_recipe_is_refused_by_file(recipe: Any, reason: str, tmp_path: Path) -> None:
    """The sentence names the file and what is wrong in it."""
    path = tmp_path / "bad.json"
    if recipe is not None:
        path.write_text(json.dumps(recipe))
    with pytest.raises(SystemExit, match=rf"train: .*bad\.json is not a recipe: .*{reason}"):
        train_main(["--dataset", "easy", "--recipe", str(path), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"sts-b-sentences"}))
def test_every_data_set_has_a_recipe(name: str) -> None:
    """`--dataset NAME` alone is enough to train, but of sentences without labels, which need a teacher."""
    dataset = DATASETS[name]()
    recipe = read_recipe(train_module.RECIPES / f"{name}.json", dataset, epochs=None, seed=4)
    assert (recipe.encoder.features, recipe.encoder.vocabulary) == (dataset.features, dataset.vocabulary)
    assert recipe.training.seed == 4
    assert recipe.task in TASKS


def test_evaluating_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    """The command names the directory."""
    with pytest.raises(SystemExit, match=r"evaluate: .* cannot be used"):
        evaluate_main([str(tmp_path)])


def test_a_file_is_trained_on_evaluated_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a JSONL file to a proven artifact by three commands; the run remembers the file."""
    data, dataset = tmp_path / "easy.jsonl", make_dataset()
    with data.open("w") as file:
        for steps, label in zip(dataset.train.sequences, dataset.train.labels, strict=True):
            file.write(json.dumps({"sequence": steps.tolist(), "label": dataset.classes[label]}) + "\n")
    run = tmp_path / "run"
    flags = [
        "--epochs",
        "2",
        "--licence",
        "mine",
        "--accelerator",
        "cpu",
        "--devices",
        "1",
        "--precision",
        "bf16-mixed",
    ]
    train_main(["--data", str(data), "--out", str(run), *flags])
    said = capsys.readouterr().out
    assert "held-out sequence" in said
    verdict = next(line for line in said.splitlines() if line.startswith(f"{run}: the encoder's accuracy"))
    assert verdict.partition("accuracy of ")[2] in (run / "report.html").read_text().replace("&#x27;", "'")
    config = read_config(run)
    assert (config.task, config.data.name, config.data.classes) == ("classification", "easy", ["no", "yes"])
    assert config.data.licence == "mine"
    assert config.training.precision == "bf16-mixed"
    assert config.data.file is not None
    assert config.data.file.path == str(data)
    assert (run / "report.html").exists()
    evaluate_main([str(run)])
    accuracy = float(capsys.readouterr().out.splitlines()[1].split()[1])
    assert accuracy == pytest.approx(read_results(run)["accuracy"], abs=1e-4)  # four digits are printed
    task = export_run(run, tmp_path / "easy.onnx").task
    assert task is not None
    assert task.dataset == "easy"
    *lines, _last = data.read_text().splitlines()
    data.write_text("\n".join(lines))
    with pytest.raises(SystemExit, match=r"evaluate: .*run was tested on other sequences than easy holds out now"):
        evaluate_main([str(run)])


def test_a_bad_file_ends_training_in_one_sentence(tmp_path: Path) -> None:
    """The command names file, line and fault, without a traceback."""
    (tmp_path / "bad.jsonl").write_text('{"sequence": [[1.0]], "label": "a"}\n{"sequence": [], "label": "a"}\n')
    with pytest.raises(SystemExit, match=r"^train: .*bad\.jsonl, line 2: the sequence is empty$"):
        train_main(["--data", str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("validation_share", 1.0),
        ("class_weights", "some"),
        ("patience", -1),
        ("label_smoothing", 1.5),
        ("learning_rate", 0.0),
        ("epochs", 2.5),
        ("precision", "64"),
        ("neighbours", -1),
        ("shrink_folds", 1),
    ],
)
def test_trainings_that_cannot_be_are_refused(field: str, value: Any) -> None:
    """The sentence names the field."""
    with pytest.raises(ValueError, match=f"training {field} is {value!r}"):
        vary(**{field: value})


def test_the_test_share_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    """The command refuses to hold out everything."""
    with pytest.raises(SystemExit):
        train_main(["--data", "a.jsonl", "--test-share", "1"])
    assert "argument --test-share: invalid share value: '1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "sum", "--test", "a.csv"], "--test is for --data, and --dataset is given"),
        (["--dataset", "sum", "--test-share", "0.5"], "--test-share is for --data, and --dataset is given"),
        (["--dataset", "sts-b", "--tokenizer", "a.json"], "--tokenizer is for --data, and --dataset is given"),
        (["--dataset", "sum", "--feature-columns", "x,y"], "--feature-columns is for --data, and --dataset is given"),
        (
            ["--data", "a.csv", "--from", "run", "--tokenizer", "a.json"],
            "--tokenizer is the run's own that --from names",
        ),
        (["--data", "a.csv", "--learn-from-one"], "--learn-from-one is for --cross-validate, which is not given"),
        (["--data", "a.csv", "--seeds", "0"], "argument --seeds: invalid count value: '0'"),
    ],
)
def test_what_would_change_nothing_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is left to believe that an argument did something."""
    with pytest.raises(SystemExit):
        train_main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize("flags", [("--devices", "none"), ("--accelerator", "abacus")])
def test_hardware_that_is_not_there_is_one_sentence(flags: tuple[str, str], tmp_path: Path) -> None:
    """The command names what was asked for, and writes nothing."""
    with pytest.raises(SystemExit, match=rf"^train: .*{' '.join(flags)} .*not fit this machine: "):
        train_main(["--dataset", "easy", "--out", str(tmp_path / "run"), *flags])
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("easy")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_ends_in_a_sentence(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and SIGTERM end it at once, without a traceback, and not as if it had succeeded."""
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as shells leave it to what they start behind
    monkeypatch.setattr(SequenceClassifier, "training_loss", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match=r"^train: interrupted; --resume goes on after the last whole epoch$"):
        train_main(["--dataset", "easy", "--out", str(tmp_path / "run")])
    signal.signal(signal.SIGINT, ignored)
    assert signal.getsignal(signal.SIGTERM) is before


def test_runs_of_different_tasks_are_not_averaged(easy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their metrics have no mean."""
    train_main(["--dataset", "easy", "--recipe", str(easy), "--out", str(tmp_path / "a"), "--epochs", "1"])
    (tmp_path / "b").symlink_to(tmp_path / "a")
    results = iter([{"accuracy": 1.0}, {"mse": 1.0}])
    monkeypatch.setattr("model.training.evaluate.evaluate", lambda *_: next(results))
    with pytest.raises(SystemExit, match="evaluate: these runs are measured differently"):
        evaluate_main([str(tmp_path / "a"), str(tmp_path / "b")])
