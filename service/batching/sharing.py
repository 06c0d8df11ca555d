"""The runners as schedulers see them: so many runs at a time, shared out among the models that have something to run.

Each scheduler is charged what its runs take. The one that was given least goes next, so that all that are busy get the
same time of the runners, however much each has waiting; one that was idle begins level with them and saves nothing up.
"""

from itertools import pairwise
from math import inf
from operator import attrgetter
from typing import Protocol

from service.batching.jobs import Run

_GIVEN = attrgetter("given")

# While all there is to run takes no longer, it is not worth sharing out among runners, nor to wake one for it.
LITTLE_SECONDS = 0.002

# So long after something came that is no bulk, bulk leaves it a CPU as well.
COMPANY_SECONDS = 0.2


class Contender(Protocol):
    """Who wants runs; `Scheduler` is one.

    Attributes:
        given: seconds of the runners it was given, as they count against those of others.
    """

    given: float

    @property
    def waiting(self) -> int:
        """Sequences that wait."""

    @property
    def waiting_seconds(self) -> float:
        """What they should take one runner."""

    @property
    def small_seconds(self) -> float:
        """What of it is no bulk."""

    def next_run(self, now: float) -> Run | None:
        """Start its next batch, if anything still waits."""

    def next_aside(self, now: float, max_seconds: float) -> Run | None:
        """Start a short batch beside the runners, if it has one."""

    def finish(self, run: Run, seconds: float | None) -> None:
        """Take back a run of its own."""


class Slots:
    """Runs under way, and whose turn it is.

    Attributes:
        number: runs that may be under way at the same time.
        running: those that are.
        small_at: when something last came that is no bulk.
    """

    def __init__(self, number: int) -> None:
        """Begin with nothing under way."""
        self.number = number
        self.running: set[Run] = set()
        self.small_at = -inf
        self._contenders: list[Contender] = []  # those with something waiting, and maybe some without
        self._level = 0.0  # what the last one to start a run had been given before it

    @property
    def idle(self) -> int:
        """Runs that may be started."""
        return self.number - len(self.running)

    @property
    def is_last(self) -> bool:
        """Whether the next run would put all runners to work."""
        return self.idle <= 1

    @property
    def small_seconds(self) -> float:
        """What all that waits and is no bulk should take one runner."""
        return sum(one.small_seconds for one in self._contenders)

    def count_idle_for_bulk(self, now: float) -> int:
        """Return how many runs of bulk may be started.

        One runner is left to all else, which need not wait for a run's end; and while that comes, a CPU, too: there is
        one runner more than those, and whoever wakes up may wait milliseconds for a CPU that others never leave.
        """
        left = 2 if now < self.small_at + COMPANY_SECONDS else 1
        return min(self.idle, max(1, self.number - left) - sum(run.is_bulk for run in self.running))

    def enter(self, contender: Contender) -> None:
        """Have someone take part who has something waiting."""
        if contender not in self._contenders:
            contender.given = max(contender.given, self._level)
            self._contenders.append(contender)

    def next_run(self, now: float) -> Run | None:
        """Start the next batch of whoever was given least, if a runner is idle and something waits."""
        if self.idle <= 0:
            return None
        for contender in sorted(self._contenders, key=_GIVEN):
            level = contender.given
            if run := contender.next_run(now):
                self._level = level
                return run
            if not contender.waiting:
                self._contenders.remove(contender)
        return None

    def next_aside(self, now: float, max_seconds: float) -> Run | None:
        """Start a short batch beside the runners, where all are at bulk work, or at that of other models.

        Args:
            now: the time.
            max_seconds: what it may be expected to take.
        """
        if self.idle > 0:
            return None
        for contender in sorted(self._contenders, key=_GIVEN):
            is_kept_out = all(run.is_bulk or run.scheduler is not contender for run in self.running)
            if is_kept_out and (run := contender.next_aside(now, max_seconds)):
                return run
        return None

    def finish(self, run: Run, seconds: float | None) -> None:
        """Give the runner of a run back.

        Args:
            run: as `next_run` returned it.
            seconds: what it took; None where that says nothing of the next one.
        """
        self.running.remove(run)
        run.scheduler.finish(run, seconds)

    def count_before(self, contender: Contender, seconds: float) -> float:
        """Return what goes before so much work of one contender: of each other no more than that, and what it has."""
        return seconds + sum(min(one.waiting_seconds, seconds) for one in self._contenders if one is not contender)

    def predict(self, seconds: float, now: float) -> float:
        """Return when the runners will be through with so much work, shared out as they fall idle."""
        left = seconds
        ends = sorted(max(0.0, run.expected_end - now) for run in self.running)
        ends = [0.0] * (self.number - len(ends)) + ends
        for working, (end, following) in enumerate(pairwise(ends), 1):
            if left <= working * (following - end):
                return end + left / working
            left -= working * (following - end)
        return ends[-1] + left / self.number
