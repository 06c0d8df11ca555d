"""What is learned from few labels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.catalogue import DATASETS
from model.data.datasets import Dataset, LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.selfsupervised import SelfSupervised
from model.training import defaults, few_labels, figures
from model.training.evaluate import main as evaluate_main
from model.training.few_labels import METHODS, NoClasses, draw_few, learn_from_few, make_svm
from model.training.train import main as train_main
from tests.model.test_train import make_dataset


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training without a recipe take a few updates, by an encoder of few units, and an SVM choose nothing."""
    monkeypatch.setattr(defaults, "UPDATES", 4)
    monkeypatch.setattr(defaults, "FEWEST_EPOCHS", 1)
    monkeypatch.setattr("model.training.recipe.choose_encoder", lambda *_: {"hidden": 2})
    monkeypatch.setattr(few_labels, "FOLDS", 100)


def make_task() -> SelfSupervised:
    """Build a task with an encoder of the easy sequences."""
    torch.manual_seed(1)
    task = SelfSupervised(SequenceEncoder(EncoderConfig(features=2, hidden=3)), TrainConfig())
    task.prepare(make_dataset().train)
    return task


def test_draws_hold_as_many_of_each_class_and_grow() -> None:
    """A class with too few gives all it has, None asks for all, and more labels are the same ones and others."""
    data = LabelledSequences([np.ones((1, 1), np.float32)] * 12, np.array([0] * 7 + [1] * 3 + [2] * 2))
    one, two, five = (draw_few(data, count, 4) for count in (1, 2, 5))
    assert np.bincount(data.labels[one]).tolist() == [1, 1, 1]
    assert np.bincount(data.labels[five]).tolist() == [5, 3, 2]
    assert set(one) < set(two) < set(five)
    assert draw_few(data, None, 4).tolist() == list(range(12))
    assert any(not np.array_equal(one, draw_few(data, 1, seed)) for seed in range(4))


@pytest.mark.usefixtures("quick")
def test_curves_hold_every_method_and_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder, the untrained one, the supervised one and statistics are judged on the same draws."""
    dataset = make_dataset()
    curves = learn_from_few([make_task(), make_task()], dataset, [1], 2)
    names = [*METHODS, *(f"untrained {method}" for method in METHODS), "supervised", "SVM on statistics"]
    assert list(curves.values) == names
    for name, values in curves.values.items():
        assert values.shape == ((2, 4) if name in METHODS else (2, 2)), name
        assert (values >= 0.0).all(), name
        assert (values <= 1.0).all(), name
    np.testing.assert_array_equal(curves.values["probe"][:, :2], curves.values["probe"][:, 2:])  # encoders are alike
    assert curves.values["probe"][1].tolist() == [curves.values["probe"][1, 0]] * 4  # all labels leave nothing to draw
    assert curves.values["SVM on statistics"][1, 0] > 0.9  # the mean of the first feature tells the classes apart
    monkeypatch.setattr(few_labels, "train", lambda *_: {"accuracy": 0.5})  # the same weights each time: test_train
    again = learn_from_few([make_task()], dataset, [1], 2)
    for name in names:
        expected = curves.values[name][:, :2] if name != "supervised" else np.full((2, 2), 0.5)
        np.testing.assert_array_equal(again.values[name], expected)


@pytest.mark.usefixtures("quick")
def test_a_supervised_encoder_sees_the_drawn_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained on the sequences that were drawn, and on no other."""
    seen: list[Dataset] = []

    def record(_run: Path, part: Dataset, _recipe: object) -> dict[str, float]:
        seen.append(part)
        return {"accuracy": 0.5}

    monkeypatch.setattr(few_labels, "train", record)
    dataset = make_dataset()
    curves = learn_from_few([make_task()], dataset, [2], 3)
    assert [len(part.train) for part in seen] == [4, 4, 4, 60, 60, 60]
    for part, seed in zip(seen, range(3), strict=False):
        rows = draw_few(dataset.train, 2, seed)
        assert all(one is dataset.train.sequences[row] for one, row in zip(part.train.sequences, rows, strict=True))
        assert part.test is dataset.test
    assert curves.values["supervised"].tolist() == [[0.5] * 3] * 2


def test_the_table_has_means_and_deviations() -> None:
    """There is a line for each number of labels, and `all` is the last."""
    table = few_labels.Curves([1, None], {"probe": np.array([[0.25, 0.75], [1.0, 1.0]])}).format().splitlines()
    assert [line.split() for line in table[1:]] == [["1", "0.5000", "±", "0.3536"], ["all", "1.0000", "±", "0.0000"]]
    assert table[0].split() == ["labels", "a", "class", "probe"]


def test_the_softness_of_an_svm_is_chosen_only_if_labels_suffice() -> None:
    """Five of each class are cross-validated; with fewer the margin is as hard as any."""
    assert "svc__C" in make_svm(np.repeat([0, 1], 5)).param_grid
    assert few_labels.SOFTNESSES[-1] == make_svm(np.array([0] * 9 + [1] * 4)).named_steps["svc"].C


def test_labels_that_are_not_classes_are_refused() -> None:
    """Numbers have no classes to draw of, and a single draw has no deviation."""
    dataset = make_dataset()
    with pytest.raises(NoClasses, match="easy is not labelled with classes"):
        learn_from_few([make_task()], dataclasses.replace(dataset, classes=()), [1], 2)
    with pytest.raises(ValueError, match="--draws is 1"):
        learn_from_few([make_task()], dataset, [1], 1)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_and_draws_what_few_labels_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of a training without labels share one table; other encoders beside them are refused."""
    monkeypatch.setitem(DATASETS, "easy", make_dataset)
    recipe = tmp_path / "small.json"
    for hidden, shuffled, name in ((3, "false", "a"), (3, "false", "b"), (2, "false", "c"), (3, "true", "d")):
        training = f'{{"epochs": 1, "shuffle_frames": {shuffled}}}'
        recipe.write_text(f'{{"encoder": {{"hidden": {hidden}}}, "training": {training}}}')
        flags = ["--dataset", "easy", "--task", "selfsupervised", "--recipe", str(recipe)]
        train_main([*flags, "--out", str(tmp_path / name)])
    monkeypatch.setattr(few_labels, "train", lambda *_: {"accuracy": 0.5})
    runs, picture = [str(tmp_path / name) for name in "abcd"], tmp_path / "few.svg"
    capsys.readouterr()
    evaluate_main([*runs[:2], "--few-labels", "2", "1", "--draws", "2", "--plot", str(picture)])
    lines = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert [line.split()[0] for line in lines if "±" in line] == ["1", "2", "all"]
    assert "untrained probe" in picture.read_text()
    for other in runs[2:]:
        with pytest.raises(SystemExit, match="these runs differ in encoder or data"):
            evaluate_main([runs[0], other, "--few-labels", "1"])


@pytest.mark.parametrize("flags", [["--plot", "few.svg"], ["--few-labels", "1", "--plot", "few.pdf"]])
def test_a_picture_that_cannot_be_drawn_is_refused_at_once(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--plot` draws few labels alone, as PNG or SVG; the run is not even looked for."""
    with pytest.raises(SystemExit):
        evaluate_main(["nowhere", *flags])
    assert "what --few-labels finds is drawn, into a .png or .svg file" in capsys.readouterr().err


def test_rows_held_out_without_labels_are_not_judged_on(tmp_path: Path) -> None:
    """A file that was split without labels is split otherwise with them, so that few labels need a file to test on."""
    data, run = tmp_path / "mine.jsonl", tmp_path / "run"
    data.write_text("".join(f'{{"sequence": [[{row}.0], [1.0]], "label": {row % 2}}}\n' for row in range(30)))
    train_main(["--data", str(data), "--task", "selfsupervised", "--epochs", "1", "--out", str(run)])
    with pytest.raises(SystemExit, match="--few-labels needs a run that was trained with --test FILE"):
        evaluate_main([str(run), "--few-labels", "1"])


def test_curves_are_drawn_with_their_deviations() -> None:
    """There is a line for each method, with a mark for each number of labels."""
    values = {"probe": np.array([[0.2, 0.4], [0.8, 1.0]]), "untrained probe": np.array([[0.1, 0.1], [0.5, 0.7]])}
    axes = figures.draw_few_labels([1, None], values).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "all"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list(values)
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == pytest.approx([0.3, 0.9])
