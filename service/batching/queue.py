"""Decides which sequences that wait for a model run together next.

Sequences wait, not requests: a large request fills several batches, and small ones share one. Each lane of the queue is
cut whole: it is sorted by length, and divided so that all its batches together take the least predicted time. The batch
that holds the most urgent sequence runs first. Large jobs have a lane of their own, and become urgent part by part.
"""

from dataclasses import dataclass
from math import inf, log

from service.batching.jobs import CutReason, Entry, Job, Run
from service.batching.lanes import Lane
from service.batching.policy import Policy
from service.costs.model import HANDOFF_SECONDS, CostModel


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of one model may run together, and how much may wait.

    Attributes:
        max_batch_steps: the budget, padded steps in a batch; a longer sequence runs alone.
        max_queue_steps: how many steps may wait.
        max_queue_seconds: how long the runners may be expected to need for what goes before a job.
    """

    max_batch_steps: int
    max_queue_steps: int
    max_queue_seconds: float = inf


class Queue:
    """The sequences that wait for one model. Only `Queues` calls it; to all others it stands for the model.

    Attributes:
        costs: what batches cost; it also says how many rows a batch may have.
        bounds: how much may run together, and how much may wait.
        given: the runners' seconds that the model was given so far; the model with the fewest goes next.
        waiting_steps: how many steps wait, an empty sequence counting as one.
        place: where other workers look for what waits of the same model.
    """

    def __init__(self, costs: CostModel, bounds: Bounds, policy: Policy, place: int = 0) -> None:
        """Make an empty queue."""
        self.costs = costs
        self.place = place
        self.bounds = bounds
        self.given = 0.0
        self.waiting_steps = 0
        self._policy = policy
        self._submitted = 0
        self._jobs: set[Job] = set()  # those with something waiting
        self._small = Lane(costs, bounds.max_batch_steps, policy)
        self._bulk = Lane(costs, bounds.max_batch_steps, policy)

    @property
    def waiting(self) -> int:
        """How many sequences wait."""
        return self._small.waiting + self._bulk.waiting

    @property
    def has_bulk(self) -> bool:
        """Whether bulk waits."""
        return self._bulk.waiting > 0

    @property
    def waiting_seconds(self) -> float:
        """How long one runner should need for all that waits."""
        return self.costs.factors[True] * (self._small.seconds + self._bulk.seconds)

    @property
    def small_seconds(self) -> float:
        """How long one runner should need for all that waits and is not bulk."""
        return self.costs.factors[True] * self._small.seconds

    def plan(self, job: Job, now: float, runners: int) -> int:
        """Predict what a new job costs, and decide how urgent it is; nothing is queued yet.

        Returns:
            Its steps, an empty sequence counting as one.
        """
        steps = [length or 1 for length in job.lengths]
        total = sum(steps)
        seconds = sum(map(self.costs.share, steps))
        job.seconds_per_step = seconds / total
        if job.is_bulk or seconds > self._policy.bulk_seconds:
            job.is_bulk = True
            job.parts = self._plan_parts(job, steps, now, runners)
            job.due = job.parts[0][1]
        else:
            job.due = now + self._soften(job.deadline - now)
        return total

    def add(self, job: Job, steps: int) -> None:
        """Queue every sequence of a job, which was planned and has so many steps."""
        job.waiting, job.waiting_steps = len(job.lengths), steps
        job.first = self._submitted
        self._submitted += job.waiting
        self._jobs.add(job)
        self.waiting_steps += steps
        self._lane_of(job).add(job)

    def withdraw(self, job: Job) -> None:
        """Let nothing of a job that still waits ever run."""
        job.is_withdrawn = True
        if job in self._jobs:
            self._jobs.remove(job)
            self.waiting_steps -= job.waiting_steps
            self._lane_of(job).drop(job.waiting, job.waiting_steps * job.seconds_per_step)
            job.waiting = job.waiting_steps = 0

    def catch_up(self, given: float) -> None:
        """Count at least so many seconds as given: a queue does not save up the time in which it was empty."""
        self.given = max(self.given, given)

    def sum_urgent(self, job: Job) -> float:
        """Return how long one runner should need for all that waits and goes before a planned job."""
        return self.costs.factors[True] * sum(
            other.seconds_per_step * other.waiting_steps
            for other in self._jobs
            if other.due <= job.due and other.is_bulk <= job.is_bulk
        )

    def start_next(self, now: float, idle: int, idle_for_bulk: int, *, is_last: bool) -> Run | None:
        """Start the batch that holds what is due first. A job past its deadline is withdrawn instead.

        Args:
            now: the time.
            idle: how many runners may take what is not bulk, at least 1.
            idle_for_bulk: how many runners may take bulk.
            is_last: whether this run puts the last idle runner to work.

        Returns:
            The run; None if nothing that waits may start.
        """
        small, bulk = self._small, self._bulk
        while small.waiting or (bulk.waiting and idle_for_bulk > 0):
            lane = self._most_urgent(idle, idle_for_bulk)
            if run := self._try_start(lane, idle_for_bulk if lane is bulk else idle, now, is_loaded=is_last):
                return run
        return None

    def start_aside(self, now: float) -> Run | None:
        """Start a short batch that is not bulk beside the runners, all of which are at work; None if there is none."""
        lane = self._small
        while lane.waiting:
            lane.prepare(1)
            if self.costs.factors[True] * lane.top[1] > self._policy.little_seconds:
                return None
            if run := self._try_start(lane, 1, now, is_loaded=True, is_aside=True):
                return run
        return None

    def end(self, run: Run, seconds: float | None) -> None:
        """Learn how long a run took; None if that says nothing about the next one."""
        if seconds:
            self.given += seconds - run.expected_seconds
            self.costs.follow(run.measured_seconds, seconds, is_loaded=run.is_loaded)

    def _lane_of(self, job: Job) -> Lane:
        return self._bulk if job.is_bulk else self._small

    def _soften(self, seconds: float) -> float:
        """Return in how many seconds a job that allows so many is due.

        A job that allows more than the patience of one without a deadline becomes less urgent, but slowly: a small
        request with a deadline of a minute should not have to wait a minute.
        """
        patience = self._policy.patience_seconds
        if seconds == inf:
            return patience
        return seconds if seconds <= patience else patience * (1 + log(seconds / patience))

    def _plan_parts(self, job: Job, steps: list[int], now: float, runners: int) -> list[tuple[int, float]]:
        """Divide a bulk job into parts; each is due once the bulk before it has had its share of the runners."""
        policy = self._policy
        per_second = self.costs.factors[True] / (policy.bulk_share * runners)
        due = now + policy.bulk_patience_seconds + per_second * self._bulk.seconds
        parts: list[tuple[int, float]] = []
        seconds = 0.0
        for place, count in enumerate(steps, 1):
            seconds += count * job.seconds_per_step
            if seconds >= policy.part_seconds or place == len(steps):
                parts.append((place, min(due, job.deadline)))
                due += per_second * seconds
                seconds = 0.0
        return parts

    def _most_urgent(self, idle: int, idle_for_bulk: int) -> Lane:
        """Return the lane that holds what is due first and may start, cut for the runners it may have."""
        small, bulk = self._small, self._bulk
        if not small.waiting:
            bulk.prepare(idle_for_bulk)
            return bulk
        due = small.prepare(idle)
        is_first = not bulk.waiting or idle_for_bulk <= 0 or due <= bulk.prepare(idle_for_bulk)
        return small if is_first else bulk

    def _try_start(self, lane: Lane, idle: int, now: float, *, is_loaded: bool, is_aside: bool = False) -> Run | None:
        """Start the batch on top of a lane; if something in it is late or withdrawn, cut the lane anew instead.

        If others wait, a job that the batch would finish too late counts as late: the run would be for nobody.
        """
        entries, seconds = lane.top
        measured = seconds - HANDOFF_SECONDS
        expected = self.costs.factors[is_loaded] * measured
        in_time = now + expected if self.waiting > len(entries) else now
        is_whole = True
        for entry in entries:
            job = entry.job
            if job.deadline <= in_time:
                self.withdraw(job)
            if job.is_withdrawn:
                is_whole = False
        if not is_whole:
            lane.cut(idle)
            return None
        self._leave(lane, entries)
        self.given += expected
        steps = entries[-1].steps
        why = self._explain(lane, len(entries), steps)
        return Run(entries, steps, now + expected, expected, measured, why, lane is self._bulk, is_loaded, is_aside)

    def _leave(self, lane: Lane, entries: list[Entry]) -> None:
        """Take the batch on top of a lane, which has these entries."""
        valid, seconds = 0, 0.0
        for entry in entries:
            job, steps = entry.job, entry.steps
            valid += steps
            seconds += steps * job.seconds_per_step
            job.waiting_steps -= steps
            job.waiting -= 1
            if not job.waiting:
                self._jobs.remove(job)
        self.waiting_steps -= valid
        lane.take(seconds)

    def _explain(self, lane: Lane, rows: int, steps: int) -> CutReason:
        """Say what kept a batch that was taken from a lane from being larger."""
        if lane.is_shared:
            return "shared"
        if not lane.waiting:
            return "all"
        if rows == self.costs.sizes[-1]:
            return "rows"
        return "budget" if (rows + 1) * steps > self.bounds.max_batch_steps else "cost"
