"""Which blocks of rows run together next.

A block is padded already, and stays whole. Sorted by length, the blocks that may share a run are divided so that the
predicted time of all runs together is least; the run that holds the most urgent block is the next one.
"""

from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter
from typing import Protocol, TypeVar

MOST_BLOCKS = 128  # that are weighed against each other
PATIENCE_SECONDS = 1.0  # a block is due so long after it came, if not sooner


class Waiting(Protocol):
    """What waits: rows of a graph, padded to as many steps; `Block` is one.

    Attributes:
        rows: how many.
        steps: what they are padded to.
        due: how urgent they are.
        company: rows with the same may share a run.
    """

    rows: int
    steps: int
    due: float
    company: object


Block = TypeVar("Block", bound=Waiting)


def choose(waiting: Sequence[Block], predict: Callable[[int, int], float], budget: int) -> list[Block]:
    """Return the blocks that run next, the most urgent among them, shortest first.

    Args:
        waiting: blocks, at least one.
        predict: the seconds of a run over so many rows of so many steps, of what is most urgent.
        budget: padded steps in a run; a larger block runs alone.
    """
    urgent = min(waiting, key=attrgetter("due"))
    fit = sorted((one for one in waiting if one.company == urgent.company), key=attrgetter("due"))[:MOST_BLOCKS]
    fit.sort(key=attrgetter("steps"))
    least, starts = [0.0], [0]
    for stop, last in enumerate(fit, 1):
        best, first, rows = inf, stop - 1, 0
        for start in range(stop - 1, -1, -1):
            rows += fit[start].rows
            if rows * last.steps > budget and start < stop - 1:
                break
            if (total := least[start] + predict(rows, last.steps)) < best:
                best, first = total, start
        least.append(best)
        starts.append(first)
    stop = len(fit)
    while True:
        start = starts[stop]
        if urgent in fit[start:stop]:
            return fit[start:stop]
        stop = start
