"""Cross-validation within the training sequences."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.catalogue import DATASETS
from model.data.datasets import Dataset, FileSource, LabelledSequences
from model.data.files import load_dataset
from model.data.splits import cut_folds
from model.data.teachers import teach
from model.data.texts import UNKNOWN_ID, build_word_tokenizer, vocabulary_size
from model.training import cross_validate
from model.training.cross_validate import Folds, Scores
from model.training.recipe import Recipe
from model.training.train import main as train_main
from tests.model.test_train import make_dataset


def write_texts(path: Path) -> Path:
    """Write 20 texts, each with a word that it alone holds, twice, so that all texts together know it."""
    rows = [{"text": f"only{row} only{row} {'cat' if row % 2 else 'dog'}", "label": row % 2} for row in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


@pytest.mark.parametrize("folds", [Folds(3), Folds(3, learn_from_one=True)], ids=["of-two", "of-one"])
def test_a_fold_knows_the_words_of_what_it_learns_from_alone(folds: Folds, tmp_path: Path) -> None:
    """A word that only the texts hold that a fold is judged on is unknown to it, however often they hold it."""
    dataset = load_dataset(FileSource(path=str(write_texts(tmp_path / "texts.jsonl"))))
    assert all(UNKNOWN_ID not in ids for ids in dataset.train.sequences)
    for fold in folds.draw(dataset):
        assert fold.tokenizer == build_word_tokenizer(fold.train.texts or [], None)
        assert fold.vocabulary == vocabulary_size(fold.tokenizer)
        assert [ids[:2].tolist() for ids in fold.test.sequences] == [[UNKNOWN_ID] * 2] * len(fold.test)
        assert all(UNKNOWN_ID not in ids for ids in fold.train.sequences)


def test_a_tokenizer_that_is_given_is_every_fold_s(tmp_path: Path) -> None:
    """Whether the user brings it or a run that is trained further, folds do not make another."""
    path, own = str(write_texts(tmp_path / "texts.jsonl")), tmp_path / "own.json"
    tokenizer = build_word_tokenizer(["cat dog"] * 2, None)
    own.write_text(tokenizer, encoding="utf-8")
    plain = load_dataset(FileSource(path=path))
    brought = load_dataset(FileSource(path=path, tokenizer=str(own)))
    further = [load_dataset(FileSource(path=path), tokenizer=given) for given in (tokenizer, plain.tokenizer)]
    for dataset in (brought, *further):
        assert {fold.tokenizer for fold in Folds(2).draw(dataset)} == {dataset.tokenizer}


def test_a_fold_has_a_vector_for_each_word_of_its_own(tmp_path: Path) -> None:
    """What a teacher gives to words is given to those of each fold anew."""
    teacher = tmp_path / "teacher.npz"
    np.savez(teacher, texts=np.array(["cat", "dog", "only3"]), vectors=np.array([[1.0, 2], [3, 5], [4, 0]]))
    dataset = load_dataset(FileSource(path=str(write_texts(tmp_path / "texts.jsonl"))), teacher=str(teacher))
    for fold in Folds(3).draw(dataset):
        assert fold.vectors is not None
        assert len(fold.vectors) == fold.vocabulary != dataset.vocabulary
        expected = teach(replace(fold, vectors=None), str(teacher), targets=False).vectors
        np.testing.assert_array_equal(fold.vectors, expected)


def test_an_encoder_has_the_size_of_its_fold_s_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its embedding holds the tokens of the fold, and frames are shuffled after these are counted."""
    trained: list[tuple[Dataset, Recipe]] = []

    def train(_: Path, dataset: Dataset, recipe: Recipe, **__: object) -> dict[str, float]:
        trained.append((dataset, recipe))
        return {"accuracy": 0.5}

    monkeypatch.setattr(cross_validate, "train", train)
    arguments = ["--data", str(write_texts(tmp_path / "texts.jsonl")), "--shuffle-frames", "--cross-validate", "2"]
    train_main([*arguments, "--seeds", "2"])
    assert len(trained) == 4
    for fold, recipe in trained:
        assert recipe.encoder.vocabulary == fold.vocabulary
        assert recipe.training.shuffle_frames
        assert fold.tokenizer == build_word_tokenizer(fold.train.texts or [], None)


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
