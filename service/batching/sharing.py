"""All that waits and all that runs, of all models, in one owner; and the runners' time, shared out among the models.

Each model is charged what its runs take. The one that was given least goes next, so that all that are busy get the
same time of the runners, however much each has waiting; one that was idle begins level with them and saves nothing up.
Nothing here reads a clock, starts a thread or knows a session: whoever calls says what time it is.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import ceil, inf
from operator import attrgetter

from service.batching.jobs import Forecast, Job, Run
from service.batching.policy import POLICY, Policy
from service.batching.queue import Bounds, Queue
from service.costs.model import CostModel
from service.errors import DeadlineUnreachable, QueueFull

_GIVEN = attrgetter("given")


class Queues:
    """The queue of each model, and the runs under way: `submit`, `withdraw`, `schedule`, `update`, `forecast`."""

    def __init__(self, runners: int, policy: Policy = POLICY) -> None:
        """Begin with nothing waiting and nothing under way.

        Args:
            runners: how many runs may be under way at the same time.
            policy: the numbers that decide what runs next.
        """
        self._runners = runners
        self._policy = policy
        self._running: dict[Run, Queue] = {}
        self._busy: list[Queue] = []  # those with something waiting, and maybe some without
        self._level = 0.0  # what the last one to start a run had been given before it
        self._small_at = -inf  # when a job last came that is not bulk

    @property
    def runners(self) -> int:
        """How many runs may be under way at the same time."""
        return self._runners

    @property
    def running(self) -> int:
        """How many runs are under way."""
        return len(self._running)

    def resize(self, runners: int) -> None:
        """Go on with another number of runners, at least 1."""
        self._runners = runners

    def open(self, costs: CostModel, bounds: Bounds) -> Queue:
        """Return an empty queue for a model whose runs cost so much."""
        return Queue(costs, bounds, self._policy)

    def submit(self, queue: Queue, job: Job, now: float) -> None:
        """Queue every sequence of a job.

        Args:
            queue: the queue of its model.
            job: new to all queues.
            now: the time.

        Raises:
            QueueFull: the queue has no room; nothing was queued.
            DeadlineUnreachable: the job would be late; nothing was queued.
        """
        steps = queue.plan(job, now, self._runners)
        # Bulk goes before bulk only.
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
        """Refuse what any of some queues would refuse however small it is, so that nobody need read it.

        Raises:
            QueueFull: none of them has room for anything.
        """
        full: QueueFull | None = None
        for queue in queues:
            try:
                self._refuse_excess(queue, 1, queue.small_seconds, now)
            except QueueFull as error:
                full = error
            else:
                return
        if full:
            raise full

    def withdraw(self, queue: Queue, job: Job) -> None:
        """See that nothing that waits of a job ever runs."""
        queue.withdraw(job)

    def schedule(self, now: float) -> Iterator[Run]:
        """Start what may start now: a run for each idle runner, then perhaps a short one beside them.

        Each is started as it is asked for, so that a run that is over by then has left its runner to the next.

        Yields:
            Runs, each of one model; each must be given back with `update`.
        """
        while run := self._start_next(now):
            yield run
        if run := self._start_aside(now):
            yield run

    def is_little(self, run: Run) -> bool:
        """Whether a run that was just started is not worth waking a runner for."""
        if run.is_bulk:
            return False
        return run.is_aside or run.expected_seconds + self._sum_small() <= self._policy.little_seconds

    def update(self, run: Run, seconds: float | None) -> None:
        """Give the runner of a run back.

        Args:
            run: a run that `schedule` started.
            seconds: what it took; None if that says nothing of the next one.
        """
        self._running.pop(run).end(run, seconds)

    def forecast(self, queue: Queue, now: float) -> Forecast:
        """Return what waits of a model, and how long it should take until all of it has its runner."""
        seconds = self._predict(self._sum_before(queue, queue.waiting_seconds), now)
        return Forecast(queue.waiting, queue.waiting_steps, seconds)

    def _start_next(self, now: float) -> Run | None:
        """Start the next batch of the model that was given least, if a runner is idle and something waits."""
        idle = self._runners - len(self._running)
        if idle <= 0:
            return None
        for queue in sorted(self._busy, key=_GIVEN):
            level = queue.given
            shared = 1 if idle > 1 and self._sum_small() <= self._policy.little_seconds else idle
            for_bulk = self._count_idle_for_bulk(now, idle) if queue.has_bulk else 0
            if run := queue.start_next(now, shared, for_bulk, is_last=idle == 1):
                self._level = level
                self._running[run] = queue
                return run
            if not queue.waiting:
                self._busy.remove(queue)
        return None

    def _start_aside(self, now: float) -> Run | None:
        """Start a short batch beside the runners if all of them are at bulk work, or at that of other models."""
        if len(self._running) < self._runners:
            return None
        for queue in sorted(self._busy, key=_GIVEN):
            is_kept_out = all(run.is_bulk or owner is not queue for run, owner in self._running.items())
            if is_kept_out and (run := queue.start_aside(now)):
                self._running[run] = queue
                return run
        return None

    def _count_idle_for_bulk(self, now: float, idle: int) -> int:
        """Return how many runs of bulk may be started.

        One runner is left to all else, which need not wait for a run's end; and while that comes, a CPU, too: there is
        one runner more than those, and a thread that wakes up may wait milliseconds for a CPU that others never leave.
        """
        left = 2 if now < self._small_at + self._policy.company_seconds else 1
        return min(idle, max(1, self._runners - left) - sum(run.is_bulk for run in self._running))

    def _sum_small(self) -> float:
        """Return what all that waits and is not bulk should take one runner."""
        return sum([queue.small_seconds for queue in self._busy])

    def _sum_before(self, queue: Queue, seconds: float) -> float:
        """Return what goes before so much work of a model: of each other no more than that, and what it has."""
        return seconds + sum([min(other.waiting_seconds, seconds) for other in self._busy if other is not queue])

    def _predict(self, seconds: float, now: float) -> float:
        """Return when the runners will be through with so much work, shared out as they fall idle."""
        left = seconds
        ends = sorted(max(0.0, run.expected_end - now) for run in self._running)
        ends = [0.0] * (self._runners - len(ends)) + ends
        for working, (end, following) in enumerate(pairwise(ends), 1):
            if left <= working * (following - end):
                return end + left / working
            left -= working * (following - end)
        return ends[-1] + left / self._runners

    def _refuse_excess(self, queue: Queue, steps: int, own_seconds: float, now: float) -> None:
        """Refuse what a queue has no room for: so many steps, after so many seconds of the same model."""
        bounds = queue.bounds
        if queue.waiting_steps + steps > bounds.max_queue_steps:
            seconds = self.forecast(queue, now).seconds
            raise QueueFull(queue.waiting_steps, bounds.max_queue_steps, "steps", seconds)
        before = self._sum_before(queue, own_seconds)
        if before > bounds.max_queue_seconds * self._runners:
            waiting = before / self._runners
            raise QueueFull(waiting, bounds.max_queue_seconds, "seconds", self._predict(before, now))

    def _refuse_late(self, queue: Queue, job: Job, steps: int, now: float) -> None:
        """Refuse a job that what goes before it would make late."""
        factors = queue.costs.factors
        alone = queue.costs.of_batches(max(job.lengths) or 1)[0][1]
        own = max(steps * job.seconds_per_step / self._runners, alone)
        # An idle service trusts its measurements over what it learnt under load: a job refused corrects nothing.
        is_idle = not self._running and not queue.waiting
        own *= min(1.0, factors[False]) if is_idle else factors[True]
        if now + self.forecast(queue, now).seconds + own <= job.deadline:
            return
        seconds = self._predict(self._sum_before(queue, queue.sum_urgent(job)), now) + own
        if now + seconds > job.deadline:
            raise DeadlineUnreachable(ceil(1000 * seconds), max(0, int(1000 * (job.deadline - now))))
