"""A lane of the queue: jobs that wait, and the batches that the most urgent of them are cut into."""

from heapq import heappop, heappush, heapreplace
from operator import attrgetter
from typing import NamedTuple

from service.batching.cutting import cut_sorted
from service.batching.jobs import Entry, Job
from service.costs.model import CostModel

# Sequences cut at a time, the most urgent: with so many there are mates of nearly equal length for each.
WINDOW = 512

# How far over its fair part of the work a batch may go, where work is shared out among idle runners: smaller batches
# cost more in all, so the even share of the least total is not always within reach.
SLACKS = (1.0, 1.25, 1.6)

# What a batch should take at most, or half as long again as its longest sequence alone: a run cannot be interrupted,
# so that longer ones would leave deadlines and small requests to chance, for a gain of a few percent.
MAX_CUT_SECONDS = 0.25

_STEPS_OF = attrgetter("steps")


class Cut(NamedTuple):
    """A batch that waits: its least `due`, the seconds it should take, and what is in it, shortest first."""

    due: float
    seconds: float
    entries: list[Entry]


class Lane:
    """Jobs that share batches. The lane is cut whole, by length; its most urgent batch is on top.

    Attributes:
        waiting: sequences that wait.
        is_shared: whether the cuts are smaller than they would be for one runner.
        seconds: what these are expected to take one runner, uncorrected.
    """

    def __init__(self, costs: CostModel, max_batch_steps: int) -> None:
        """Make an empty lane.

        Args:
            costs: of batches.
            max_batch_steps: padded steps in a batch; one longer sequence runs alone.
        """
        self.waiting = 0
        self.is_shared = False
        self.seconds = 0.0
        self._costs = costs
        self._max_batch_steps = max_batch_steps
        self._arrived: list[tuple[float, int, Job]] = []  # a heap by urgency, then arrival: not wholly cut yet
        self._cuts: list[Cut] = []  # the most urgent last
        self._in_cuts = 0

    def add(self, job: Job, order: int) -> None:
        """Take a job in that arrived as number `order`."""
        heappush(self._arrived, (job.due, order, job))

    def count(self, sequences: int, seconds: float) -> None:
        """Count sequences that come, or go where it is negative."""
        self.waiting += sequences
        self.seconds = self.seconds + seconds if self.waiting else 0.0

    def prepare(self, idle: int) -> float:
        """See that the batch on top holds what is due first.

        Args:
            idle: runners to share the work out among.

        Returns:
            When it is due.
        """
        if self._must_cut(idle):
            self._cut(idle)
        return self._cuts[-1].due

    @property
    def top_seconds(self) -> float:
        """What the batch on top should take, uncorrected."""
        return self._cuts[-1].seconds

    def take(self) -> Cut:
        """Take the batch on top; `prepare` was called before."""
        cut = self._cuts.pop()
        self._in_cuts -= len(cut.entries)
        return cut

    def put_back(self, cut: Cut, idle: int) -> None:
        """Take a batch in again of which something was withdrawn: what is left may be less urgent than others."""
        self._cuts.append(cut)
        self._cut(idle)

    def _must_cut(self, idle: int) -> bool:
        """Whether the cuts made are used up, overtaken by urgency, outnumbered by arrivals or too few for the idle."""
        if not self._cuts:
            return True
        fresh = min(self.waiting, WINDOW) - self._in_cuts
        if fresh > self._in_cuts or len(self._cuts) < min(idle, self._in_cuts + fresh):
            return True
        return bool(self._arrived) and self._arrived[0][0] < self._cuts[-1].due

    def _cut(self, idle: int) -> None:
        """Cut the most urgent sequences into batches."""
        window = [entry for cut in self._cuts for entry in cut.entries if not entry.job.is_withdrawn]
        room = max(1, WINDOW - len(window))  # the most urgent has a place always
        while self._arrived and room:
            due, order, job = self._arrived[0]
            if not job.is_withdrawn:
                stop, _ = job.part_of(job.cut)
                taken = job.lengths[job.cut : min(stop, job.cut + room)]
                window += [Entry(job, row, length or 1, due) for row, length in enumerate(taken, job.cut)]
                job.cut += len(taken)
                room -= len(taken)
            if job.is_withdrawn or job.cut == len(job.lengths):
                heappop(self._arrived)
            else:
                heapreplace(self._arrived, (job.part_of(job.cut)[1], order, job))
        window.sort(key=_STEPS_OF)
        longest = self._costs.of_batches(window[-1].steps)[0][1] if window else 0.0
        most = max(MAX_CUT_SECONDS, 1.5 * longest)
        if len(window) == 1:
            cuts = unshared = [Cut(window[0].due, longest, window)]
        else:
            cuts = unshared = self._divide(window, most)
            if idle > 1:
                cuts = self._balance(window, cuts, idle, most)
        self.is_shared = cuts is not unshared
        cuts.sort(key=lambda cut: (-cut.due, cut.seconds))  # of equal urgency the longest first: it ends last
        self._cuts = cuts
        self._in_cuts = len(window)

    def _balance(self, window: list[Entry], cuts: list[Cut], idle: int, most: float) -> list[Cut]:
        """Cut smaller where that keeps all idle runners at work and the whole is done earlier."""
        fair = sum(cut.seconds for cut in cuts) / idle
        if all(cut.seconds <= fair for cut in cuts):
            return cuts
        ways = [cuts, *(self._divide(window, min(slack * fair, most)) for slack in SLACKS)]
        return min(ways, key=lambda way: _finish_together(way, idle))

    def _divide(self, window: list[Entry], max_seconds: float) -> list[Cut]:
        steps = [entry.steps for entry in window]
        places = cut_sorted(steps, self._costs, self._max_batch_steps, max_seconds)
        return [
            Cut(min(entry.due for entry in window[start:stop]), seconds, window[start:stop])
            for start, stop, seconds in places
        ]


def _finish_together(cuts: list[Cut], runners: int) -> float:
    """Return the seconds until all is done when the longest batches start first."""
    loads = [0.0] * runners
    for seconds in sorted((cut.seconds for cut in cuts), reverse=True):
        heapreplace(loads, loads[0] + seconds)
    return max(loads)
