"""The slopes that stand beside features: each row's own, whatever stands around it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import oracle
from export.oracle import Case
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import RecurrentState
from model.encoder.slopes import measure_slopes
from tests.conftest import draw_sequences


def test_slopes_are_central_differences_with_the_ends_repeated() -> None:
    """Half the difference of both neighbours; at an end the step itself stands for the neighbour it lacks."""
    steps = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    assert measure_slopes(steps, torch.tensor([4]), 1)[0, :, 0].tolist() == [0.5, 1.5, 3.0, 2.0]
    assert measure_slopes(steps, torch.tensor([3]), 1)[0, :3, 0].tolist() == [0.5, 1.5, 1.0]
    assert measure_slopes(steps, torch.tensor([1]), 1)[0, 0, 0] == 0


def test_slopes_over_a_window_are_those_of_the_line_of_least_squares() -> None:
    """On a straight line every step but those near the ends has the line's own slope."""
    steps = 3.0 * torch.arange(9.0)[None, :, None]
    slopes = measure_slopes(steps, torch.tensor([9]), 2)[0, :, 0]
    torch.testing.assert_close(slopes[2:-2], torch.full((5,), 3.0))
    torch.testing.assert_close(slopes[0], torch.tensor((1 * 3.0 + 2 * 6.0) / 10))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), extra=st.integers(0, 3), window=st.integers(1, 4))
def test_slopes_are_the_same_to_the_last_bit_whatever_stands_in_the_padding(
    lengths: list[int], extra: int, window: int
) -> None:
    """No step past a row's own length is read, even if it is NaN."""
    sequences = draw_sequences(lengths)
    padded = torch.full((len(lengths), max(lengths) + extra, 3), torch.nan)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = torch.from_numpy(steps)
    found = measure_slopes(padded, torch.tensor(lengths), window)
    for row, steps in zip(found, sequences, strict=True):
        alone = measure_slopes(torch.from_numpy(steps)[None], torch.tensor([len(steps)]), window)[0]
        assert row[: len(steps)].numpy().tobytes() == alone.numpy().tobytes()
        expected = oracle.measure_slopes(steps.astype(np.float64), window)
        np.testing.assert_allclose(alone.numpy(), expected, rtol=0, atol=1e-6)  # float32 against float64


def test_an_encoder_with_slopes_reads_the_order_of_steps_it_would_average() -> None:
    """The numpy oracle agrees with torch, and the first layer reads twice as many numbers a step."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=3, hidden=4, deltas=2)).eval()
    encoder.fit_statistics([torch.from_numpy(3 * steps + 1) for steps in draw_sequences([40])])
    assert encoder.config.step_size == 6
    for steps in draw_sequences([7, 1]):
        with torch.inference_mode():
            found = encoder(torch.from_numpy(steps)[None], torch.tensor([len(steps)]))[0].numpy()
        np.testing.assert_allclose(found, oracle.encode(encoder, Case(steps)).embedding, rtol=0, atol=1e-6)
    assert not encoder(torch.ones(2, 0, 3), torch.tensor([0, 0])).any()


def test_slopes_are_scaled_as_features_are() -> None:
    """Slopes of what changes slowly are small: without a deviation of their own the first layer misses them."""
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3, deltas=1))
    time = torch.linspace(0, 6, 200)
    rounded = 0.1 + torch.tensor([0.0, 1e-8]).repeat(100)  # a constant but for its last bit
    steps = torch.stack([time.sin(), rounded], dim=1)
    encoder.fit_statistics([steps])
    read = encoder.run_layers(steps[None], torch.tensor([200]))[0][0]
    torch.testing.assert_close(read[:, [0, 2]].std(dim=0, correction=0), torch.ones(2))
    assert read[:, 3].abs().max() < 1e-5


def test_an_encoder_with_slopes_refuses_a_state() -> None:
    """The slope at the end of one part would need the next part, and the sentence says so."""
    encoder = SequenceEncoder(EncoderConfig(features=2, hidden=3, bidirectional=False, deltas=1))
    state = RecurrentState(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3))
    with pytest.raises(ValueError, match="with deltas takes no initial state"):
        encoder(torch.zeros(1, 2, 2), torch.tensor([2]), state)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"features": 2, "deltas": -1}, "deltas is -1"), ({"vocabulary": 5, "deltas": 1}, "deltas is for features")],
)
def test_config_refuses_slopes_that_cannot_be(fields: dict[str, int], sentence: str) -> None:
    """A window has a size, and token ids have no slope."""
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**fields)  # type: ignore[arg-type]
