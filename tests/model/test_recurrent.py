"""The recurrent layer against packed sequences, and what padding may not do to it."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.encoder.recurrent import RecurrentLayer, reverse_by_length, valid_mask

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def pad(lengths: list[int], features: int, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Draw a padded batch with junk in its padding."""
    torch.manual_seed(len(lengths))
    return torch.randn(len(lengths), max(lengths) + extra, features), torch.tensor(lengths)


def pack_reference(layer: RecurrentLayer, steps: Tensor, lengths: Tensor) -> Tensor:
    """Run the layer's weights through torch's own bidirectional LSTM on a packed sequence."""
    assert isinstance(layer.ahead, nn.LSTM)
    assert isinstance(layer.behind, nn.LSTM)
    reference = nn.LSTM(steps.shape[2], layer.ahead.hidden_size, batch_first=True, bidirectional=True)
    for name, weights in layer.ahead.named_parameters():
        getattr(reference, name).data = weights.data
    for name, weights in layer.behind.named_parameters():
        getattr(reference, f"{name}_reverse").data = weights.data
    packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(reference(packed)[0], batch_first=True, total_length=steps.shape[1])
    return outputs


@given(lengths=LENGTHS, extra=st.integers(0, 4))
def test_bidirectional_lstm_equals_packed_sequences(lengths: list[int], extra: int) -> None:
    """On any padded batch the layer gives what torch gives on the packed one."""
    torch.manual_seed(0)
    layer = RecurrentLayer("lstm", 3, 5)
    steps, valid = pad(lengths, 3, extra)
    with torch.no_grad():
        # Two kernels order float32 sums of a few terms differently: the last bits of numbers below 1.
        torch.testing.assert_close(layer(steps, valid), pack_reference(layer, steps, valid), rtol=0, atol=1e-6)


@given(lengths=LENGTHS)
def test_gradients_equal_packed_sequences(lengths: list[int]) -> None:
    """Training on padded batches follows the gradient of packed ones: padding teaches nothing."""
    torch.manual_seed(0)
    layer = RecurrentLayer("lstm", 3, 4)
    steps, valid = pad(lengths, 3, extra=2)
    found = torch.autograd.grad(layer(steps, valid).square().sum(), list(layer.ahead.parameters()))
    reference = RecurrentLayer("lstm", 3, 4)
    reference.load_state_dict(layer.state_dict())
    rows = [reference(steps[[row], :length], valid[[row]]) for row, length in enumerate(lengths)]
    total = torch.stack([row.square().sum() for row in rows]).sum()
    for gradient, expected in zip(found, torch.autograd.grad(total, list(reference.ahead.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)  # float32 sums over batch and time


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_reverse_by_length_is_its_own_inverse(lengths: list[int]) -> None:
    """Reversing twice changes nothing; once turns the valid steps around and leaves the padding in place."""
    steps, valid = pad([max(1, *lengths)] * len(lengths), 2)[0], torch.tensor(lengths)
    turned = reverse_by_length(steps, valid)
    assert torch.equal(reverse_by_length(turned, valid), steps)
    for row, length in enumerate(lengths):
        assert torch.equal(turned[row, :length], steps[row, :length].flip(0))
        assert torch.equal(turned[row, length:], steps[row, length:])


def test_valid_mask_is_tensorflows_sequence_mask() -> None:
    """A step is valid if its index is below the row's length."""
    expected = torch.tensor([[False, False, False], [True, False, False], [True, True, True]])
    assert torch.equal(valid_mask(torch.tensor([0, 1, 3]), 3), expected)


def test_outputs_past_the_length_are_zero_even_beside_nan() -> None:
    """Whatever stands in the padding, the outputs there are zero and the valid ones finite."""
    layer = RecurrentLayer("lstm", 2, 3)
    steps, lengths = torch.full((2, 4, 2), torch.nan), torch.tensor([2, 0])
    steps[0, :2] = 1.0
    outputs = layer(steps, lengths)
    assert not outputs[0, 2:].any()
    assert not outputs[1].any()
    assert outputs[0, :2].isfinite().all()
