"""How far answers are apart: what no proof may pass over."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.compare import TOLERANCE, Unit, Units, measure_difference
from export.oracle import OracleOutput
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from service.encoder.sequences import Output

PLAIN = Unit(np.zeros(1), np.ones(1))
UNIT = Units(steps=1.0, reach=1.0, state={"h": 1.0, "c": 1.0}, prediction=PLAIN)


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
    near, far = (replace(UNIT, prediction=Unit(np.array([bias]), np.full(1, 2.0))) for bias in (0.0, 1e7))
    assert measure_difference("prediction", answer(h=2.0), answer(h=1.0), near) == pytest.approx(0.5)
    assert measure_difference("prediction", answer(h=1e7 + 2), answer(h=1e7 + 1), far) == pytest.approx(0.5)


def test_small_numbers_are_compared_with_the_largest_of_them() -> None:
    """Of steps that reach 0.1, an error of a hundredth is a tenth; cells have a unit of their own."""
    encoder = SequenceEncoder(EncoderConfig(features=1, hidden=1))
    units = Units.of(encoder, [answer(h=0.01, c=0.5), answer(h=-0.1, c=0.2)])
    assert (units.steps, units.reach) == (0.1, 1.0)
    assert units.state == {"h": 0.1, "c": 0.5}
    parts: tuple[Output, ...] = ("steps", "embedding")
    for part in parts:
        assert measure_difference(part, answer(h=0.02), answer(h=0.01), units) == pytest.approx(0.1)
    assert measure_difference("state", answer(h=0.01, c=0.06), answer(h=0.01, c=0.01), units) == pytest.approx(0.1)


@pytest.mark.parametrize(("length", "bits"), [(0, 1), (1, 2), (2, 3), (19, 20)])
def test_no_number_is_held_to_more_than_a_gate_is_known_to(length: int, bits: int) -> None:
    """However small all numbers are, a bit of 1 is tolerated for each step, and one more, as a projection leaves it."""
    expected = answer(h=0.0, c=0.0, length=length)
    units = replace(UNIT, steps=0.0, state={"h": 0.0, "c": 0.0})
    error = bits * 2.0**-23
    found = answer(h=error, c=error, length=length)
    parts: tuple[Output, ...] = ("embedding", "state")
    for part in parts:
        assert measure_difference(part, found, expected, units) == pytest.approx(TOLERANCE)
    wider = replace(units, reach=2.0)
    assert measure_difference("embedding", found, expected, wider) == pytest.approx(TOLERANCE / 2)
    assert measure_difference("embedding", found, expected, replace(units, reach=0.0)) >= TOLERANCE * 0.99


def test_what_is_larger_than_one_has_no_unit_above_it() -> None:
    """Of cells that reach 3 a small one is compared with 1."""
    units = replace(UNIT, state={"h": 1.0, "c": 3.0})
    assert measure_difference("state", answer(c=0.75), answer(c=0.5), units) == 0.25


def test_a_projection_makes_the_unit_of_embeddings_smaller_or_larger() -> None:
    """What the largest step can become through it is the unit, but that of embeddings of length 1, which is 1."""
    for normalize, expected in ((False, 0.1), (True, 1.0)):
        config = EncoderConfig(features=1, hidden=1, projection=2, normalize=normalize)
        encoder = SequenceEncoder(config)
        assert encoder.projection is not None
        with torch.no_grad():
            encoder.projection.weight.copy_(torch.tensor([[0.25, -0.25], [0.0, 0.0]]))
        units = Units.of(encoder, [answer(h=0.2)])
        assert measure_difference("embedding", answer(h=0.011), answer(h=0.01), units) == pytest.approx(
            0.001 / expected
        )
