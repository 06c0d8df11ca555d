"""Data sets and batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.data import named
from model.data.batches import LengthBuckets, SequenceSet, in_order, mix_seed
from model.data.datasets import Dataset, DatasetUnavailable, LabelledSequences, Unlabelled
from model.data.named import digit_sums, japanese_vowels, which_first
from model.data.splits import shuffle_dataset, shuffle_frames, split
from tests.conftest import draw_sequences


def label(lengths: list[int], classes: int = 2) -> LabelledSequences:
    """Draw sequences labelled round robin."""
    return LabelledSequences(draw_sequences(lengths), np.arange(len(lengths)) % classes)


def test_japanese_vowels_is_the_official_split() -> None:
    """270 and 370 utterances of 12 cepstra, 7 to 29 frames, 9 speakers, 30 training utterances each."""
    dataset = japanese_vowels()
    assert (len(dataset.train), len(dataset.test), dataset.features, len(dataset.classes)) == (270, 370, 12, 9)
    assert np.bincount(dataset.train.labels).tolist() == [30] * 9
    assert np.bincount(dataset.test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = [len(steps) for steps in dataset.train.sequences + dataset.test.sequences]
    assert (min(lengths), max(lengths)) == (7, 29)
    assert dataset.train.sequences[0][0, 0] == np.float32(1.860936)  # the file's first number
    assert dataset.train.sequences[0][1, 0] == np.float32(1.891651)  # its second: the next step, not feature


def test_a_missing_package_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sktime there is no data, and the error says what to install."""
    monkeypatch.setattr(named, "find_spec", lambda _: None)
    with pytest.raises(
        DatasetUnavailable, match=r"package 'sktime', which is not installed: pip install '\.\[train\]'"
    ):
        japanese_vowels()


def test_which_first_is_decided_by_order_alone() -> None:
    """Both classes hold as many marks of each kind, and the earlier one names the class."""
    dataset = which_first()
    for steps, first in zip(dataset.test.sequences, dataset.test.labels, strict=True):
        marks = steps[:, :2].argmax(axis=0)
        assert (marks[0] < marks[1]) == (first == 0)
    peaks = [
        np.array([steps[:, :2].max(axis=0) for steps in dataset.test.sequences])[dataset.test.labels == c]
        for c in (0, 1)
    ]
    # The mark's height is the same in both classes: means of some 500 draws with s.d. 0.3 differ by under 0.1.
    np.testing.assert_allclose(peaks[0].mean(axis=0), peaks[1].mean(axis=0), atol=0.1)


def test_shuffled_frames_keep_the_steps_and_lose_the_order() -> None:
    """The control holds each sequence's steps, permuted."""
    data = label([9, 12, 1])
    for before, after in zip(data.sequences, shuffle_frames(data, 0).sequences, strict=True):
        assert sorted(map(tuple, before)) == sorted(map(tuple, after))
        assert len(before) == 1 or not np.array_equal(before, after)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), size=st.integers(1, 7), pool=st.integers(1, 4))
def test_buckets_hold_every_sequence_once(lengths: list[int], size: int, pool: int) -> None:
    """An epoch covers each sequence exactly once in batches of at most the size, as many as it says."""
    buckets = LengthBuckets(lengths, size, pool)
    batches = list(buckets.draw())
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert len(batches) == len(buckets)


def test_buckets_pad_less_than_random_batches() -> None:
    """On log-normal lengths, bucketing computes far fewer padded steps than random batches of the same size."""
    lengths = np.random.default_rng(0).lognormal(3.5, 0.8, 2000).clip(1, 200).astype(int).tolist()

    def padded(batches: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)

    rows = np.random.default_rng(1).permutation(len(lengths))
    shuffled = [part.tolist() for part in np.split(rows, range(32, len(rows), 32))]
    assert padded(list(LengthBuckets(lengths, 32).draw())) < 0.6 * padded(shuffled)


def test_an_epoch_depends_on_seed_and_number_only() -> None:
    """The same epoch is drawn the same, whatever was drawn before; another epoch or seed differs."""
    first, second, other = LengthBuckets([5] * 40, 4), LengthBuckets([5] * 40, 4), LengthBuckets([5] * 40, 4, seed=1)
    assert list(second.draw(3)) != list(first.draw()) != list(other.draw())
    assert list(first.draw(3)) == list(second.draw(3))


def test_mixed_seeds_do_not_collide() -> None:
    """Neighbouring seeds and counts give unrelated draws."""
    assert len({mix_seed(seed, count) for seed in range(50) for count in range(50)}) == 2500


def test_in_order_covers_every_row() -> None:
    """Batches hold the rows as they stand, the last one what is left."""
    assert in_order(5, 2) == [[0, 1], [2, 3], [4]]


@given(lengths=st.lists(st.integers(1, 9), min_size=4, max_size=40), share=st.floats(0.05, 0.99))
def test_the_split_is_stratified_and_loses_nothing(lengths: list[int], share: float) -> None:
    """Every sequence is on one side; each class is held out in its share, rounded up, and one of it remains."""
    data = label(lengths, classes=3)
    data = LabelledSequences([np.full((1, 1), row, np.float32) for row in range(len(data))], data.labels)
    training, validation = split(data, share, seed=1)
    rows = [int(steps[0, 0]) for steps in training.sequences + validation.sequences]
    assert sorted(rows) == list(range(len(data)))
    expected = [min(int(np.ceil(share * count)), count - 1) for count in np.bincount(data.labels)]
    assert np.bincount(validation.labels, minlength=3).tolist() == expected


def test_batches_are_padded_with_zeros() -> None:
    """A batch holds each sequence, its length and its label."""
    data = label([2, 4, 3])
    batch = SequenceSet(data)[[0, 1]]
    assert batch.sequences.shape == (2, 4, 3)
    assert (batch.lengths.tolist(), batch.labels.tolist()) == ([2, 4], [0, 1])
    assert not batch.sequences[0, 2:].any()
    assert np.array_equal(batch.sequences[0, :2].numpy(), data.sequences[0])


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), size=st.integers(1, 7), ranks=st.integers(1, 4))
def test_processes_share_an_epoch(lengths: list[int], size: int, ranks: int) -> None:
    """Together they meet every sequence, each as many batches as it says, and none that another has but the filling."""
    parts = []
    for rank in range(ranks):
        buckets = LengthBuckets(lengths, size)
        buckets.share(rank, ranks)
        parts.append(list(buckets.draw()))
        assert len(parts[-1]) == len(buckets) == len(parts[0])
    batches = [tuple(batch) for part in parts for batch in part]
    assert {row for batch in batches for row in batch} == set(range(len(lengths)))
    assert len(batches) - len(set(batches)) < ranks


def test_token_ids_are_padded_with_zero() -> None:
    """A batch of token ids is two-dimensional, int64."""
    data = LabelledSequences([np.array([3, 1]), np.array([2])], np.array([0.5, 1.5], np.float32))
    batch = SequenceSet(data)[[0, 1]]
    assert batch.sequences.tolist() == [[3, 1], [2, 0]]
    assert batch.sequences.dtype == torch.int64
    assert batch.labels.tolist() == [0.5, 1.5]


def test_sums_are_sums_of_digits() -> None:
    """Token id d + 1 is the digit d; no sequence is in two parts, and the longer ones are longer."""
    dataset = digit_sums()
    assert dataset.inputs == {"vocabulary": 11}
    assert dataset.longer is not None
    for part, lengths in ((dataset.train, {1, 2, 3, 4}), (dataset.test, {1, 2, 3, 4}), (dataset.longer, {5, 6, 7, 8})):
        assert set(part.lengths) == lengths
        assert [sum(int(token) - 1 for token in steps) for steps in part.sequences] == part.labels.tolist()
        assert all(0 < int(steps.min()) <= int(steps.max()) <= 10 for steps in part.sequences)
    train, test = ({tuple(steps.tolist()) for steps in part.sequences} for part in (dataset.train, dataset.test))
    assert not train & test
    assert (len(train), len(test)) == (len(dataset.train), len(dataset.test)) == (1688, 422)


def test_numbers_are_split_plainly() -> None:
    """If labels are not classes, a share of all rows is held out."""
    data = LabelledSequences(draw_sequences([1] * 20), np.arange(20, dtype=np.float32))
    training, validation = split(data, 0.25, seed=0)
    assert (len(training), len(validation)) == (15, 5)
    assert sorted([*training.labels, *validation.labels]) == list(range(20))


def test_sequences_without_labels_give_none_and_refuse_to_be_learned_from() -> None:
    """No labels are None, also in a part and in a batch; who asks for them gets a sentence."""
    data = LabelledSequences([np.ones((2, 1), np.float32), np.ones((1, 1), np.float32)], None)
    for part in (data, data.subset(np.array([1])), *split(data, 0.5, seed=0)):
        assert part.given_labels is None
        with pytest.raises(Unlabelled, match="these sequences have no labels"):
            _ = part.labels
    batch = SequenceSet(data)[[0, 1]]
    assert batch.to(torch.device("cpu")).given_labels is None
    with pytest.raises(Unlabelled):
        _ = batch.labels


def test_the_control_without_order_shuffles_longer_sequences_too() -> None:
    """They are judged beside the test sequences, as the same encoder would read them."""
    longer = LabelledSequences([np.arange(1, 51)], np.zeros(1, np.float32))
    dataset = Dataset("made", longer, longer, (), "made", "none", 51, longer=longer)
    found = shuffle_dataset(dataset).longer
    assert found is not None
    assert sorted(found.sequences[0].tolist()) == longer.sequences[0].tolist() != found.sequences[0].tolist()
