"""Every kind of encoder through its export proof: cells, directions, layers, inputs, poolings, and what follows."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch

from export.artifact import prove
from export.graph import GraphOptions, build_graph
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.pooling import Pooling
from service.encoder.sequences import Steps
from tests.conftest import draw_sequences

CELLS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "gru-reset-before": {"cell": "gru", "reset_after": False},
    "rnn": {"cell": "rnn"},
}
INPUTS: dict[str, dict[str, Any]] = {"features": {"features": 3}, "tokens": {"vocabulary": 20}}
KINDS = list(itertools.product(CELLS, (1, 2), (1, 2), INPUTS, get_args(Pooling)))
TAILS: list[dict[str, Any]] = [
    {"projection": 5},
    {"normalize": True},
    {"projection": 7, "normalize": True},
]

SLOPES = list(itertools.product(CELLS, (1, 2), (1, 2, 3)))

pytestmark = pytest.mark.usefixtures("small_grid")


def make_encoder(config: EncoderConfig) -> tuple[SequenceEncoder, list[Steps]]:
    """Make an encoder with random weights, and a few sequences it reads."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(config).eval()
    lengths = [1, 2, 7, 4]
    if config.vocabulary is not None:
        draw = np.random.default_rng(0)
        return encoder, [draw.integers(1, config.vocabulary, length) for length in lengths]
    samples = draw_sequences(lengths, config.features or 0)
    if encoder.standardization is not None:
        encoder.fit_statistics([torch.from_numpy(2 * steps + 1) for steps in samples])
    return encoder, list(samples)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_every_kind_of_encoder_passes_its_proof(kind: tuple[str, int, int, str, Pooling]) -> None:
    """Embedding, steps and state equal torch and a numpy loop, and padding, order and mates change no bit of them.

    Plain RNNs, whose lone rows run on another kernel, are the stated exception. Every direction starts from a state of
    its own, which an empty sequence keeps.
    """
    cell, directions, layers, reads, pooling = kind
    kinds = {**CELLS[cell], **INPUTS[reads]}
    config = EncoderConfig(**kinds, bidirectional=directions == 2, layers=layers, hidden=5, pooling=pooling)
    encoder, samples = make_encoder(config)
    options = GraphOptions(steps=True, state=True, initial_state=True)
    checks = prove(encoder, build_graph(encoder, options), samples)
    assert len(checks) == 24
    exact = [check.tolerance for check in checks if "same" in check.claim]
    assert exact == [2e-6 if cell == "rnn" else 0.0] * 9


@pytest.mark.parametrize("tail", TAILS, ids=str)
@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_projection_and_normalization_pass_the_proof(pooling: Pooling, tail: dict[str, Any]) -> None:
    """What follows the pooling is as exact as the pooling, for an odd number of columns too."""
    encoder, samples = make_encoder(EncoderConfig(features=3, hidden=5, bidirectional=False, pooling=pooling, **tail))
    assert prove(encoder, build_graph(encoder), samples)


@pytest.mark.parametrize("kind", SLOPES, ids=lambda kind: "-".join(map(str, kind)))
def test_encoders_that_read_slopes_pass_their_proof(kind: tuple[str, int, int]) -> None:
    """With slopes over any window an encoder is as exact as without, for every cell and direction."""
    cell, directions, window = kind
    config = EncoderConfig(features=3, **CELLS[cell], bidirectional=directions == 2, hidden=5, deltas=window)
    encoder, samples = make_encoder(config)
    checks = prove(encoder, build_graph(encoder, GraphOptions(steps=True, state=True)), samples)
    exact = [check.tolerance for check in checks if "same" in check.claim]
    assert exact == [2e-6 if cell == "rnn" else 0.0] * 9


def test_a_state_is_refused_for_slopes() -> None:
    """The slope at the end of one part of a sequence would need the next part."""
    encoder, _ = make_encoder(EncoderConfig(features=3, bidirectional=False, deltas=1))
    with pytest.raises(ValueError, match="with deltas takes no initial state"):
        build_graph(encoder, GraphOptions(initial_state=True))
