"""Cross-validation within the training sequences."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.catalogue import DATASETS
from model.data.datasets import LabelledSequences
from model.data.splits import cut_folds
from model.training.cross_validate import Folds, Scores
from model.training.train import main as train_main
from tests.model.test_train import make_dataset


def test_folds_are_parts_with_their_share_of_every_class() -> None:
    """Each row is in one fold, and no fold has more than one row of a class more than another."""
    labels = np.array([0] * 7 + [1] * 5 + [2] * 2)
    folds = cut_folds(len(labels), labels, 3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[fold], minlength=3) for fold in folds])
    assert np.ptp(counts, axis=0).max() <= 1


def test_one_fold_is_learned_from_or_judged_on() -> None:
    """The other folds are judged on if a single one is learned from, and learned from otherwise."""
    dataset = make_dataset()
    plain, single = ([*Folds(3, is_single).draw(dataset)] for is_single in (False, True))
    assert [(len(fold.train), len(fold.test)) for fold in plain] == [(40, 20)] * 3
    for fold, swapped in zip(plain, single, strict=True):
        assert (fold.train.sequences, fold.test.sequences) == (swapped.test.sequences, swapped.train.sequences)


@pytest.mark.parametrize(("count", "reason"), [(1, "at least 2"), (59, "too small")])
def test_folds_that_teach_nothing_are_refused(count: int, reason: str) -> None:
    """A single fold leaves nothing to judge on, and a fold of one sequence nothing to learn from."""
    with pytest.raises(ValueError, match=reason):
        list(Folds(count, learn_from_one=True).draw(make_dataset()))


def test_the_command_judges_within_the_training_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints each fold of each seed, means and deviations, leaves no run, and never reads a test sequence."""
    unreadable = LabelledSequences([], None)
    monkeypatch.setitem(DATASETS, "which-first", lambda: replace(make_dataset(), test=unreadable, longer=unreadable))
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "which-first", "--cross-validate", "2", "--seeds", "2", "--epochs", "1"]
    train_main([*arguments, "--accelerator", "cpu", "--devices", "1"])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["seed", "fold", "accuracy"]
    assert [re.split(r"\s{2,}", line.strip())[0] for line in lines[4:]] == ["mean", "s.d. folds", "s.d. seeds"]
    assert [line.split()[:2] for line in lines[:4]] == [["0", "1"], ["0", "2"], ["1", "1"], ["1", "2"]]
    assert list(tmp_path.iterdir()) == []


def test_deviations_are_of_the_means() -> None:
    """The deviation of folds is that of their means over seeds, and the deviation of seeds of theirs over folds."""
    table = Scores(["accuracy"], [0, 1], np.array([[[0.1], [0.3]], [[0.3], [0.9]]])).format().splitlines()
    assert [float(line.split()[-1]) for line in table[-3:]] == [0.4, 0.2828, 0.2828]
