"""Ragged sequences, their limits, and padded batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.encoder.sequences import Answer, Features, Sequences, join, pad_batch
from service.errors import (
    EmptyRequest,
    EmptySequence,
    LengthwiseError,
    NonFiniteValue,
    RequestTooLong,
    SequenceTooLong,
)
from service.settings import Limits
from tests.conftest import draw_sequences

LIMITS = Limits(max_sequence_steps=5, max_request_steps=12, empty_allowed=False)


@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=8))
def test_split_undoes_join(lengths: list[int]) -> None:
    """Sequences laid end to end come apart as they were."""
    sequences = draw_sequences(lengths)
    joined = join(sequences, Features(3))
    assert joined.steps == sum(lengths)
    for found, expected in zip(joined.split(), sequences, strict=True):
        np.testing.assert_array_equal(found, expected)


@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=8))
def test_pad_batch_keeps_each_sequence_and_fills_with_zeros(lengths: list[int]) -> None:
    """Row i begins with sequence i and holds nothing else."""
    sequences = draw_sequences(lengths)
    batch = pad_batch(sequences)
    assert batch.steps.shape == (len(lengths), max(1, *lengths), 3)
    assert batch.lengths.tolist() == lengths
    for row, steps in zip(batch.steps, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(steps)], steps)
        assert not row[len(steps) :].any()


def test_pad_batch_does_not_copy_a_lone_sequence() -> None:
    """There is nothing to pad; one that is empty becomes a step of zeros."""
    (steps,) = draw_sequences([4])
    assert np.shares_memory(pad_batch([steps]).steps, steps)
    assert not pad_batch([steps[:0]]).steps.any()


@pytest.mark.parametrize(
    ("lengths", "error", "path", "limit"),
    [
        ([], EmptyRequest, "sequences", None),
        ([3, 6, 7], SequenceTooLong, "sequences[1]", 5),
        ([5, 5, 5], RequestTooLong, "sequences", 12),
        ([1, 0, 2, 0], EmptySequence, "sequences[1]", None),
    ],
)
def test_check_names_the_first_fault(
    lengths: list[int], error: type[LengthwiseError], path: str, limit: int | None
) -> None:
    """An error carries where it is and the limit it met, and its sentence says both."""
    limits = Limits(max_sequence_steps=5, max_request_steps=99, empty_allowed=False) if 6 in lengths else LIMITS
    with pytest.raises(error) as caught:
        join(draw_sequences(lengths), Features(3)).check(limits)
    assert (caught.value.path, caught.value.limit) == (path, limit)
    assert path in str(caught.value) or path == "sequences"
    assert limit is None or str(limit) in str(caught.value)


def test_check_allows_empty_sequences_where_the_setting_does() -> None:
    """With `empty_allowed` a sequence may have no steps."""
    join(draw_sequences([0, 2]), Features(3)).check(
        Limits(max_sequence_steps=5, max_request_steps=12, empty_allowed=True)
    )


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    choice=st.randoms(use_true_random=False),
)
def test_check_finds_the_one_number_that_is_not_finite(lengths: list[int], value: float, choice: object) -> None:
    """Wherever it stands, its path names sequence, step and feature."""
    sequences = draw_sequences(lengths)
    index = choice.randrange(len(lengths))  # type: ignore[attr-defined]
    step, feature = choice.randrange(lengths[index]), choice.randrange(3)  # type: ignore[attr-defined]
    sequences[index][step, feature] = value
    with pytest.raises(NonFiniteValue) as caught:
        join(sequences, Features(3)).check(Limits(max_sequence_steps=99, max_request_steps=99, empty_allowed=True))
    assert caught.value.path == f"sequences[{index}][{step}][{feature}]"


def test_steps_are_views_not_copies() -> None:
    """Splitting costs no memory of its own."""
    joined = Sequences(np.zeros((4, 3), np.float32), np.array([1, 3]))
    assert all(np.shares_memory(steps, joined.values) for steps in joined.split())


def test_normalizing_scales_to_length_one_and_leaves_zero() -> None:
    """Each row gets L2 norm 1, a tiny one too; the zero vector stays."""
    embeddings = np.array([[3, 4], [0, 0], [3e-30, 4e-30]], dtype=np.float32)
    expected = np.array([[0.6, 0.8], [0, 0], [0.6, 0.8]], dtype=np.float32)
    np.testing.assert_allclose(Answer(embeddings).normalized().embeddings, expected, rtol=1e-6)  # float32 rounding
