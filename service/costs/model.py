"""Predicts what a batch costs on this machine: `t(B, T)`, the seconds one run takes over B rows of T padded steps.

The model is the measurements themselves, with straight lines between them in T and in B. A recurrent run takes a fixed
time, and for each step a time that grows with the rows, so lines fit it. If they do not fit (because of a matrix
kernel's block size, or a cache that overflows), a measurement nearby bends them. The prediction never falls as B or T
grows.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Shape: TypeAlias = tuple[int, int]  # (B, T): rows and padded steps of each

# Batch sizes worth considering: all of 1 to 32 gain 0.5 % over these, and take twice the time to weigh.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
EXACT_STEPS = 64  # a longer T is rounded up by at most 1/32, so that few columns of the table are ever computed
HANDOFF_SECONDS = 1e-4  # what a batch costs beside its run: assembling it, waking a thread, handing rows back
FOLLOW = 0.05  # how far one real run moves the correction, at least
FOLLOW_SECONDS, MOST_FOLLOW = 2.0, 0.3  # a long run moves it by its share of the first, but by no more than the second
FAR = 2**20  # times the most rows measured; no batch is as large
MAX_FACTOR = 10.0  # of a correction; beyond it, the measurements were of something else


class CostModel:
    """Predicts run times from measured ones, and corrects itself by what real runs take.

    Attributes:
        sizes: the batch sizes that `of_batches` returns, ascending, from 1 to the most rows a batch may hold.
        factors: the time of real runs divided by the measured one, by whether all runners were at work; predictions
            are corrected by it.
        error: the usual relative distance of a real run from its prediction, a stall counting as 1.
        runs: how many real runs were followed so far.
    """

    def __init__(self, measured: Mapping[Shape, float], max_rows: int) -> None:
        """Build the model.

        Args:
            measured: seconds by shape; at least one, each over 0.
            max_rows: the most rows a batch may have.
        """
        self.sizes = choose_sizes(max_rows)
        self.factors = {False: 1.0, True: 1.0}
        self.error = 0.0
        self.runs = 0
        self._measured = dict(measured)
        self._rebuild()

    @property
    def measured(self) -> dict[Shape, float]:
        """The measurements, seconds by shape."""
        return dict(self._measured)

    def learn(self, shape: Shape, seconds: float) -> None:
        """Take in one more measurement."""
        self._measured[shape] = seconds
        self._rebuild()

    def predict(self, rows: int, steps: int, *, is_loaded: bool = False) -> float:
        """Return the seconds that a run over `(rows, steps)` is expected to take, with all runners at work or not."""
        return self.factors[is_loaded] * (_interpolate(rows, self.of_batches(steps)) - HANDOFF_SECONDS)

    def of_batches(self, steps: int) -> list[tuple[int, float]]:
        """Return `(B, seconds)` of batches padded to `steps` for each B of `sizes`: hand-over included, uncorrected."""
        if (known := self._costs.get(steps)) is None:
            rounded = _round_up(steps)
            if rounded == steps:
                points = self._at(steps)
                known = [(rows, HANDOFF_SECONDS + _interpolate(rows, points)) for rows in self.sizes]
            else:
                known = self.of_batches(rounded)
            self._costs[steps] = known
        return known

    def share(self, steps: int) -> float:
        """Return the uncorrected seconds that one sequence of `steps` costs in a batch of sequences of its length."""
        if (known := self._shares.get(steps)) is None:
            known = self._shares[steps] = min(seconds / rows for rows, seconds in self.of_batches(steps))
        return known

    def adopt(self, other: "CostModel") -> None:
        """Take over the corrections of another model whose runs cost the same."""
        self.factors = dict(other.factors)

    def follow(self, measured: float, seconds: float, *, is_loaded: bool = False) -> None:
        """Correct the model by a real run of `seconds`, which should take `measured` uncorrected, without hand-over.

        The shape of the table stays, because it decides the cuts. Its height follows, slowly, what runs take. Runs that
        had the CPUs to themselves say nothing about runs under load, so these two are corrected apart.
        """
        expected = self.factors[is_loaded] * measured
        self.runs += 1
        ratio = seconds / expected
        self.error += max(FOLLOW, 1 / self.runs) * (min(1.0, abs(ratio - 1)) - self.error)
        # Twice as slow and twice as fast weigh the same, and one stall moves it by little.
        weight = min(MOST_FOLLOW, max(FOLLOW, expected / FOLLOW_SECONDS))
        moved = self.factors[is_loaded] * max(1 / math.e, min(math.e, ratio)) ** weight
        self.factors[is_loaded] = max(1 / MAX_FACTOR, min(MAX_FACTOR, moved))

    def _rebuild(self) -> None:
        """Order the measurements by rows, then steps; no shape counts as slower than a larger one."""
        least: dict[Shape, float] = {}
        for rows, steps in self._measured:
            larger = [time for (b, t), time in self._measured.items() if b >= rows and t >= steps]
            least[rows, steps] = min(larger)  # a disturbance only ever adds time
        sizes = sorted({rows for rows, _ in least})
        self._table = [(size, sorted((t, time) for (b, t), time in least.items() if b == size)) for size in sizes]
        self._costs: dict[int, list[tuple[int, float]]] = {}
        self._shares: dict[int, float] = {}

    def _at(self, steps: int) -> list[tuple[int, float]]:
        """Return `(B, seconds)` at T = `steps` for each measured B, never falling; beyond them, in proportion to B."""
        points: list[tuple[int, float]] = []
        for size, curve in self._table:
            time = _interpolate(steps, curve)
            points.append((size, max(time, points[-1][1]) if points else time))
        rows, time = points[-1]
        return [(0, 0.0), *points, (FAR * rows, FAR * time)]


def choose_sizes(max_rows: int) -> tuple[int, ...]:
    """Return the batch sizes worth considering, from 1 to `max_rows`."""
    sizes = list(SIZES)
    while sizes[-1] < max_rows:
        sizes.append(sizes[-1] * 3 // 2)
    return (*(rows for rows in sizes if rows < max_rows), max_rows)


def _round_up(steps: int) -> int:
    """Round T up to one of few values."""
    if steps <= EXACT_STEPS:
        return max(1, steps)
    grain = 1 << (steps.bit_length() - 6)
    return -(-steps // grain) * grain


def _interpolate(place: int, points: Sequence[tuple[int, float]]) -> float:
    """Read the line through `(place, time)` points; beyond the ends, its last piece goes on."""
    if len(points) == 1:
        ((only, time),) = points
        return time * max(1.0, place / only)
    right = min(max(1, bisect_left(points, (place, 0.0))), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    time = y0 + (y1 - y0) * (place - x0) / (x1 - x0)
    return time if place >= x0 else max(time, y0 * place / x0)
