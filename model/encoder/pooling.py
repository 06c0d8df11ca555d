"""From per-step outputs to one vector a sequence; padding never takes part, and an empty row is the zero vector."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from model.encoder.recurrent import last_outputs, valid_mask

Pooling: TypeAlias = Literal["mean", "max", "last", "attention", "mean+max"]


def masked_mean(steps: Tensor, lengths: Tensor) -> Tensor:
    """Average the valid steps of each row.

    Args:
        steps: `(B, T, D)`, zero past the length.
        lengths: `(B,)`, integers.

    Returns:
        `(B, D)`: the sum over valid steps divided by the length; a zero-length row is the zero vector.
    """
    return steps.sum(dim=1) / lengths.clamp(min=1)[:, None]


def masked_max(steps: Tensor, lengths: Tensor) -> Tensor:
    """Take the largest value of each number over the valid steps: `(B, T, D)` and `(B,)` to `(B, D)`."""
    padding = ~valid_mask(lengths, steps.shape[1])[:, :, None]
    highest = steps.masked_fill(padding, -torch.inf).amax(dim=1)
    return highest.masked_fill((lengths == 0)[:, None], 0.0)


class AttentionPooling(nn.Module):
    """A weighted average of the valid steps, the weights learnt (Yang et al., 2016, hierarchical attention networks).

    A step scores `context . tanh(W h + b)`; its weight is the softmax of the scores over its own sequence.
    """

    def __init__(self, width: int) -> None:
        """Make fresh weights for steps of `width` numbers."""
        super().__init__()
        self.key = nn.Linear(width, width)
        self.context = nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Pool `(B, T, D)` with lengths `(B,)` into `(B, D)`."""
        scores = torch.tanh(self.key(steps)) @ self.context  # (B, T)
        mask = valid_mask(lengths, steps.shape[1])
        # A finite floor keeps an empty row free of NaN; its steps are zero, and so is their average.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=1)
        return (weights[:, :, None] * steps).sum(dim=1)


def pool(pooling: Pooling, steps: Tensor, lengths: Tensor, directions: int) -> Tensor:
    """Make one vector a row, in any way that has no weights.

    Args:
        pooling: how; `attention` is a module of its own.
        steps: `(B, T, W)`, the top layer's outputs, zero past the length.
        lengths: `(B,)`, integers.
        directions: of the top layer, 1 or 2.

    Returns:
        `(B, W)`, or `(B, 2W)` for `mean+max`; a zero-length row is the zero vector.
    """
    match pooling:
        case "mean":
            return masked_mean(steps, lengths)
        case "max":
            return masked_max(steps, lengths)
        case "last":
            return last_outputs(steps, lengths, directions)
        case "mean+max":
            return torch.cat([masked_mean(steps, lengths), masked_max(steps, lengths)], dim=1)
        case "attention":
            raise ValueError("attention pooling has weights: use AttentionPooling")
