"""Which waiting sequences of a model run together next: pure logic, without threads, clock or session.

Sequences wait, not requests: a large request fills several batches, and small ones share one. Each lane of the queue is
cut whole: sorted by length, it is divided where the predicted time of all its batches together is least. The batch that
holds the most urgent sequence runs first. Large jobs have a lane of their own, and become urgent part by part.
"""

from math import ceil, inf, log

from service.batching.jobs import Job, Run, Why
from service.batching.lanes import Cut, Lane
from service.batching.sharing import LITTLE_SECONDS, Slots
from service.costs.model import HANDOFF_SECONDS, CostModel
from service.errors import DeadlineUnreachable, QueueFull

# A job without a deadline is as urgent as one that must be done this long after its arrival. So none waits for ever:
# nothing that arrives later than that goes before it.
PATIENCE_SECONDS = 1.0

# A job that should take one runner longer than this is bulk. It gives way to others for so long, and from then on it
# is due, in parts of so many seconds, at such a pace that all bulk together is sure of this share of the runners; what
# is idle, it has besides.
BULK_SECONDS = 0.05
PART_SECONDS = 0.02
BULK_PATIENCE_SECONDS = 10.0
BULK_SHARE = 0.25


class Scheduler:
    """The queue of a model, the cuts that turn it into batches, and what both are expected to take.

    Attributes:
        costs: what batches cost; finished runs correct it.
        given: seconds of the runners it was given, as `Slots` counts them.
        waiting_steps: steps in the queue, an empty sequence counting as one.
        submitted: jobs queued so far.
    """

    def __init__(
        self,
        costs: CostModel,
        slots: Slots,
        max_batch_steps: int,
        max_queue_steps: int,
        max_queue_seconds: float = inf,
    ) -> None:
        """Set the bounds.

        Args:
            costs: also says how many rows a batch may have.
            slots: runs that may be under way, shared with other models.
            max_batch_steps: the budget, padded steps in a batch; one longer sequence runs alone.
            max_queue_steps: steps that may wait.
            max_queue_seconds: what goes before a job may be expected to take the runners so long.
        """
        self.costs = costs
        self.given = 0.0
        self._slots = slots
        self.waiting_steps = 0
        self.submitted = 0
        self._max_batch_steps = max_batch_steps
        self._max_queue_steps = max_queue_steps
        self._max_queue_seconds = max_queue_seconds
        self._jobs: set[Job] = set()  # those with something waiting
        self._small, self._bulk = Lane(costs, max_batch_steps), Lane(costs, max_batch_steps)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return self._small.waiting + self._bulk.waiting

    @property
    def waiting_seconds(self) -> float:
        """What all that waits should take one runner."""
        return self.costs.factors[True] * (self._small.seconds + self._bulk.seconds)

    @property
    def small_seconds(self) -> float:
        """What of it is no bulk."""
        return self.costs.factors[True] * self._small.seconds

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
        seconds = sum(map(self.costs.share, steps))
        job.is_bulk = job.is_bulk or seconds > BULK_SECONDS
        job.seconds_per_step = seconds / total
        self._refuse_excess(total, self._seconds_before(job), now)
        job.due = now + _soften(job.deadline - now)
        if job.is_bulk:
            job.parts = self._plan_parts(job, steps, now)
            job.due = job.parts[0][1]
        if job.deadline < inf:
            self._refuse_late(job, max(seconds / self._slots.number, self.costs.of_batches(max(steps))[0][1]), now)
        job.waiting = len(steps)
        job.waiting_steps = total
        self.submitted += 1
        if not job.is_bulk:
            self._slots.small_at = now
        self._lane_of(job).add(job, self.submitted)
        self._jobs.add(job)
        self._count(job, len(steps), total)
        self._slots.enter(self)

    def require_room(self, now: float) -> None:
        """Refuse what would be refused however small it is, so that nobody need read it.

        Raises:
            QueueFull: the queue has no room for anything.
        """
        self._refuse_excess(1, self._slots.count_before(self, self.small_seconds), now)

    def withdraw(self, job: Job) -> None:
        """See that nothing that waits of a job ever runs."""
        job.is_withdrawn = True
        if job in self._jobs:
            self._jobs.remove(job)
            self._count(job, -job.waiting, -job.waiting_steps)
            job.waiting = job.waiting_steps = 0

    def next_run(self, now: float) -> Run | None:
        """Start the next batch, if a runner is idle and something waits.

        It holds the sequence that is due first. What is past its deadline is withdrawn instead.
        """
        idle = self._slots.idle
        idle_for_bulk = self._slots.count_idle_for_bulk(now) if self._bulk.waiting else 0
        if self._slots.small_seconds <= LITTLE_SECONDS:
            idle = min(idle, 1)
        while idle > 0 and (self._small.waiting or (self._bulk.waiting and idle_for_bulk > 0)):
            lane = self._most_urgent(idle, idle_for_bulk)
            if run := self._try_start(lane, idle_for_bulk if lane is self._bulk else idle, now):
                return run
        return None

    def next_aside(self, now: float, max_seconds: float) -> Run | None:
        """Start a batch that is not bulk, if one should take no longer than so many seconds."""
        lane = self._small
        while lane.waiting:
            lane.prepare(1)
            if self.costs.factors[True] * lane.top_seconds > max_seconds:
                return None
            if run := self._try_start(lane, 1, now):
                return run
        return None

    def finish(self, run: Run, seconds: float | None) -> None:
        """Learn what a run took; None where that says nothing of the next one."""
        if seconds:
            self.given += seconds - run.expected_seconds
            self.costs.follow(run.measured_seconds, seconds, is_loaded=run.is_loaded)

    def predict_wait(self, now: float) -> float:
        """Return the seconds until all that waits now should have its runner."""
        return self._slots.predict(self._slots.count_before(self, self.waiting_seconds), now)

    def _refuse_excess(self, steps: int, before: float, now: float) -> None:
        """Refuse what the queue has no room for, in steps or in seconds."""
        if self.waiting_steps + steps > self._max_queue_steps:
            raise QueueFull(self.waiting_steps, self._max_queue_steps, "steps", self.predict_wait(now))
        if before > self._max_queue_seconds * self._slots.number:
            waiting = before / self._slots.number
            raise QueueFull(waiting, self._max_queue_seconds, "seconds", self._slots.predict(before, now))

    def _seconds_before(self, job: Job) -> float:
        """Return what goes before a new job should take one runner: bulk goes before bulk only."""
        own = self.waiting_seconds if job.is_bulk else self.small_seconds
        return self._slots.count_before(self, own)

    def _refuse_late(self, job: Job, own_seconds: float, now: float) -> None:
        """Refuse a job that what goes before it would make late."""
        is_idle = not self._slots.running and not self._jobs
        # An idle service trusts its measurements over what it learnt under load: a job refused corrects nothing.
        own_seconds *= min(1.0, self.costs.factors[False]) if is_idle else self.costs.factors[True]
        if now + self.predict_wait(now) + own_seconds <= job.deadline:
            return
        before = sum(
            other.seconds_per_step * other.waiting_steps
            for other in self._jobs
            if other.due <= job.due and other.is_bulk <= job.is_bulk
        )
        seconds = (
            self._slots.predict(self._slots.count_before(self, self.costs.factors[True] * before), now) + own_seconds
        )
        if now + seconds > job.deadline:
            raise DeadlineUnreachable(ceil(1000 * seconds), max(0, int(1000 * (job.deadline - now))))

    def _plan_parts(self, job: Job, steps: list[int], now: float) -> list[tuple[int, float]]:
        """Divide a bulk job, and say when each part is due: once the bulk before it had its share of the runners."""
        per_second = self.costs.factors[True] / (BULK_SHARE * self._slots.number)
        due = now + BULK_PATIENCE_SECONDS + per_second * self._bulk.seconds
        parts: list[tuple[int, float]] = []
        seconds = 0.0
        for place, count in enumerate(steps, 1):
            seconds += count * job.seconds_per_step
            if seconds >= PART_SECONDS or place == len(steps):
                parts.append((place, min(due, job.deadline)))
                due += per_second * seconds
                seconds = 0.0
        return parts

    def _most_urgent(self, idle: int, idle_for_bulk: int) -> Lane:
        """Return the lane that holds what is due first and may be started, cut for the runners it may have."""
        small, bulk = self._small, self._bulk
        if not small.waiting:
            bulk.prepare(idle_for_bulk)
            return bulk
        due = small.prepare(idle)
        is_first = not bulk.waiting or idle_for_bulk <= 0 or due <= bulk.prepare(idle_for_bulk)
        return small if is_first else bulk

    def _try_start(self, lane: Lane, idle: int, now: float) -> Run | None:
        """Start the batch on top of a lane, unless something of it is late or withdrawn; then cut anew.

        Where others wait, it counts as late what should be by the batch's end: the run would be for nobody.
        """
        cut = lane.take()
        in_time = now
        if self.waiting > len(cut.entries):
            in_time += self.costs.factors[self._slots.is_last] * (cut.seconds - HANDOFF_SECONDS)
        for entry in cut.entries:
            if entry.job.deadline <= in_time:
                self.withdraw(entry.job)
        if any(entry.job.is_withdrawn for entry in cut.entries):
            lane.put_back(cut, idle)
            return None
        return self._start(lane, cut, now)

    def _start(self, lane: Lane, cut: Cut, now: float) -> Run:
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
        self.waiting_steps -= valid
        lane.count(-len(entries), -seconds)
        is_loaded = self._slots.is_last
        measured = cut.seconds - HANDOFF_SECONDS
        expected = self.costs.factors[is_loaded] * measured
        why = self._explain(lane, len(entries), steps)
        run = Run(entries, steps, now + expected, expected, measured, why, self, lane is self._bulk, is_loaded)
        self.given += expected
        self._slots.running.add(run)
        return run

    def _explain(self, lane: Lane, rows: int, steps: int) -> Why:
        """Say why a batch that was taken from a lane is no larger."""
        if lane.is_shared:
            return "shared"
        if not lane.waiting:
            return "all"
        if rows == self.costs.sizes[-1]:
            return "rows"
        return "budget" if (rows + 1) * steps > self._max_batch_steps else "cost"

    def _lane_of(self, job: Job) -> Lane:
        return self._bulk if job.is_bulk else self._small

    def _count(self, job: Job, sequences: int, steps: int) -> None:
        self.waiting_steps += steps
        self._lane_of(job).count(sequences, steps * job.seconds_per_step)


def _soften(seconds: float) -> float:
    """Return in how many seconds a job is due that allows so many.

    Beyond the patience of those that allow any time, more time makes it ever less urgent, but slowly: a minute's
    deadline may not cost a small request a minute's wait.
    """
    if seconds == inf:
        return PATIENCE_SECONDS
    return seconds if seconds <= PATIENCE_SECONDS else PATIENCE_SECONDS * (1 + log(seconds / PATIENCE_SECONDS))
