"""A lane of the queue: the jobs that wait in it, and the batches that the most urgent of them are cut into."""

from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from operator import attrgetter

from service.batching.cutting import cut_sorted
from service.batching.jobs import Entry, Job
from service.batching.policy import Policy
from service.costs.model import CostModel

_STEPS_OF, _DUE_OF, _SECONDS_OF = attrgetter("steps"), attrgetter("due"), attrgetter("seconds")


@dataclass(slots=True, eq=False)
class _Cut:
    """A batch that waits: its least `due`, the seconds it should take, and its entries, shortest first.

    It never changes.
    """

    due: float
    seconds: float
    entries: list[Entry]


class Lane:
    """Jobs that share batches. The lane is cut whole, by length; its most urgent batch is on top.

    Attributes:
        waiting: how many sequences wait.
        is_shared: whether the cuts are smaller than they would be for one runner.
        seconds: how long the waiting sequences are expected to take one runner, uncorrected.
    """

    def __init__(self, costs: CostModel, max_batch_steps: int, policy: Policy) -> None:
        """Make an empty lane.

        Args:
            costs: what batches cost.
            max_batch_steps: padded steps in a batch; a longer sequence runs alone.
            policy: the numbers that say how many sequences are cut at a time, and how long a batch may take.
        """
        self.waiting = 0
        self.is_shared = False
        self.seconds = 0.0
        self._costs = costs
        self._max_batch_steps = max_batch_steps
        self._policy = policy
        self._arrived: list[tuple[float, int, Job]] = []  # a heap by urgency, then arrival, of those not wholly cut yet
        self._cuts: list[_Cut] = []  # the most urgent last
        self._in_cuts = 0

    def add(self, job: Job) -> None:
        """Take in a job, all of which waits."""
        heappush(self._arrived, (job.due, job.first, job))
        self.waiting += job.waiting
        self.seconds += job.waiting_steps * job.seconds_per_step

    def drop(self, sequences: int, seconds: float) -> None:
        """Count sequences as waiting no longer."""
        self.waiting -= sequences
        self.seconds = self.seconds - seconds if self.waiting else 0.0

    def prepare(self, idle: int) -> float:
        """Make sure that the batch on top holds the sequence that is due first.

        Args:
            idle: runners to share the work out among.

        Returns:
            When that batch is due.
        """
        if self._must_cut(idle):
            self.cut(idle)
        return self._cuts[-1].due

    @property
    def top(self) -> tuple[list[Entry], float]:
        """The batch on top, shortest first, and the seconds it should take; `prepare` must have been called."""
        cut = self._cuts[-1]
        return cut.entries, cut.seconds

    def take(self, seconds: float) -> None:
        """Remove the batch on top, whose sequences were expected to take one runner so long."""
        taken = len(self._cuts.pop().entries)
        self._in_cuts -= taken
        self.drop(taken, seconds)

    def cut(self, idle: int) -> None:
        """Cut the most urgent sequences into batches anew, those of earlier cuts included."""
        window = [entry for cut in self._cuts for entry in cut.entries if not entry.job.is_withdrawn]
        room = max(1, self._policy.window - len(window))  # the most urgent always has a place
        arrived = self._arrived
        while arrived and room:
            due, order, job = arrived[0]
            lengths, first = job.lengths, job.cut
            if not job.is_withdrawn:
                stop = min(first + room, job.part_of(first)[0] if job.parts else len(lengths))
                window += [Entry(job, row, lengths[row] or 1, due) for row in range(first, stop)]
                job.cut = stop
                room -= stop - first
            if job.is_withdrawn or job.cut == len(lengths):
                heappop(arrived)
            else:
                heapreplace(arrived, (job.part_of(job.cut)[1], order, job))
        self._in_cuts = len(window)
        if len(window) > 1:
            self._cuts, self.is_shared = self._cut_window(window, idle)
        else:
            self._cuts = [_Cut(entry.due, self._costs.of_batches(entry.steps)[0][1], window) for entry in window]
            self.is_shared = False

    def _cut_window(self, window: list[Entry], idle: int) -> tuple[list[_Cut], bool]:
        """Cut several sequences; return the batches, and whether they are smaller than they would be for one runner."""
        window.sort(key=_STEPS_OF)
        longest = self._costs.of_batches(window[-1].steps)[0][1]
        most = max(self._policy.max_cut_seconds, self._policy.max_cut_stretch * longest)
        cuts = unshared = self._divide(window, most)
        if idle > 1:
            cuts = self._balance(window, cuts, idle, most)
        cuts.sort(key=_SECONDS_OF)  # of equal urgency the longest runs first: it ends last
        cuts.sort(key=_DUE_OF, reverse=True)
        return cuts, cuts is not unshared

    def _must_cut(self, idle: int) -> bool:
        """Whether the cuts made are used up, overtaken by urgency, outnumbered by arrivals or too few for the idle."""
        if not self._cuts:
            return True
        fresh = min(self.waiting, self._policy.window) - self._in_cuts
        if fresh > self._in_cuts or len(self._cuts) < min(idle, self._in_cuts + fresh):
            return True
        return bool(self._arrived) and self._arrived[0][0] < self._cuts[-1].due

    def _balance(self, window: list[Entry], cuts: list[_Cut], idle: int, most: float) -> list[_Cut]:
        """Cut smaller if that keeps all idle runners at work and the whole is done earlier."""
        fair = sum(cut.seconds for cut in cuts) / idle
        if all(cut.seconds <= fair for cut in cuts):
            return cuts
        ways = [cuts, *(self._divide(window, min(slack * fair, most)) for slack in self._policy.slacks)]
        return min(ways, key=lambda way: _finish_together(way, idle))

    def _divide(self, window: list[Entry], max_seconds: float) -> list[_Cut]:
        steps = [entry.steps for entry in window]
        places = cut_sorted(steps, self._costs, self._max_batch_steps, max_seconds)
        return [
            _Cut(min(entry.due for entry in window[start:stop]), seconds, window[start:stop])
            for start, stop, seconds in places
        ]


def _finish_together(cuts: list[_Cut], runners: int) -> float:
    """Return the seconds until all is done when the longest batches start first."""
    loads = [0.0] * runners
    for seconds in sorted((cut.seconds for cut in cuts), reverse=True):
        heapreplace(loads, loads[0] + seconds)
    return max(loads)
