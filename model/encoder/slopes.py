"""The slope of each number at each step, as speech recognition has long read beside the numbers (Furui, 1986).

A recurrent encoder whose steps are pooled may learn to ignore order; how a step differs from its neighbours tells it.
"""

import torch
from torch import Tensor


def weigh_distances(window: int) -> list[float]:
    """Return the weight of the difference between the steps 1, 2, ... `window` away on either side.

    With them the slope is that of the least-squares line through `2 * window + 1` steps: for a window of 1 the central
    difference, `(x[t + 1] - x[t - 1]) / 2`.
    """
    total = 2 * sum(distance**2 for distance in range(1, window + 1))
    return [distance / total for distance in range(1, window + 1)]


def measure_slopes(steps: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Measure the slope of every number at every valid step, within the row's own valid steps.

    The first and the last valid step are repeated beyond the ends, so that the only step of a sequence has the slope 0.

    Args:
        steps: `(B, T, F)`; what stands past a row's length reaches no valid step.
        lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.
        window: how many steps on each side are read, at least 1.

    Returns:
        `(B, T, F)`; what stands past a row's length does not matter.
    """
    last = (lengths - 1).clamp(min=0)[:, None]  # (B, 1)
    time = torch.arange(steps.shape[1], device=steps.device)  # (T,)

    def read(places: Tensor) -> Tensor:
        return steps.gather(1, places[:, :, None].expand_as(steps))

    slopes = torch.zeros_like(steps)
    for distance, weight in enumerate(weigh_distances(window), 1):
        after = read(torch.minimum(time + distance, last))
        before = read(torch.minimum((time - distance).clamp(min=0), last))
        slopes = slopes + weight * (after - before)
    return slopes
