"""Owns all that waits and all that runs, of all models, and shares the runners' time out among the models.

Each model is charged for the time of its runs, and the one that was charged least goes next. So all busy models get the
same time of the runners, however much waits for each. A model that was idle begins level with the others: it saves no
time up. Nothing here reads a clock, starts a thread or knows a session: the caller says what time it is.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import ceil, inf
from operator import attrgetter
from typing import Protocol, TypeAlias

from service.batching.jobs import Forecast, Job, Run
from service.batching.policy import POLICY, Policy
from service.batching.queue import Bounds, Queue
from service.costs.model import CostModel
from service.errors import DeadlineUnreachable, QueueFull

_GIVEN = attrgetter("given")

Waiting: TypeAlias = tuple[int, int, float]  # a queue's place, its steps, and what they should take one runner


class Company(Protocol):
    """The other workers of the service; `Board` is one."""

    def tell(self, now: float, running: int, waiting: Iterable[Waiting], small_at: float) -> None:
        """Tell them how many runs are under way here, what waits in each queue, and when small work last came."""

    def allow(self, runners: int, now: float) -> int:
        """Return how many of so many runners may be at work now, at least 1."""

    def small_elsewhere(self, now: float) -> float:
        """Return when a job that is not bulk last came there."""

    def waiting_elsewhere(self, place: int, now: float) -> tuple[int, float]:
        """Return the steps that wait there in queues of a place, and what these should take one runner."""


class Queues:
    """The queue of each model, and the runs under way: `submit`, `withdraw`, `schedule`, `update`, `forecast`."""

    def __init__(self, runners: int, policy: Policy = POLICY, company: Company | None = None) -> None:
        """Begin with nothing that waits or runs.

        Args:
            runners: the most runs that may be under way at the same time.
            policy: the numbers that decide what runs next.
            company: other workers, which use the same CPUs; None if there are none.
        """
        self._most = self._runners = runners
        self._policy = policy
        self._company = company
        self._running: dict[Run, Queue] = {}
        self._busy: list[Queue] = []  # those that sequences wait for, and maybe others
        self._level = 0.0  # what the last queue to start a run had been given before that run
        self._small_at = -inf  # when the last job that is not bulk came

    @property
    def runners(self) -> int:
        """How many runs may be under way at the same time, while no other worker is busy."""
        return self._most

    @property
    def running(self) -> int:
        """How many runs are under way."""
        return len(self._running)

    def is_alone(self, now: float) -> bool:
        """Whether no other worker is at work."""
        self._look_around(now)
        return self._runners == self._most

    def resize(self, runners: int) -> None:
        """Go on with another number of runners, at least 1."""
        self._most = self._runners = runners

    def open(self, costs: CostModel, bounds: Bounds, place: int = 0) -> Queue:
        """Return an empty queue for a model whose runs cost so much; other workers know it by its place."""
        return Queue(costs, bounds, self._policy, place)

    def submit(self, queue: Queue, job: Job, now: float) -> None:
        """Queue every sequence of a job.

        Args:
            queue: the queue of its model.
            job: a job that was never queued.
            now: the time.

        Raises:
            QueueFull: the queue has no room for the job; nothing was queued.
            DeadlineUnreachable: the job would be late; nothing was queued.
        """
        self._look_around(now)
        steps = queue.plan(job, now, self._runners)
        # A bulk job waits for everything, any other job only for those that are not bulk.
        self._refuse_excess(queue, steps, queue.waiting_seconds if job.is_bulk else queue.small_seconds, now)
        if job.deadline < inf:
            self._refuse_late(queue, job, steps, now)
        queue.add(job, steps)
        if not job.is_bulk:
            self._small_at = now
        if queue not in self._busy:
            queue.catch_up(self._level)
            self._busy.append(queue)

    def require_room(self, queues: Iterable[Queue], now: float) -> None:
        """Refuse a request before its body is read, if every queue it may go to is full.

        Raises:
            QueueFull: none of the queues has room, even for a single step.
        """
        full: QueueFull | None = None
        for queue in queues:
            if not (queue.waiting_steps or self._company):
                return
            try:
                self._refuse_excess(queue, 1, queue.small_seconds, now)
            except QueueFull as error:
                full = error
            else:
                return
        if full:
            raise full

    def withdraw(self, queue: Queue, job: Job) -> None:
        """Let nothing of a job that still waits ever run."""
        queue.withdraw(job)

    def schedule(self, now: float) -> Iterator[Run]:
        """Start all runs that may start now: one for each idle runner, then perhaps a short one beside them.

        Each run is started only when it is asked for: if the one before it is over by then, its runner is idle again.

        Yields:
            Runs, each of one model; each must be given back with `update`.
        """
        self._look_around(now)
        while run := self._start_next(now):
            yield run
        if run := self._start_aside(now):
            yield run
        self._tell(now)

    def is_little(self, run: Run) -> bool:
        """Whether a run that was just started is too short to wake a runner for."""
        if run.is_bulk:
            return False
        return run.is_aside or run.expected_seconds + self._sum_small() <= self._policy.little_seconds

    @property
    def are_little(self) -> bool:
        """Whether all that waits is so little that no runner is woken for it."""
        return sum([queue.waiting_seconds for queue in self._busy]) <= self._policy.little_seconds

    def update(self, run: Run, seconds: float | None) -> None:
        """Count a run as ended, so that its runner is idle.

        Args:
            run: a run that `schedule` started.
            seconds: the time it took; None if that says nothing about the next run.
        """
        self._running.pop(run).end(run, seconds)

    def forecast(self, queue: Queue, now: float) -> Forecast:
        """Return how much waits for a model, and how long it should take until all of it has a runner."""
        self._look_around(now)
        seconds = self._predict(self._sum_before(queue, queue.waiting_seconds), now)
        return Forecast(queue.waiting, queue.waiting_steps, seconds)

    def _look_around(self, now: float) -> None:
        """See how many runners may be at work while others need theirs."""
        if self._company and self._policy.uses_cpus:
            self._runners = self._company.allow(self._most, now)

    def _tell(self, now: float) -> None:
        """Tell other workers what is under way here, and what waits."""
        if self._company:
            waiting = [(queue.place, queue.waiting_steps, queue.waiting_seconds) for queue in self._busy]
            self._company.tell(now, len(self._running), waiting, self._small_at)

    def _start_next(self, now: float) -> Run | None:
        """Start the next batch of the model that was charged least, if a runner is idle and something waits."""
        idle = self._runners - len(self._running)
        if idle <= 0 and self._is_kept_by_bulk():
            idle = 1
        if idle <= 0 or not self._busy:
            return None
        for queue in sorted(self._busy, key=_GIVEN):
            level = queue.given
            shared = 1 if idle > 1 and self._sum_small() <= self._policy.little_seconds else idle
            for_bulk = self._count_idle_for_bulk(now, idle) if queue.has_bulk else 0
            run = queue.start_next(now, shared, for_bulk, is_last=idle == 1)
            if not queue.waiting_steps:
                self._busy.remove(queue)
            if run:
                self._level = level
                self._running[run] = queue
                return run
        return None

    def _start_aside(self, now: float) -> Run | None:
        """Start a short batch beside the runners if all of them are at work on bulk or on other models."""
        if len(self._running) < self._runners or not self._busy:
            return None
        for queue in sorted(self._busy, key=_GIVEN):
            is_kept_out = all(run.is_bulk or owner is not queue for run, owner in self._running.items())
            if is_kept_out and (run := queue.start_aside(now)):
                self._running[run] = queue
                return run
        return None

    def _is_kept_by_bulk(self) -> bool:
        """Whether bulk has all of the runners that this worker may use while others need theirs.

        One more is idle then, which other jobs may have, as they may if there is one worker. Bulk gets no more by it.
        """
        return len(self._running) < self._most and all(run.is_bulk for run in self._running)

    def _count_idle_for_bulk(self, now: float, idle: int) -> int:
        """Return how many runs of bulk may be started.

        One runner is left to other jobs, so that they need not wait for the end of a bulk run. While such jobs come, a
        CPU is left to them as well: there is one runner more than CPUs, and a thread that wakes up may wait for
        milliseconds for a CPU that others never leave. It is the same CPU whichever worker they come to.
        """
        small_at = self._small_at
        if self._company and self._policy.uses_cpus:
            small_at = max(small_at, self._company.small_elsewhere(now))
        left = 2 if now < small_at + self._policy.company_seconds else 1
        return min(idle, max(1, self._runners - left) - sum(run.is_bulk for run in self._running))

    def _sum_small(self) -> float:
        """Return how long one runner should need for all that waits and is not bulk."""
        return sum([queue.small_seconds for queue in self._busy])

    def _sum_before(self, queue: Queue, seconds: float) -> float:
        """Return the seconds of work that go before so much of one model: each other model gets as much at most."""
        return seconds + sum([min(other.waiting_seconds, seconds) for other in self._busy if other is not queue])

    def _predict(self, seconds: float, now: float) -> float:
        """Return in how many seconds the runners will be done with so much work, shared out as they fall idle."""
        left = seconds
        ends = sorted(max(0.0, run.expected_end - now) for run in self._running)
        ends = [0.0] * (self._runners - len(ends)) + ends
        for working, (end, following) in enumerate(pairwise(ends), 1):
            if left <= working * (following - end):
                return end + left / working
            left -= working * (following - end)
        return ends[-1] + left / self._runners

    def _refuse_excess(self, queue: Queue, steps: int, own_seconds: float, now: float) -> None:
        """Refuse so many steps if the queue has no room for them after `own_seconds` of its own model's work."""
        bounds = queue.bounds
        waiting_steps, seconds_there = queue.waiting_steps, 0.0
        if self._company:
            steps_there, seconds_there = self._company.waiting_elsewhere(queue.place, now)
            waiting_steps += steps_there
        if waiting_steps + steps > bounds.max_queue_steps:
            seconds = max(self.forecast(queue, now).seconds, seconds_there / self._most)
            raise QueueFull(waiting_steps, bounds.max_queue_steps, "steps", seconds)
        most = bounds.max_queue_seconds * self._runners
        if own_seconds * (1 + len(self._busy)) > most:  # or it need not be added up: each model goes before as long
            before = self._sum_before(queue, own_seconds)
            if before > most:
                waiting = before / self._runners
                raise QueueFull(waiting, bounds.max_queue_seconds, "seconds", self._predict(before, now))

    def _refuse_late(self, queue: Queue, job: Job, steps: int, now: float) -> None:
        """Refuse a job that would be late because of the work before it."""
        factors = queue.costs.factors
        alone = queue.costs.of_batches(max(job.lengths) or 1)[0][1]
        own = max(steps * job.seconds_per_step / self._runners, alone)
        # An idle service trusts its measurements more than what it learnt under load: a refused job corrects nothing.
        is_idle = not self._running and not queue.waiting
        own *= min(1.0, factors[False]) if is_idle else factors[True]
        if now + self.forecast(queue, now).seconds + own <= job.deadline:
            return
        seconds = self._predict(self._sum_before(queue, queue.sum_urgent(job)), now) + own
        if now + seconds > job.deadline:
            raise DeadlineUnreachable(ceil(1000 * seconds), max(0, int(1000 * (job.deadline - now))))
