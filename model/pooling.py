"""From per-step outputs to one vector a sequence."""

from torch import Tensor


def masked_mean(steps: Tensor, lengths: Tensor) -> Tensor:
    """Average the valid steps of each row.

    Args:
        steps: `(B, T, D)`, zero past the length.
        lengths: `(B,)`, integers.

    Returns:
        `(B, D)`: the sum over valid steps divided by the length; a zero-length row is the zero vector.
    """
    return steps.sum(dim=1) / lengths.clamp(min=1)[:, None]
