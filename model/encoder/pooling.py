"""From per-step outputs to one vector a sequence; padding never takes part, and an empty row is the zero vector."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from model.encoder.recurrent import last_outputs, valid_mask

Pooling: TypeAlias = Literal["mean", "max", "last", "attention", "mean+max", "mean+std", "mean+std+max"]


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


def masked_std(steps: Tensor, lengths: Tensor) -> Tensor:
    """Take the standard deviation of each number over the valid steps: `(B, T, D)` and `(B,)` to `(B, D)`.

    Steps are taken relative to the first one, and then to their mean, before they are squared. So numbers that never
    change have a deviation of exactly 0, however large they are, and where it is 0 the gradient is 0, not infinite.
    """
    padding = ~valid_mask(lengths, steps.shape[1])[:, :, None]
    count = lengths.clamp(min=1)[:, None]
    shifted = (steps - steps[:, :1]).masked_fill(padding, 0.0)
    mean = shifted.sum(dim=1) / count
    centred = (shifted - mean[:, None]).masked_fill(padding, 0.0)
    variance = centred.square().sum(dim=1) / count
    is_constant = variance == 0
    return variance.masked_fill(is_constant, 1.0).sqrt().masked_fill(is_constant, 0.0)


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
        `(B, W)`, or the parts of a pooling such as `mean+std` side by side; a zero-length row is the zero vector.
    """
    return torch.cat([_pool_part(part, steps, lengths, directions) for part in pooling.split("+")], dim=1)


def _pool_part(part: str, steps: Tensor, lengths: Tensor, directions: int) -> Tensor:
    match part:
        case "mean":
            return masked_mean(steps, lengths)
        case "max":
            return masked_max(steps, lengths)
        case "std":
            return masked_std(steps, lengths)
        case "last":
            return last_outputs(steps, lengths, directions)
        case _:
            raise ValueError("attention pooling has weights: use AttentionPooling")
