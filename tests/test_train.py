"""Training: the run directory, resuming, and what the commands say."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import train as train_module
from model.checkpoint import BrokenRun, read_config, read_model, read_results, read_samples
from model.config import Recipe, TrainConfig, read_recipe
from model.data import split
from model.datasets import DATASETS, Dataset, LabelledSequences
from model.encoder import EncoderConfig
from model.evaluate import evaluate
from model.evaluate import main as evaluate_main
from model.files import load_dataset
from model.fit import Training, train
from model.tasks import TASKS, SequenceClassifier
from model.train import main as train_main

# Lightning's own chatter: it warns of few workers and few batches, and its dependencies of their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")

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
    assert set(results) == {"accuracy", "nearest_neighbour", "linear_probe", "validation_accuracy"}
    assert all(value >= 0.9 for value in results.values()), results


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

    class Break(Exception):
        pass

    def break_off(module: Training) -> None:
        if module.current_epoch == 2:
            raise Break

    with monkeypatch.context() as patch:
        patch.setattr(Training, "on_train_epoch_end", break_off, raising=False)
        with pytest.raises(Break):
            train(tmp_path, make_dataset(), RECIPE)
    results = train(tmp_path, make_dataset(), RECIPE, resume=True)
    run, expected = finished
    assert results == expected
    for name in ("weights.safetensors", "metrics.csv", "config.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name


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
    monkeypatch.setattr(Training, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, make_dataset(), vary(epochs=1, seed=9))
    with pytest.raises(BrokenRun, match=r"weights\.safetensors"):
        read_model(tmp_path)


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
    assert header.split() == ["run", "accuracy", "nearest_neighbour", "linear_probe"]
    accuracies = [float(line.split()[1]) for line in (first, second)]
    assert float(mean.split()[1]) == pytest.approx(np.mean(accuracies), abs=1e-4)  # four digits are printed
    assert float(deviation.split()[1]) == pytest.approx(np.std(accuracies, ddof=1), abs=1e-4)


def test_the_shuffled_control_is_trained_and_judged_on_shuffled_frames(easy: Path, tmp_path: Path) -> None:
    """The run remembers that it is a control, and its samples are permuted ones."""
    train_main(["--dataset", "easy", "--recipe", str(easy), "--out", str(tmp_path / "c"), "--shuffle-frames"])
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
        ([], "no JSON object"),
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


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_has_a_recipe(name: str) -> None:
    """`--dataset NAME` alone is enough to train."""
    dataset = DATASETS[name]()
    if dataset.vocabulary is not None and "vocabulary" not in EncoderConfig.__dataclass_fields__:
        pytest.skip("the encoder does not read token ids yet")
    recipe = read_recipe(train_module.RECIPES / f"{name}.json", dataset, epochs=None, seed=4)
    assert recipe.encoder.features == dataset.features
    assert recipe.training.seed == 4
    assert recipe.task in TASKS


def test_evaluating_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    """The command names the directory."""
    with pytest.raises(SystemExit, match=r"evaluate: .* cannot be used"):
        evaluate_main([str(tmp_path)])
