"""Which waiting sequences run together next: pure logic, without threads, clock or session.

Sequences wait, not requests: a large request fills several batches, and small ones share one. The queue is cut whole:
sorted by length, it is divided where the predicted time of all its batches together is least. The batch that holds
the most urgent sequence runs first.
"""

from heapq import heappop, heappush, heapreplace
from itertools import pairwise
from math import ceil, inf
from operator import attrgetter
from typing import NamedTuple

from service.cost import CostModel
from service.cutting import cut_sorted
from service.errors import DeadlineUnreachable, QueueFull
from service.jobs import Entry, Job, Run, Why

# A job without a deadline is as urgent as one that must be done this long after its arrival. So none waits for ever:
# nothing that arrives later than that goes before it.
PATIENCE_SECONDS = 1.0

# Sequences cut at a time, the most urgent: with so many there are mates of nearly equal length for each.
WINDOW = 512

# How far over its fair part of the work a batch may go, where work is shared out among idle runners: smaller batches
# cost more in all, so the even share of the least total is not always within reach.
SLACKS = (1.0, 1.25, 1.6)

_STEPS_OF = attrgetter("steps")


class Cut(NamedTuple):
    """A batch that waits: its least `due`, the seconds it should take, and what is in it, shortest first."""

    due: float
    seconds: float
    entries: list[Entry]


class Scheduler:
    """The queue, the cuts that turn it into batches, and what both are expected to take.

    Attributes:
        costs: what batches cost; finished runs correct it.
        runners: runs that may be under way at the same time.
        waiting: sequences in the queue.
        waiting_steps: their steps, an empty sequence counting as one.
        submitted: jobs queued so far.
    """

    def __init__(self, costs: CostModel, runners: int, max_batch_steps: int, max_queue_steps: int) -> None:
        """Set the bounds.

        Args:
            costs: also says how many rows a batch may have.
            runners: runs that may be under way at the same time.
            max_batch_steps: the budget, padded steps in a batch; one longer sequence runs alone.
            max_queue_steps: steps that may wait.
        """
        self.costs = costs
        self.runners = runners
        self.waiting = 0
        self.waiting_steps = 0
        self._max_batch_steps = max_batch_steps
        self._max_queue_steps = max_queue_steps
        self._waiting_seconds = 0.0  # what is expected of the waiting, uncorrected, on one runner
        self._jobs: set[Job] = set()  # those with something waiting
        self._arrived: list[tuple[float, int, Job]] = []  # a heap by urgency, then arrival: not wholly cut yet
        self._cuts: list[Cut] = []  # the most urgent last
        self._in_cuts = 0
        self._is_shared = False  # whether the cuts are smaller than they would be for one runner
        self._running: set[Run] = set()
        self.submitted = 0

    @property
    def running(self) -> int:
        """Runs under way."""
        return len(self._running)

    @property
    def waiting_seconds(self) -> float:
        """What all that waits should take one runner."""
        return self.costs.factor * self._waiting_seconds

    def submit(self, job: Job, now: float) -> None:
        """Queue every sequence of a job.

        Args:
            job: new to the scheduler.
            now: the time.

        Raises:
            QueueFull: the queue has no room; nothing was queued.
            DeadlineUnreachable: the job would be late; nothing was queued.
        """
        steps = [length or 1 for length in job.lengths]
        total = sum(steps)
        if self.waiting_steps + total > self._max_queue_steps:
            wait = max(1, ceil(self.predict_wait(now)))
            raise QueueFull(self.waiting_steps, self._max_queue_steps, wait)
        seconds = sum(map(self.costs.share, steps))
        job.seconds_per_step = seconds / total
        job.due = now + PATIENCE_SECONDS
        if job.deadline < inf:
            job.due = job.deadline
            self._refuse_late(job, max(seconds / self.runners, self.costs.of_batches(max(steps))[0][1]), now)
        job.waiting = len(steps)
        job.waiting_steps = total
        self.submitted += 1
        heappush(self._arrived, (job.due, self.submitted, job))
        self._jobs.add(job)
        self._count(len(steps), total, seconds)

    def withdraw(self, job: Job) -> None:
        """See that nothing that waits of a job ever runs."""
        job.is_withdrawn = True
        if job in self._jobs:
            self._jobs.remove(job)
            self._count(-job.waiting, -job.waiting_steps, -job.seconds_per_step * job.waiting_steps)
            job.waiting = job.waiting_steps = 0

    def next_run(self, now: float) -> Run | None:
        """Start the next batch, if a runner is idle and something waits.

        It holds the sequence that is due first. What is past its deadline is withdrawn instead.
        """
        idle = self.runners - len(self._running)
        while idle and self.waiting:
            if self._must_cut(idle):
                self._cut(idle)
            cut = self._cuts.pop()
            for entry in cut.entries:
                if entry.job.deadline <= now:
                    self.withdraw(entry.job)
            if not any(entry.job.is_withdrawn for entry in cut.entries):
                return self._start(cut, now)
            self._cuts.append(cut)
            self._cut(idle)  # what is left of it may be less urgent than others
        return None

    def finish(self, run: Run, seconds: float | None) -> None:
        """Give the runner of a run back.

        Args:
            run: as `next_run` returned it.
            seconds: what it took; None where that says nothing of the next one.
        """
        self._running.remove(run)
        if seconds:
            self.costs.follow(len(run.entries), run.steps, seconds)

    def predict_wait(self, now: float) -> float:
        """Return the seconds until all that waits now should have its runner."""
        return self._predict(self.waiting_seconds, now)

    def _predict(self, waiting_seconds: float, now: float) -> float:
        """Return when the runners will be through with so much work, shared out as they fall idle."""
        left = waiting_seconds
        ends = sorted(max(0.0, run.expected_end - now) for run in self._running)
        ends = [0.0] * (self.runners - len(ends)) + ends
        for working, (end, following) in enumerate(pairwise(ends), 1):
            if left <= working * (following - end):
                return end + left / working
            left -= working * (following - end)
        return ends[-1] + left / self.runners

    def _refuse_late(self, job: Job, own_seconds: float, now: float) -> None:
        """Refuse a job that what goes before it would make late."""
        is_idle = not self._running and not self._jobs
        # An idle service trusts its measurements over what it learnt under load: a job refused corrects nothing.
        own_seconds *= min(1.0, self.costs.factor) if is_idle else self.costs.factor
        if now + self.predict_wait(now) + own_seconds <= job.deadline:
            return
        before = sum(other.seconds_per_step * other.waiting_steps for other in self._jobs if other.due <= job.due)
        seconds = self._predict(self.costs.factor * before, now) + own_seconds
        if now + seconds > job.deadline:
            raise DeadlineUnreachable(ceil(1000 * seconds), max(0, int(1000 * (job.deadline - now))))

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
            job = self._arrived[0][2]
            if not job.is_withdrawn:
                taken = job.lengths[job.cut : job.cut + room]
                window += [Entry(job, row, length or 1) for row, length in enumerate(taken, job.cut)]
                job.cut += len(taken)
                room -= len(taken)
            if job.is_withdrawn or job.cut == len(job.lengths):
                heappop(self._arrived)
        window.sort(key=_STEPS_OF)
        cuts = self._divide(window, inf)
        unshared = cuts
        if idle > 1 and len(window) > 1:
            cuts = self._balance(window, cuts, idle)
        self._is_shared = cuts is not unshared
        cuts.sort(key=lambda cut: (-cut.due, cut.seconds))  # of equal urgency the longest first: it ends last
        self._cuts = cuts
        self._in_cuts = len(window)

    def _balance(self, window: list[Entry], cuts: list[Cut], idle: int) -> list[Cut]:
        """Cut smaller where that keeps all idle runners at work and the whole is done earlier."""
        fair = sum(cut.seconds for cut in cuts) / idle
        if all(cut.seconds <= fair for cut in cuts):
            return cuts
        ways = [cuts, *(self._divide(window, slack * fair) for slack in SLACKS)]
        return min(ways, key=lambda way: _finish_together(way, idle))

    def _divide(self, window: list[Entry], max_seconds: float) -> list[Cut]:
        steps = [entry.steps for entry in window]
        places = cut_sorted(steps, self.costs, self._max_batch_steps, max_seconds)
        return [
            Cut(min(entry.job.due for entry in window[start:stop]), seconds, window[start:stop])
            for start, stop, seconds in places
        ]

    def _start(self, cut: Cut, now: float) -> Run:
        entries, steps = cut.entries, cut.entries[-1].steps
        seconds, valid = 0.0, 0
        for entry in entries:
            job = entry.job
            valid += entry.steps
            seconds += entry.steps * job.seconds_per_step
            job.waiting_steps -= entry.steps
            job.waiting -= 1
            if not job.waiting:
                self._jobs.remove(job)
        self._count(-len(entries), -valid, -seconds)
        self._in_cuts -= len(entries)
        expected = self.costs.predict(len(entries), steps)
        run = Run(entries, steps, now + expected, expected, self._explain(len(entries), steps))
        self._running.add(run)
        return run

    def _explain(self, rows: int, steps: int) -> Why:
        """Say why a batch that was taken from the queue is no larger."""
        if self._is_shared:
            return "shared"
        if not self.waiting:
            return "all"
        if rows == self.costs.sizes[-1]:
            return "rows"
        return "budget" if (rows + 1) * steps > self._max_batch_steps else "cost"

    def _count(self, sequences: int, steps: int, seconds: float) -> None:
        self.waiting += sequences
        self.waiting_steps += steps
        self._waiting_seconds = self._waiting_seconds + seconds if self.waiting else 0.0


def _finish_together(cuts: list[Cut], runners: int) -> float:
    """Return the seconds until all is done when the longest batches start first."""
    loads = [0.0] * runners
    for seconds in sorted((cut.seconds for cut in cuts), reverse=True):
        heapreplace(loads, loads[0] + seconds)
    return max(loads)
