"""What a training says, without a terminal: its progress, what is wrong with the data, and nothing else."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from model.data.datasets import FileSource
from model.data.files import read_dataset
from model.data.texts import PADDING, UNKNOWN, describe_unknown
from model.training.progress import SECONDS_BETWEEN, Progress

WORDS = ["good film", "bad film", "good good film", "bad bad film"]


def write_texts(path: Path, texts: list[str]) -> None:
    """Write texts with two labels in turn."""
    with path.open("w", newline="") as file:
        rows = [[text, "ab"[row % 2]] for row, text in enumerate(texts)]
        csv.writer(file).writerows([["text", "label"], *rows])


def train(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Train on a file as users do, without a terminal, with Python's own choice of warnings."""
    command = [
        sys.executable,
        "-m",
        "model",
        "train",
        "--data",
        str(data),
        "--out",
        str(data.with_suffix("")),
        *flags,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


LINE = re.compile(r"epoch (\d+) of \d+: train_loss \S+, val_loss \S+, val_accuracy \S+")


def test_a_log_holds_what_was_read_and_progress(tmp_path: Path) -> None:
    """A fresh run, and one that is resumed, say what they read and how far they are: no bar, no advert, no warning."""
    write_texts(tmp_path / "a.csv", WORDS * 10)
    for flags in (["--epochs", "3"], ["--epochs", "3", "--resume"]):
        ended = train(tmp_path / "a.csv", *flags)
        read, *lines = ended.stderr.splitlines()
        assert read.startswith("train: a: 32 sequences to learn from and 8 to test on, of ")
        found = [LINE.fullmatch(line) for line in lines]
        assert all(found), ended.stderr
        if "--resume" not in flags:  # the other had nothing left to train
            assert [match[1] for match in (found[0], found[-1]) if match] == ["1", "3"]
        said = r"\S+: accuracy \S+, [^\n]*\n\S+: the encoder's accuracy [^\n]*\nheld-out sequence  truth  prediction\n"
        assert re.match(said, ended.stdout)


def test_progress_is_told_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """The first epoch and the last have lines, and of the others those that end long enough after the last line."""
    now = 0.0
    progress = Progress(9, clock=lambda: now)
    for epoch in range(6):
        progress.tell(epoch, {"val_loss": 0.123456})
        now += 0.4 * SECONDS_BETWEEN
    progress.end()
    progress.end()
    lines = [f"epoch {epoch} of 9: val_loss 0.1235" for epoch in (1, 4, 6)]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_terminal_shows_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar tells the epoch, how far it is and the metrics of the one before; of lines only the last is printed."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    progress = Progress(9)
    for epoch in range(2):
        assert list(progress.watch(iter("abc"), 3, epoch)) == ["a", "b", "c"]
        progress.tell(epoch, {"val_loss": 0.5})
    progress.end()
    told = capsys.readouterr()
    assert re.search(r"epoch 2 of 9: .* 0/3 .*val_loss 0\.5", told.out)
    assert told.err == "epoch 2 of 9: val_loss 0.5\n"


def test_one_process_of_several_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    """Of processes that train together only the first says how far they are."""
    progress = Progress(9, is_first=False)
    progress.tell(0, {"val_loss": 0.5})
    progress.tell(1, {"val_loss": 0.5})
    progress.end()
    assert capsys.readouterr() == ("", "")


def test_a_training_warns_of_words_that_its_tokenizer_does_not_know(tmp_path: Path) -> None:
    """One line on standard error, after what was read and before any progress."""
    write_texts(tmp_path / "a.csv", [f"{text} word{row}" for row, text in enumerate(WORDS * 10)])
    _, first, *others = train(tmp_path / "a.csv", "--epochs", "1").stderr.splitlines()
    assert re.fullmatch(
        r"train: a vocabulary of all words seen twice does not know \d\d% of the tokens trained on and \d\d% of those "
        r"held out, which are all the same to the encoder: give more texts, or a --tokenizer of parts of words",
        first,
    )
    assert all(map(LINE.fullmatch, others))


def describe(path: Path, **options: Any) -> str | None:
    """Say what a file's texts have that their tokenizer does not."""
    return describe_unknown(read_dataset(FileSource(path=str(path), **options), "classes"))


def test_unknown_words_are_told_from_a_tenth_on(tmp_path: Path) -> None:
    """Of what is trained on or of what is held out; each way to a vocabulary has its own remedy."""
    write_texts(tmp_path / "known.csv", WORDS * 10)
    write_texts(tmp_path / "some.csv", ["good film good film good film good film good odd"] * 10)
    write_texts(tmp_path / "most.csv", ["odd strange rare words"] * 10)
    assert describe(tmp_path / "known.csv") is None
    assert describe(tmp_path / "known.csv", test=str(tmp_path / "some.csv")) is None
    sentence = describe(tmp_path / "known.csv", test=str(tmp_path / "most.csv"))
    assert "does not know 0% of the tokens trained on and 100% of those held out" in (sentence or "")
    sentence = describe(tmp_path / "known.csv", vocabulary=3)
    assert "a vocabulary of 3 does not know" in (sentence or "")
    assert "raise --vocabulary" in (sentence or "")


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({PADDING: 0, UNKNOWN: 1, "good": 2}, unk_token=UNKNOWN),
        models.WordPiece({PADDING: 0, UNKNOWN: 1, "good": 2}, unk_token=UNKNOWN),
        models.Unigram([(PADDING, 0.0), (UNKNOWN, 0.0), ("good", -1.0)], unk_id=1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_tokenizer_of_ones_own_is_told_of(model: Any, tmp_path: Path) -> None:
    """Whatever kind it is of, its file is named."""
    own = Tokenizer(model)
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.save(str(tmp_path / "own.json"))
    write_texts(tmp_path / "bad.csv", ["good bad odd"] * 10)
    write_texts(tmp_path / "good.csv", ["good good"] * 10)
    sentence = describe(tmp_path / "bad.csv", tokenizer=str(tmp_path / "own.json"))
    assert re.match(r"\S+own\.json does not know \d\d% of the tokens trained on", sentence or "")
    assert (sentence or "").endswith("train it on such texts, or leave --tokenizer out")
    assert describe(tmp_path / "good.csv", tokenizer=str(tmp_path / "own.json")) is None


def test_data_without_unknown_tokens_is_left_alone(tmp_path: Path) -> None:
    """A tokenizer of bytes knows every text, and ids have no tokenizer."""
    own = Tokenizer(models.BPE({PADDING: 0, "a": 1, "b": 2}, []))
    own.save(str(tmp_path / "own.json"))
    write_texts(tmp_path / "a.csv", ["ab", "ba"] * 10)
    assert describe(tmp_path / "a.csv", tokenizer=str(tmp_path / "own.json")) is None
    (tmp_path / "ids.jsonl").write_text('{"sequence": [1, 1], "label": "a"}\n{"sequence": [1, 2], "label": "b"}\n' * 5)
    assert describe(tmp_path / "ids.jsonl") is None
