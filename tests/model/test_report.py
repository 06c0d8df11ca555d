"""The report every run leaves: one file, pictures inside, drawn from held-out sequences."""

import base64
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.data.datasets import LabelledSequences
from model.encoder.config import EncoderConfig
from model.tasks.config import TrainConfig
from model.tasks.task import Judgement, Task
from model.training import figures
from model.training.recipe import DataConfig
from model.training.report import list_predictions, main, print_predictions, write_report
from model.training.run_directory import BrokenRun, RunConfig, read_config, read_samples, start_run, write_result
from tests.conftest import draw_sequences

PNG = b"\x89PNG\r\n\x1a\n"


def make_finished(run: Path, task: str, classes: list[str], samples: LabelledSequences) -> Path:
    """Write a finished run with random weights."""
    data = DataConfig(name="<made>", classes=classes, source="made", licence="Apache-2.0", longest_training_sequence=9)
    config = RunConfig(task=task, encoder=EncoderConfig(features=3, hidden=2), training=TrainConfig(), data=data)
    start_run(run, config)
    write_result(run, config.build(), samples, {"accuracy": 0.5}, training_lengths=[1, 9, 4])
    (run / "metrics.csv").write_text("epoch,train_loss,val_loss,val_other\n0,2,1.5,0.1\n1,1,0.5,0.4\n")
    return run


@pytest.fixture
def classified(tmp_path: Path) -> Path:
    """A finished run of a classifier."""
    samples = LabelledSequences(draw_sequences(list(range(1, 21))), np.arange(20) % 2)
    return make_finished(tmp_path / "run", "classification", ["<a>", "b"], samples)


@pytest.fixture
def regressed(tmp_path: Path) -> Path:
    """A finished run of a regressor."""
    samples = LabelledSequences(draw_sequences([1, 2, 5]), np.array([1.5, -2.0, 7.0], np.float32))
    return make_finished(tmp_path / "regressed", "regression", [], samples)


@pytest.mark.parametrize(("fixture", "judged"), [("classified", "confusion"), ("regressed", "residuals")])
def test_a_report_is_one_file_with_every_picture(fixture: str, judged: str, request: pytest.FixtureRequest) -> None:
    """Each PNG beside the report stands in it, byte for byte, and nothing in it leads elsewhere."""
    run: Path = request.getfixturevalue(fixture)
    page = write_report(run).read_text()
    pictures = {path.stem: path.read_bytes() for path in (run / "report").glob("*.png")}
    assert set(pictures) == {"learning-curves", "lengths", "embeddings", "by-length", judged}
    embedded = [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(embedded) == sorted(pictures.values())
    assert all(picture.startswith(PNG) for picture in embedded)
    assert "http" not in re.sub(r'src="data:[^"]+"', "", page)
    assert page.count("src=") == len(pictures)
    assert "<made>" not in page
    assert "&lt;made&gt;" in page


def test_a_report_is_the_same_each_time(classified: Path) -> None:
    """Nothing in it depends on when or how often it is written."""
    first = write_report(classified).read_bytes()
    assert write_report(classified).read_bytes() == first


def test_a_task_that_judges_no_sequence_has_a_report_too(classified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lacks the pictures of judgements, and prints no predictions."""
    monkeypatch.setattr("model.tasks.supervised.SequenceClassifier.judge", Task.judge)
    write_report(classified)
    assert {path.stem for path in (classified / "report").glob("*.png")} == {"learning-curves", "lengths", "embeddings"}


def test_predictions_are_printed_beside_the_truth(
    classified: Path, regressed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows from first to last, by class name or number; none if nothing is predicted."""
    print_predictions(classified)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["held-out", "sequence", "truth", "prediction"]
    assert len(lines) == 11
    assert lines[1].startswith("row 0, 1 steps     <a>    ")
    assert lines[10].startswith("row 19, 20 steps   b      ")
    print_predictions(regressed)
    assert [line.split()[4] for line in capsys.readouterr().out.splitlines()[1:]] == ["1.5", "-2", "7"]
    monkeypatch.setattr("model.tasks.supervised.SequenceClassifier.judge", Task.judge)
    print_predictions(classified)
    assert capsys.readouterr().out == ""


def test_short_token_sequences_are_shown_whole(regressed: Path) -> None:
    """A reader sees the ids that a prediction is about."""
    samples = LabelledSequences([np.array([3, 1, 2]), np.arange(1, 30)], np.array([6.0, 435.0], np.float32))
    judgement = Judgement(np.array([5.9, 400.0], np.float32), np.array([0.1, 35.0]), "mean absolute error")
    rows = list_predictions(samples, judgement, read_config(regressed))
    assert rows == [["tokens 3 1 2", "6", "5.9"], ["row 1, 29 steps", "435", "400"]]


def test_reports_are_written_anew_by_command(classified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the file; what is not a finished run is one sentence."""
    main([str(classified)])
    assert capsys.readouterr().out == f"{classified}/report.html\n"
    for name in ("metrics.csv", "samples.safetensors"):
        shutil.move(classified / name, classified / "away")
        with pytest.raises(SystemExit, match=f"report: .* cannot be used: {name}"):
            main([str(classified)])
        shutil.move(classified / "away", classified / name)


def test_starting_over_removes_the_report(classified: Path) -> None:
    """No picture of an earlier run is left beside a new one's config."""
    write_report(classified)
    start_run(classified, read_config(classified))
    assert not (classified / "report.html").exists()
    assert not (classified / "report").exists()
    with pytest.raises(BrokenRun, match=r"samples\.safetensors"):
        read_samples(classified)


def test_a_confusion_counts_rows_by_true_class() -> None:
    """Two of class 0 taken for class 1 stand in row 0, column 1."""
    figure = figures.draw_confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), ["a long name of a class", "b"])
    axes = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((1, 0), "2"), ((1, 1), "1")}
    assert axes.images[0].get_array().tolist() == [[0, 1], [0, 1]]  # type: ignore[union-attr]


def test_length_groups_hold_every_sequence_once() -> None:
    """Groups cover all lengths in order, and their heights are means of their members' merits."""
    lengths = [1, 1, 2, 8]
    figure = figures.draw_buckets(lengths, np.array([1.0, 0.0, 1.0, 0.25]), "accuracy")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "8"]
    assert [text.get_text() for text in axes.texts] == ["0.5\nn=2", "1\nn=1", "0.25\nn=1"]
    many = figures.draw_buckets(list(range(1, 601)), np.ones(600), "accuracy").axes[0]
    assert [text.get_text() for text in many.texts] == ["1\nn=100"] * 6
    assert many.get_xticklabels()[0].get_text() == "1-100"


@pytest.mark.parametrize("classes", [0, 3, 15, 40])
@pytest.mark.parametrize("dim", [1, 4])
def test_embeddings_of_any_label_and_width_are_drawn(classes: int, dim: int) -> None:
    """A legend names few classes, a colour bar stands for many or for numbers; axes tell their variance."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, 60) if classes else draw.normal(size=60)
    figure = figures.draw_embeddings(draw.normal(size=(60, dim)), labels, [str(name) for name in range(classes)])
    assert len(figure.axes) == (1 if 0 < classes <= 20 else 2)
    assert (figure.axes[0].get_legend() is not None) == (0 < classes <= 20)
    assert re.fullmatch(r"axis 1: \d+% of the variance", figure.axes[0].get_xlabel())


def test_embeddings_without_labels_are_drawn_in_one_colour() -> None:
    """No colour bar stands beside them; embeddings that are all one do not divide by zero."""
    assert len(figures.draw_embeddings(np.ones((5, 3)), None, []).axes) == 1
