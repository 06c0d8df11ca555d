"""Where to cut a queue that is sorted by length, so that its batches take the least time together."""

from collections.abc import Iterator, Sequence
from math import inf

from service.costs.model import CostModel


def cut_sorted(
    steps: Sequence[int], costs: CostModel, max_batch_steps: int, max_seconds: float = inf
) -> Iterator[tuple[int, int, float]]:
    """Cut sorted sequences into batches of neighbours.

    From the shortest sequence up, every size of the last batch is weighed after the best cuts of what comes before it:
    `least[n]` is the least time for the first n. The last sequence of a batch decides what the others are padded to,
    and so what the batch costs. That settles how many rows a batch has, and how much padding is worth it.

    Args:
        steps: lengths in ascending order, each at least 1.
        costs: what batches cost.
        max_batch_steps: padded steps in a batch; a longer sequence stands alone.
        max_seconds: the most that one batch should take; a sequence that takes more stands alone.

    Yields:
        Batches, from the longest down: the first place, the place after the last, and the seconds it should take.
    """
    most_rows = costs.sizes[-1]
    least, rows_of_last = [0.0], [0]
    length = 0
    choices: Sequence[tuple[int, float]] = ()
    for place, longest in enumerate(steps, 1):
        if longest != length:
            length = longest
            choices = costs.of_batches(length)
            if most_rows * length > max_batch_steps or choices[-1][1] > max_seconds:
                fits = max_batch_steps // length
                choices = [
                    (1, choices[0][1]),
                    *(one for one in choices[1:] if one[0] <= fits and one[1] <= max_seconds),
                ]
        before = least[place - most_rows] if place > most_rows else 0.0
        total, best = inf, 1
        for rows, seconds in choices:
            # A larger batch costs more, and the fewer sequences before it cost hardly less than `before`.
            if rows > place or before + seconds >= total:
                break
            if (candidate := least[place - rows] + seconds) < total:
                total, best = candidate, rows
        least.append(total)
        rows_of_last.append(best)
    stop = len(steps)
    while stop:
        start = stop - rows_of_last[stop]
        yield start, stop, least[stop] - least[start]
        stop = start
