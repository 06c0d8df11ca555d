"""The torch encoder: exact for ragged batches, judged by a plain numpy loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import oracle
from model.encoder import EncoderConfig, SequenceEncoder, Standardization
from model.pooling import masked_mean
from tests.conftest import draw_sequences


def make_encoder(layers: int = 2, *, standardize: bool = True) -> SequenceEncoder:
    """Make a small encoder with random weights."""
    torch.manual_seed(layers)
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=6, layers=layers, standardize=standardize))
    if encoder.standardization is not None:
        encoder.standardization.fit([torch.from_numpy(3 * steps + 1) for steps in draw_sequences([40])])
    return encoder.eval()


@given(lengths=st.lists(st.integers(0, 10), min_size=1, max_size=6), extra=st.integers(0, 3), layers=st.integers(1, 3))
def test_encoder_equals_the_oracle_in_any_batch(lengths: list[int], extra: int, layers: int) -> None:
    """Whatever its batch mates and padding, a row is what a numpy loop makes of its sequence alone."""
    encoder = make_encoder(layers)
    sequences = draw_sequences(lengths)
    padded = torch.full((len(lengths), max(lengths) + extra, 3), 1e4)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = torch.from_numpy(steps)
    with torch.inference_mode():
        found = encoder(padded, torch.tensor(lengths)).numpy()
    expected = [oracle.encode(encoder, steps) for steps in sequences]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # float32 against float64, values below 1


def test_encoder_without_standardization_reads_features_as_they_are() -> None:
    """With `standardize` off there is nothing to fit, and the oracle agrees."""
    encoder = make_encoder(1, standardize=False)
    (steps,) = draw_sequences([7])
    with torch.inference_mode():
        found = encoder(torch.from_numpy(steps)[None], torch.tensor([7]))[0].numpy()
    np.testing.assert_allclose(found, oracle.encode(encoder, steps), rtol=0, atol=1e-6)


def test_empty_rows_are_zero_vectors() -> None:
    """A zero-length row is the zero vector, in a batch of its kind too."""
    encoder = make_encoder()
    assert not encoder(torch.ones(2, 4, 3), torch.tensor([0, 0])).any()
    assert not encoder(torch.ones(2, 0, 3), torch.tensor([0, 0])).any()


def test_masked_mean_divides_by_the_length() -> None:
    """The average is over valid steps, not over padded time."""
    steps = torch.tensor([[[2.0], [4.0], [0.0], [0.0]], [[0.0], [0.0], [0.0], [0.0]]])
    assert masked_mean(steps, torch.tensor([2, 0])).tolist() == [[3.0], [0.0]]


def test_standardization_keeps_a_constant_feature_finite() -> None:
    """A feature that never varies maps to zero."""
    standardization = Standardization(2)
    standardization.fit([torch.tensor([[1.0, 5.0], [3.0, 5.0]])])
    assert standardization(torch.tensor([[2.0, 5.0], [3.0, 5.0]])).tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_dropout_acts_in_training_only() -> None:
    """In evaluation two calls agree; in training they do not."""
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=6, dropout=0.5))
    steps, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    assert torch.equal(encoder.eval()(steps, lengths), encoder(steps, lengths))
    assert not torch.equal(encoder.train()(steps, lengths), encoder(steps, lengths))


@pytest.mark.parametrize(("field", "value"), [("features", 0), ("hidden", 0), ("layers", 0), ("dropout", 1.0)])
def test_config_refuses_impossible_sizes(field: str, value: float) -> None:
    """The sentence names the field and the value."""
    with pytest.raises(ValueError, match=rf"{field} is {value}"):
        EncoderConfig(**{"features": 3, field: value})  # type: ignore[arg-type]
