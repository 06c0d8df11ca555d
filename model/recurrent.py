"""Recurrent layers over padded batches, exact for every row's own length.

The semantics are those of TensorFlow's `bidirectional_dynamic_rnn`: the backward direction starts at a row's last
valid step, and steps past the length output zero and leave the state alone.
"""

import torch
from torch import Tensor, nn


def valid_mask(lengths: Tensor, steps: int) -> Tensor:
    """Mark the steps that belong to a sequence, as TensorFlow's `sequence_mask` does.

    Args:
        lengths: `(B,)`, integers, `0 <= lengths[i] <= steps`.
        steps: T, the padded time.

    Returns:
        `(B, T)`, bool, true where `t < lengths[i]`.
    """
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def reverse_by_length(steps: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row's valid steps in place of themselves; the padding stays where it is.

    Applied twice it is the identity, as TensorFlow's `reverse_sequence` is.

    Args:
        steps: `(B, T, F)`.
        lengths: `(B,)`, integers, `0 <= lengths[i] <= T`.

    Returns:
        `(B, T, F)`: row i holds `steps[i, lengths[i] - 1 - t]` at each valid t.
    """
    time = torch.arange(steps.shape[1], device=steps.device)
    source = torch.where(valid_mask(lengths, steps.shape[1]), lengths[:, None] - 1 - time, time)  # (B, T)
    return steps.gather(1, source[:, :, None].expand_as(steps))


class BidirectionalLSTM(nn.Module):
    """One bidirectional LSTM layer over a padded batch.

    A padded batch runs on the fast kernels that packed sequences bypass. It stays exact because a direction only ever
    meets padding after its row's valid steps, and what it outputs there is set to zero.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.behind = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Run both directions.

        Args:
            steps: `(B, T, I)`, float; what stands past a row's length does not matter.
            lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.

        Returns:
            `(B, T, 2H)`, forward beside backward, zero past the length.
        """
        ahead, _ = self.ahead(steps)
        behind, _ = self.behind(reverse_by_length(steps, lengths))
        both = torch.cat([ahead, reverse_by_length(behind, lengths)], dim=2)  # (B, T, 2H)
        return both.masked_fill(~valid_mask(lengths, steps.shape[1])[:, :, None], 0.0)
