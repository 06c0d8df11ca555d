"""The torch encoder: exact for ragged batches, judged by a plain numpy loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import oracle
from export.oracle import Case
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder, Standardization
from model.encoder.pooling import masked_max, masked_mean, masked_std, pool
from model.encoder.recurrent import Cell, RecurrentState
from model.encoder.reset_before import ResetBeforeGRU
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
    expected = [oracle.encode(encoder, Case(steps)).embedding for steps in sequences]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # float32 against float64, values below 1


def test_encoder_without_standardization_reads_features_as_they_are() -> None:
    """With `standardize` off there is nothing to fit, and the oracle agrees."""
    encoder = make_encoder(1, standardize=False)
    (steps,) = draw_sequences([7])
    with torch.inference_mode():
        found = encoder(torch.from_numpy(steps)[None], torch.tensor([7]))[0].numpy()
    np.testing.assert_allclose(found, oracle.encode(encoder, Case(steps)).embedding, rtol=0, atol=1e-6)


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
    standardization.fit([torch.full((7, 2), 0.1)])  # whose mean is not 0.1 to the last bit
    assert standardization.std.tolist() == [1.0, 1.0]


def test_dropout_acts_in_training_only() -> None:
    """In evaluation two calls agree; in training they do not."""
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=6, dropout=0.5))
    steps, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    assert torch.equal(encoder.eval()(steps, lengths), encoder(steps, lengths))
    assert not torch.equal(encoder.train()(steps, lengths), encoder(steps, lengths))


@pytest.mark.parametrize(
    ("field", "value"), [("features", 0), ("hidden", 0), ("layers", 0), ("dropout", 1.0), ("hidden", 6.5)]
)
def test_config_refuses_impossible_sizes(field: str, value: float) -> None:
    """The sentence names the field and the value."""
    with pytest.raises(ValueError, match=rf"{field} is {value}"):
        EncoderConfig(**{"features": 3, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "either features or token ids"),
        ({"features": 3, "vocabulary": 5}, "either features or token ids"),
        ({"vocabulary": 1}, "vocabulary is 1"),
        ({"features": 3, "embedding": 4}, "embedding is for token ids"),
        ({"features": 3, "cell": "lstmp"}, "cell is 'lstmp'"),
        ({"features": 3, "pooling": "median"}, "pooling is 'median'"),
        ({"features": 3, "projection": 0}, "projection is 0"),
    ],
)
def test_config_refuses_what_no_encoder_can_be(fields: dict[str, object], sentence: str) -> None:
    """The sentence names the field, the value and what would do."""
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**fields)  # type: ignore[arg-type]


def test_a_token_becomes_the_fourth_root_of_the_vocabulary() -> None:
    """The default width is `int(vocabulary ** 0.25)`, and never zero."""
    assert EncoderConfig(vocabulary=10000).step_size == 10
    assert EncoderConfig(vocabulary=2).step_size == 1
    assert EncoderConfig(vocabulary=10000, embedding=50).step_size == 50


def test_max_pooling_sees_negative_steps_only() -> None:
    """The zeros of the padding are not the maximum of what lies below zero."""
    steps = torch.tensor([[[-2.0], [-4.0], [0.0]], [[0.0], [0.0], [0.0]]])
    assert masked_max(steps, torch.tensor([2, 0])).tolist() == [[-2.0], [0.0]]


@given(lengths=st.lists(st.integers(0, 10), min_size=1, max_size=6), extra=st.integers(0, 3))
def test_the_deviation_is_of_each_rows_own_steps(lengths: list[int], extra: int) -> None:
    """Whatever stands around it, a row's standard deviation is numpy's of its steps alone, and an empty one's is 0."""
    sequences = draw_sequences(lengths)
    padded = torch.zeros(len(lengths), max(lengths) + extra, 3)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = torch.from_numpy(steps)
    expected = [steps.std(axis=0, dtype=np.float64) if len(steps) else np.zeros(3) for steps in sequences]
    found = masked_std(padded, torch.tensor(lengths))
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=1e-6)  # float32 against float64


@pytest.mark.parametrize("value", [0.1, 16777217.0, 3e38, -1e-40])
def test_the_deviation_of_what_never_changes_is_exactly_zero(value: float) -> None:
    """However large or small the number is; its gradient is 0, not infinite, and another row's is what it was."""
    steps = torch.full((2, 7, 1), value)
    steps[1, :, 0] = torch.arange(7.0)
    steps.requires_grad_()
    deviation = masked_std(steps, torch.tensor([7, 3]))
    assert deviation[0] == 0
    (gradient,) = torch.autograd.grad(deviation.sum(), steps)
    assert not gradient[0].any()
    root = (2 / 3) ** 0.5  # the deviation of 0, 1 and 2
    torch.testing.assert_close(gradient[1, :3, 0], torch.tensor([-1.0, 0.0, 1.0]) / 3 / root)
    assert not gradient[1, 3:].any()


def test_the_deviation_of_what_is_not_a_number_is_not_zero() -> None:
    """A training that diverges shows."""
    assert masked_std(torch.tensor([[[1.0], [torch.nan]]]), torch.tensor([2])).isnan().all()


def test_attention_pooling_is_not_a_function() -> None:
    """It has weights, and says where they are."""
    with pytest.raises(ValueError, match="AttentionPooling"):
        pool("attention", torch.zeros(1, 1, 1), torch.tensor([1]), 1)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_sequence_goes_on_where_its_first_half_ended(cell: Cell) -> None:
    """Encoding in two parts, the second from the first's final state, gives the steps of encoding it whole."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=4, layers=2, bidirectional=False, cell=cell)).eval()
    sequences, lengths = torch.randn(3, 9, 3), torch.tensor([9, 6, 4])
    whole = encoder.run(sequences, lengths)
    first = encoder.run(sequences[:, :4], torch.tensor([4, 4, 4]))
    second = encoder.run(sequences[:, 4:], lengths - 4, first.state)
    torch.testing.assert_close(torch.cat([first.steps, second.steps], dim=1), whole.steps, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.state.h, whole.state.h, rtol=0, atol=1e-6)
    assert torch.equal(second.state.h[2], first.state.h[2])  # its second part is empty, and keeps the state


def test_an_empty_row_ends_in_the_state_it_began_in() -> None:
    """Beside a row of three steps its hidden states and cells are zero, or those that it was given."""
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3, layers=2)).eval()
    steps, lengths = torch.randn(2, 3, 2), torch.tensor([3, 0])
    given = RecurrentState(torch.rand(2, 2, 2, 3), torch.rand(2, 2, 2, 3))
    for state, expected in ((None, (torch.zeros(2, 2, 3),) * 2), (given, (given.h[1], given.c[1]))):  # type: ignore[index]
        found = encoder.run(steps, lengths, state).state
        assert found.c is not None
        assert torch.equal(found.h[1], expected[0])
        assert torch.equal(found.c[1], expected[1])
        assert found.c[0].all()


def test_a_state_may_be_given_to_an_empty_batch() -> None:
    """Rows without steps have no outputs, the zero embedding, and the state they came with."""
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3, bidirectional=False)).eval()
    state = RecurrentState(torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3))
    encoded = encoder.run(torch.zeros(2, 0, 2), torch.tensor([0, 0]), state)
    assert encoded.steps.shape == (2, 0, 3)
    assert not encoded.embedding.any()
    assert torch.equal(encoded.state.h, state.h)
    assert encoded.state.c is not None
    assert torch.equal(encoded.state.c, torch.ones(2, 1, 1, 3))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_backward_direction_starts_from_its_state_at_the_rows_own_last_step(cell: Cell) -> None:
    """It gives what a forward encoder with its weights gives of the row turned around, from the same state."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=4, cell=cell, standardize=False)).eval()
    turned = SequenceEncoder(
        EncoderConfig(features=3, hidden=4, cell=cell, standardize=False, bidirectional=False)
    ).eval()
    weights = encoder.state_dict()
    turned.load_state_dict({name: weights[name.replace("ahead", "behind")] for name in turned.state_dict()})
    h, c = torch.randn(2, 3, 1, 2, 4)
    both = RecurrentState(h, c if cell == "lstm" else None)
    backward = RecurrentState(h[:, :, 1:], c[:, :, 1:] if cell == "lstm" else None)
    sequences, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 0])
    found = encoder.run(sequences, lengths, both)
    for row, length in enumerate(lengths.tolist()):
        start = RecurrentState(backward.h[[row]], None if backward.c is None else backward.c[[row]])
        alone = turned.run(sequences[[row], :length].flip(1), lengths[[row]], start)
        torch.testing.assert_close(found.steps[row, :length, 4:], alone.steps[0].flip(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.state.h[row, :, 1:], alone.state.h[0], rtol=0, atol=1e-6)
    assert torch.equal(found.state.h[2], h[2])


def test_reset_before_differs_from_torchs_gru() -> None:
    """With the same weights the two GRUs are two models: neither stands in for the other."""
    torch.manual_seed(0)
    before, after = ResetBeforeGRU(2, 3), torch.nn.GRU(2, 3, batch_first=True)
    before.load_state_dict(after.state_dict())
    steps = torch.randn(1, 6, 2)
    assert not torch.allclose(before(steps)[0], after(steps)[0], atol=1e-3)


def test_a_deviation_too_small_for_float32_scales_nothing() -> None:
    """A feature that is almost always zero maps to zero, not to NaN, however small what it once was."""
    standardization = Standardization(1)
    steps = torch.zeros(2000, 1)
    steps[7] = 1e-45
    standardization.fit([steps])
    assert standardization.std.item() == 1.0
    assert torch.isfinite(standardization(steps)).all()
