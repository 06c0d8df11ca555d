"""How far answers are apart: what no proof may pass over."""

import numpy as np
import pytest

from export.compare import Unit, measure_difference
from export.oracle import OracleOutput

UNIT = Unit(np.zeros(1), np.ones(1))


def answer(h: float = 0.5, c: float = 0.5, *, length: int = 2) -> OracleOutput:
    """Return an answer with these numbers in its state."""
    state = {"h": np.full((1, 1, 2), h), "c": np.full((1, 1, 2), c)}
    return OracleOutput(np.full(2, h), np.full((length, 2), h), state, np.full(1, h))


@pytest.mark.parametrize("found", [answer(h=np.nan), answer(c=np.nan)], ids=["hidden", "cells"])
def test_a_state_that_is_not_a_number_differs_by_no_number(found: OracleOutput) -> None:
    """NaN in the cells counts, though nothing is wrong with the hidden states before them."""
    assert np.isnan(measure_difference("state", found, answer(), UNIT))


def test_differences_are_relative_above_one() -> None:
    """A cell of ten that is off by one is off by a tenth, a hidden state of a half that is off by a tenth by that."""
    assert measure_difference("state", answer(c=11.0), answer(c=10.0), UNIT) == pytest.approx(0.1)
    assert measure_difference("state", answer(h=0.6), answer(), UNIT) == pytest.approx(0.1)
    assert measure_difference("embedding", answer(h=0.6), answer(), UNIT) == pytest.approx(0.1)


def test_answers_of_other_shapes_differ_without_bound() -> None:
    """Steps that are too many are not cut to those that are expected."""
    assert measure_difference("steps", answer(length=3), answer(), UNIT) == np.inf


def test_predictions_are_counted_from_the_bias() -> None:
    """A difference of one at a weight of two is a half, and it is that ten million from zero, too."""
    near, far = (Unit(np.array([bias]), np.full(1, 2.0)) for bias in (0.0, 1e7))
    assert measure_difference("prediction", answer(h=2.0), answer(h=1.0), near) == pytest.approx(0.5)
    assert measure_difference("prediction", answer(h=1e7 + 2), answer(h=1e7 + 1), far) == pytest.approx(0.5)
