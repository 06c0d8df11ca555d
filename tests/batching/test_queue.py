"""The queue's promises, over any arrivals on a made clock: nothing lost, doubled, late, starved or over budget."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.jobs import Forecast, Job, Run
from service.batching.policy import POLICY, Policy
from service.batching.queue import Bounds
from service.batching.sharing import Queues
from service.costs.model import CostModel
from service.errors import DeadlineUnreachable, QueueFull

JOBS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=1, max_size=6)


def make_costs(rows: int = 4, row_step: float = 1e-5) -> CostModel:
    """Make a model of runs that take 1 ms, and `row_step` for each padded step."""
    shapes = [(b, t) for b in (1, rows) for t in (1, 1000)]
    return CostModel({(b, t): 1e-3 + row_step * b * t for b, t in shapes}, rows)


class OneQueue:
    """The queues of a process that serves one model, and the verbs of them."""

    def __init__(self, costs: CostModel, bounds: Bounds, runners: int = 1, policy: Policy = POLICY) -> None:
        self.costs = costs
        self._queues = Queues(runners, policy)
        self._queue = self._queues.open(costs, bounds)

    def submit(self, job: Job, now: float) -> None:
        """Submit a job."""
        self._queues.submit(self._queue, job, now)

    def require_room(self, now: float) -> None:
        """Refuse what would be refused whatever it is."""
        self._queues.require_room([self._queue], now)

    def withdraw(self, job: Job) -> None:
        """Withdraw a job."""
        self._queues.withdraw(self._queue, job)

    def start(self, now: float) -> Run | None:
        """Start one run of those that may start."""
        return next(self._queues.schedule(now), None)

    def update(self, run: Run, seconds: float | None) -> None:
        """Give the runner of a run back."""
        self._queues.update(run, seconds)

    def forecast(self, now: float) -> Forecast:
        """Tell what waits, and for how long."""
        return self._queues.forecast(self._queue, now)

    @property
    def running(self) -> int:
        """Runs under way."""
        return self._queues.running

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return self.forecast(0.0).sequences

    @property
    def waiting_steps(self) -> int:
        """Steps that wait."""
        return self.forecast(0.0).steps


def make_queue(
    rows: int = 4, steps: int = 64, queue: int = 10_000, runners: int = 1, queue_seconds: float = inf
) -> OneQueue:
    """Make a queue with small bounds."""
    return OneQueue(make_costs(rows), Bounds(steps, queue, queue_seconds), runners)


def lengths_of(run: Run) -> list[int]:
    """Return the lengths in a run."""
    return [entry.job.lengths[entry.row] for entry in run.entries]


def drain(queue: OneQueue, now: float = 0.0) -> Iterator[Run]:
    """Run what waits, one run after the other."""
    while run := queue.start(now):
        queue.update(run, None)
        yield run


class Simulation:
    """Jobs that come and go, and runners that take as long as they should; each start is held to the promises."""

    def __init__(self, queue: OneQueue) -> None:
        self.queue = queue
        self.now = 0.0
        self.waiting: set[tuple[Job, int]] = set()
        self.started: list[tuple[Job, int]] = []
        self._ends: list[tuple[float, Run]] = []

    def submit(self, lengths: list[int], allowed: float = inf) -> Job | None:
        """Submit a job now; None if it is refused."""
        job = Job(lengths, self.now + allowed)
        try:
            self.queue.submit(job, self.now)
        except DeadlineUnreachable:
            return None
        self.waiting |= {(job, row) for row in range(len(lengths))}
        return job

    def withdraw(self, job: Job) -> None:
        """Withdraw a job now."""
        self.queue.withdraw(job)
        self.waiting = {(other, row) for other, row in self.waiting if other is not job}

    def advance(self, until: float = inf) -> None:
        """Start and finish runs until a time, or until nothing is left to do."""
        while True:
            while run := self.queue.start(self.now):
                self._check(run)
                self._ends.append((run.expected_end, run))
            if not self._ends or min(self._ends, key=lambda pair: pair[0])[0] > until:
                break
            end, run = min(self._ends, key=lambda pair: pair[0])
            self._ends.remove((end, run))
            self.now = end
            self.queue.update(run, None)
        self.now = self.now if until == inf else until

    def _check(self, run: Run) -> None:
        """Only what waits and is not late runs, and what is due first is in the run; aside, what is not bulk."""
        self.waiting = {(job, row) for job, row in self.waiting if job.deadline > self.now}
        given_up = {(job, row) for job, row in self.waiting if job.is_withdrawn}  # for its run would end too late
        longest = self.queue.costs.predict(8, 1000)
        assert all(job.deadline <= self.now + longest for job, _ in given_up)
        self.waiting -= given_up
        taken = {(entry.job, entry.row) for entry in run.entries}
        assert len(taken) == len(run.entries)
        assert taken <= self.waiting
        due_first = min(job.part_of(row)[1] for job, row in self.waiting if not run.is_aside or not job.is_bulk)
        assert min(job.part_of(row)[1] for job, row in taken) == due_first
        self.waiting -= taken
        self.started += taken


@given(jobs=JOBS, rows=st.integers(1, 9), steps=st.integers(1, 100), runners=st.integers(1, 3))
def test_every_sequence_runs_once_and_within_budget(jobs: list[list[int]], rows: int, steps: int, runners: int) -> None:
    """Runs cover each row of each job exactly once; none exceeds rows or padded steps, but a lone long one."""
    queue = make_queue(rows, steps, runners=runners)
    made = [Job(lengths) for lengths in jobs]
    for job in made:
        queue.submit(job, 0.0)
    assert queue.waiting == sum(map(len, jobs))
    assert queue.waiting_steps == sum(max(1, length) for lengths in jobs for length in lengths)
    seen = []
    for run in drain(queue):
        lengths = lengths_of(run)
        assert len(lengths) <= rows
        assert run.steps == max(1, *lengths, 1)
        assert len(lengths) * run.steps <= steps or len(lengths) == 1
        seen += [(made.index(entry.job), entry.row) for entry in run.entries]
    assert sorted(seen) == [(place, row) for place, lengths in enumerate(jobs) for row in range(len(lengths))]
    assert (queue.waiting, queue.waiting_steps, queue.running) == (0, 0, 0)
    assert queue.forecast(0.0).seconds == 0


ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 0.02),  # seconds since the one before
        st.lists(st.integers(0, 200), min_size=1, max_size=40),
        st.one_of(st.just(inf), st.floats(0.001, 5)),  # seconds it allows
        st.integers(0, 3),  # 0: it is withdrawn as the next one comes
    ),
    min_size=1,
    max_size=25,
)


@given(arrivals=ARRIVALS, runners=st.integers(1, 3))
def test_what_is_due_first_runs_first_whatever_comes_and_goes(
    arrivals: list[tuple[float, list[int], float, int]], runners: int
) -> None:
    """Each run holds what is due first of all that waits, nothing late or withdrawn runs, and all else does."""
    simulation = Simulation(make_queue(rows=8, steps=1000, queue=10**6, runners=runners))
    kept: list[Job] = []
    leaves: Job | None = None
    for gap, lengths, allowed, stays in arrivals:
        simulation.advance(simulation.now + gap)
        if leaves:
            simulation.withdraw(leaves)
        job = simulation.submit(lengths, allowed)
        leaves = None if stays else job
        if job and stays and allowed == inf:
            kept.append(job)
    simulation.advance()
    assert {(job, row) for job in kept for row in range(len(job.lengths))} <= set(simulation.started)
    assert len(set(simulation.started)) == len(simulation.started)
    assert (simulation.queue.waiting, simulation.queue.waiting_steps) == (0, 0)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), length=st.integers(1, 30))
def test_nothing_is_passed_over_by_what_arrives_a_patience_later(lengths: list[int], length: int) -> None:
    """However much keeps arriving, a sequence starts before all that comes the patience after it."""
    queue = make_queue(rows=4, steps=10**4, queue=10**6)
    old = Job([length])
    queue.submit(old, 0.0)
    for number in range(20):
        urgent = Job(lengths, deadline=POLICY.patience_seconds + 0.1 + number)  # due later, whatever it allows
        queue.submit(urgent, 0.0)
    queue.submit(Job([length]), POLICY.patience_seconds)
    run = queue.start(0.0)
    assert run is not None
    assert old in {entry.job for entry in run.entries}


def test_a_deadline_overtakes_what_has_none() -> None:
    """A request that allows 50 ms runs before others that came first and said nothing."""
    queue = make_queue(rows=1)
    for length in (3, 4, 5):
        queue.submit(Job([length]), 0.0)
    running = queue.start(0.0)
    queue.submit(urgent := Job([9], deadline=0.051), 0.001)
    assert running is not None
    queue.update(running, None)
    run = queue.start(0.002)
    assert run is not None
    assert [entry.job for entry in run.entries] == [urgent]


def test_a_batch_takes_the_nearest_lengths() -> None:
    """A short sequence runs with short ones, though a long one came before them."""
    queue = make_queue(rows=3, steps=10**4)
    queue.submit(Job([5, 300, 6, 299, 4]), 0.0)
    assert sorted(map(lengths_of, drain(queue))) == [[4, 5, 6], [299, 300]]


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=9), row_step=st.floats(1e-7, 1e-4))
def test_the_cuts_take_the_least_time_there_is(lengths: list[int], row_step: float) -> None:
    """No division of the sorted queue into batches is predicted to be faster."""
    costs = make_costs(rows=4, row_step=row_step)
    queue = OneQueue(costs, Bounds(max_batch_steps=10**6, max_queue_steps=10**6))
    queue.submit(Job(lengths), 0.0)

    def cost(batch: list[int]) -> float:
        return dict(costs.of_batches(batch[-1]))[len(batch)]

    def least(rest: list[int]) -> float:
        return min((cost(rest[-n:]) + least(rest[:-n]) for n in range(1, min(4, len(rest)) + 1)), default=0.0)

    found = sum(cost(lengths_of(run)) for run in drain(queue))
    assert found == pytest.approx(least(sorted(lengths)), rel=1e-9)  # sums in another order


def test_a_lone_request_spreads_over_idle_runners() -> None:
    """32 sequences keep two runners busy for about as long, though one batch of all would be fastest on one."""
    queue = make_queue(rows=32, steps=10**5, runners=2)
    queue.submit(Job([10] * 32), 0.0)
    runs = [queue.start(0.0), queue.start(0.0)]
    assert [len(run.entries) for run in runs if run] == [16, 16]
    assert queue.start(0.0) is None
    assert queue.running == 2


def test_a_request_larger_than_the_window_is_cut_in_parts() -> None:
    """A job of three windows runs in order of its rows by the window, and each row once."""
    queue = make_queue(rows=32, steps=10**5, queue=10**6)
    queue.submit(Job([1 + n % 7 for n in range(3 * POLICY.window)]), 0.0)
    rows = [entry.row for run in drain(queue) for entry in run.entries]
    assert sorted(rows) == list(range(3 * POLICY.window))
    assert max(rows[: POLICY.window // 4]) < POLICY.window


def test_empty_sequences_cost_a_step() -> None:
    """They are computed as one padded step, and bounded and counted as one."""
    queue = make_queue(rows=9, steps=4, queue=6)
    queue.submit(Job([0] * 5), 0.0)
    assert queue.waiting_steps == 5
    with pytest.raises(QueueFull):
        queue.submit(Job([0, 0]), 0.0)
    assert sorted(len(run.entries) for run in drain(queue)) in ([1, 4], [2, 3])


def test_a_withdrawn_job_never_runs() -> None:
    """What waits of it is forgotten, cut or not, and the rest stays; to withdraw what is over changes nothing."""
    queue = make_queue(runners=2)
    gone, stays, late = Job([3, 4, 5, 6, 7, 8, 9]), Job([3]), Job([3])
    queue.submit(gone, 0.0)
    queue.submit(stays, 0.0)
    first = queue.start(0.0)
    assert first is not None
    queue.submit(late, 0.0)
    queue.withdraw(gone)
    queue.withdraw(late)
    taken = [(entry.job, entry.row) for entry in first.entries]
    rest = [(entry.job, entry.row) for run in drain(queue) for entry in run.entries]
    assert [job for job, _ in rest] == [stays] * (1 - (stays in dict(taken)))
    queue.withdraw(gone)
    assert (queue.waiting, queue.waiting_steps) == (0, 0)


def test_what_is_late_is_dropped() -> None:
    """Past its deadline a job does not run, and counts no more; what is left to do is done."""
    queue = make_queue()
    late, stays = Job([5, 6], deadline=0.1), Job([5])
    queue.submit(late, 0.0)
    queue.submit(stays, 0.0)
    run = queue.start(0.1)
    assert run is not None
    assert [entry.job for entry in run.entries] == [stays]
    queue.update(run, None)
    queue.submit(Job([7], deadline=0.3), 0.2)
    assert queue.start(0.3) is None
    assert (late.is_withdrawn, queue.waiting, queue.waiting_steps) == (True, 0, 0)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """The refused job leaves no trace; behind less urgent work it is taken, behind more urgent work it is not."""
    queue = make_queue(steps=10**5, queue=10**6)
    with pytest.raises(DeadlineUnreachable, match="should take 12 ms and the request allows 10 more"):
        queue.submit(Job([1000], deadline=0.01), 0.0)
    assert (queue.waiting, queue.forecast(0.0).seconds) == (0, 0.0)
    queue.submit(Job([1000] * 100), 0.0)
    assert queue.forecast(0.0).seconds == pytest.approx(25 * 0.0411, rel=0.01)  # 25 runs of 4 x 1000 steps
    queue.submit(Job([1000], deadline=0.1), 0.0)
    with pytest.raises(DeadlineUnreachable):
        queue.submit(Job([1000] * 10, deadline=0.11), 0.0)
    assert queue.waiting == 101


def test_an_idle_service_trusts_its_measurements() -> None:
    """What runs took under load does not refuse a job when there is none: else nothing would correct it."""
    queue = make_queue(steps=10**5)
    for _ in range(100):
        queue.costs.follow(0.01, 0.1)
    assert queue.costs.predict(1, 1000) > 0.05
    queue.submit(Job([1000], deadline=0.02), 0.0)
    with pytest.raises(DeadlineUnreachable):
        queue.submit(Job([1000], deadline=0.02), 0.0)


def test_an_idle_runner_waits_for_nobody() -> None:
    """Beside one long run, a job is expected to start at once; with both runners busy, when the first is through."""
    queue = make_queue(rows=1, steps=10**5, queue=10**6, runners=2)
    queue.submit(Job([1000]), 0.0)
    assert queue.start(0.0) is not None
    assert queue.forecast(0.0).seconds == 0
    queue.submit(Job([500]), 0.0)
    assert queue.start(0.0) is not None
    assert queue.forecast(0.0).seconds == pytest.approx(0.006, rel=0.02)
    queue.submit(Job([1000, 1000]), 0.0)
    assert queue.forecast(0.0).seconds == pytest.approx((0.006 + 0.011 + 2 * 0.0111) / 2, rel=0.02)


def test_real_runs_correct_the_costs() -> None:
    """A finished run that says what it took moves the prediction; one that failed does not."""
    queue = make_queue()
    queue.submit(Job([5, 6, 7]), 0.0)
    for seconds, runs in ((None, 0), (0.1, 1)):
        queue.submit(Job([5]), 0.0)
        run = queue.start(0.0)
        assert run is not None
        queue.update(run, seconds)
        assert queue.costs.runs == runs
    assert queue.costs.factors[True] > 1


def test_little_work_is_not_shared_out() -> None:
    """What takes two milliseconds in all is one batch, however many runners are idle; more is shared out."""
    for length, runs in ((20, 1), (50, 2)):
        queue = make_queue(runners=2, steps=10_000)
        queue.submit(Job([length] * 4), 0.0)
        assert (2 * queue.forecast(0.0).seconds <= POLICY.little_seconds) == (runs == 1)
        started = 0
        while queue.start(0.0):
            started += 1
        assert started == runs


def test_what_lone_runs_take_says_nothing_of_runs_under_load() -> None:
    """Each kind corrects its own predictions, and what waits is expected to run under load."""
    queue = make_queue(runners=2)
    for _ in range(2):
        for _ in range(2):
            queue.submit(Job([40]), 0.0)
        lone, beside = queue.start(0.0), queue.start(0.0)
        assert lone is not None
        assert beside is not None
        assert (lone.is_loaded, beside.is_loaded) == (False, True)
        queue.update(beside, 10.0)
        queue.update(lone, 0.001)
    assert lone is not None
    assert beside is not None
    assert lone.expected_seconds < beside.expected_seconds
    assert queue.costs.factors[False] < 1 < queue.costs.factors[True]
    queue.submit(Job([40]), 0.0)
    assert 2 * queue.forecast(0.0).seconds > queue.costs.share(40)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """The refused job leaves no trace, and the wait is what the queue should take."""
    queue = make_queue(rows=1, steps=10**6, queue=500_000)
    queue.submit(Job([1000] * 440), 0.0)
    with pytest.raises(QueueFull, match="440000 steps are waiting and the queue holds 500000") as caught:
        queue.submit(Job([60_001]), 0.0)
    assert caught.value.retry_after_seconds == 5  # 440 runs of 11.2 ms
    assert (queue.waiting, queue.waiting_steps) == (440, 440_000)
    queue.submit(Job([60_000]), 0.0)


def test_a_deep_queue_pads_little() -> None:
    """With 256 log-normal sequences waiting at all times, at most 1.15 times the valid steps are computed."""
    queue = make_queue(rows=32, steps=16_384, queue=10**6, runners=2)
    draw = np.random.default_rng(0)
    valid = padded = 0
    for _ in range(400):
        while queue.waiting < 256:
            queue.submit(Job(draw.lognormal(3.5, 0.8, 1).clip(1, 200).astype(int).tolist()), 0.0)
        run = queue.start(0.0)
        assert run is not None
        queue.update(run, None)
        valid += sum(lengths_of(run))
        padded += len(run.entries) * run.steps
    assert padded / valid <= 1.15


def test_a_small_job_goes_before_the_bulk_in_progress() -> None:
    """What arrives while a large job runs is next, and shares no batch with it."""
    queue = make_queue(rows=4, steps=10**5, queue=10**6)
    queue.submit(Job([100] * 1000), 0.0)
    first = queue.start(0.0)
    assert first is not None
    queue.submit(small := Job([100]), 5.0)
    queue.submit(streamed := Job([100], is_bulk=True), 5.0)
    queue.update(first, None)
    (second, *others) = drain(queue, 5.0)
    assert (first.is_bulk, second.is_bulk) == (True, False)
    assert [entry.job for entry in second.entries] == [small]
    assert others[-1].entries[-1].job is streamed


@given(bulks=st.lists(st.integers(10, 30), min_size=1, max_size=3), runners=st.integers(1, 2))
def test_small_jobs_without_end_do_not_starve_bulk(bulks: list[int], runners: int) -> None:
    """All bulk is done in the time that its share of the runners takes, after its patience; others have the rest."""
    patience, small_seconds, bulk_seconds = 0.2, 0.0021, 0.0111
    policy = replace(POLICY, patience_seconds=patience / 4, bulk_patience_seconds=patience)
    queue = OneQueue(make_costs(1), Bounds(10**5, 10**7), runners, policy)
    work = 0.0
    for count in bulks:
        queue.submit(Job([1000] * count), 0.0)
        work += count * bulk_seconds
    now, left, smalls = 0.0, sum(bulks), 0
    ends: list[tuple[float, int, Run]] = []
    bound = patience + work / (policy.bulk_share * runners) + patience / 4 + 2 * bulk_seconds
    while left and now <= bound:
        while queue.waiting - left < 4:
            queue.submit(Job([100]), now)
        while run := queue.start(now):
            left -= run.is_bulk
            smalls += not run.is_bulk
            ends.append((run.expected_end, id(run), run))
        now, _, ended = min(ends)
        ends.remove(min(ends))
        queue.update(ended, None)
    assert left == 0
    assert smalls * small_seconds >= (1 - policy.bulk_share - 0.1) * now * runners - 4 * bulk_seconds


@given(allowed=st.lists(st.integers(200, 10**8), min_size=2, max_size=6))
def test_of_jobs_that_arrive_together_the_earlier_deadline_runs_first(allowed: list[int]) -> None:
    """However far their deadlines are, they run in that order."""
    queue = make_queue(rows=1, steps=10**5)
    for milliseconds in allowed:
        queue.submit(Job([1], deadline=100.0 + milliseconds / 1000), 100.0)
    deadlines = [run.entries[0].job.deadline for run in drain(queue, 100.0)]
    assert deadlines == sorted(deadlines)


def test_a_deadline_of_a_minute_does_not_mean_a_minute_of_waiting() -> None:
    """A small job that allows a minute is due within seconds of one that allows any time, and before all bulk."""
    queue = make_queue(rows=1, steps=10**5, queue=10**6)
    queue.submit(bulk := Job([1000] * 100, deadline=60.0), 0.0)
    queue.submit(small := Job([5], deadline=61.0), 1.0)
    assert small.due == pytest.approx(1.0 + 1 + np.log(60))
    assert small.due < bulk.due == 10.0
    assert bulk.parts[-1][1] < 60.0


def test_a_queue_is_bounded_in_seconds() -> None:
    """Beyond the bound on what goes before it a job is refused, and told to the millisecond when that is done."""
    queue = make_queue(rows=1, steps=10**5, queue=10**7, queue_seconds=1.0)
    queue.submit(Job([1000] * 200), 0.0)  # 2.22 s of bulk: as much as it likes, being first
    with pytest.raises(QueueFull, match=r"2\.2 seconds of work are waiting and the queue holds 1\.0") as caught:
        queue.submit(Job([1000] * 5), 0.0)
    assert (caught.value.retry_after_ms, caught.value.retry_after_seconds) == (2236, 3)  # T is rounded up to 1008
    for _ in range(477):
        queue.submit(Job([100]), 0.0)  # 2.1 ms each, before the bulk
    with pytest.raises(QueueFull, match="`max_queue_seconds`"):
        queue.submit(Job([100]), 0.0)
    assert queue.waiting == 677


def test_a_full_queue_refuses_what_is_not_read_yet() -> None:
    """What has no room however small it is is refused; bulk in the way of bulk only is not a reason."""
    queue = make_queue(rows=1, steps=10**5, queue=10**7, queue_seconds=1.0)
    queue.submit(Job([1000] * 200), 0.0)
    queue.require_room(0.0)
    for _ in range(477):
        queue.submit(Job([100]), 0.0)
    with pytest.raises(QueueFull, match="`max_queue_seconds`"):
        queue.require_room(0.0)
    queue = make_queue(rows=1, steps=10**5, queue=10)
    queue.submit(Job([9]), 0.0)
    queue.require_room(0.0)
    queue.submit(Job([1]), 0.0)
    with pytest.raises(QueueFull, match="`max_queue_steps`"):
        queue.require_room(0.0)


def test_a_short_batch_runs_beside_runners_at_bulk_work() -> None:
    """It need not wait for one of them; a longer batch does, and so does any beside other work."""
    queue = make_queue(rows=4, steps=10**5, queue=10**6, runners=1)
    queue.submit(Job([1000] * 40), 0.0)
    bulk = queue.start(0.0)
    assert bulk is not None
    assert queue.start(0.0) is None  # nothing small waits
    queue.submit(Job([500]), 0.0)
    assert queue.start(0.0) is None  # it should take 6 ms
    queue.submit(small := Job([5], deadline=0.1), 0.0)
    aside = queue.start(0.0)
    assert aside is not None
    assert (bulk.is_aside, aside.is_aside) == (False, True)
    assert [entry.job for entry in aside.entries] == [small]
    queue.submit(Job([5], deadline=0.1), 0.0)
    assert queue.start(0.0) is None  # one at a time
    queue.update(aside, None)
    queue.update(bulk, None)
    assert (run := queue.start(0.0)) is not None
    assert not run.is_bulk
    assert not run.is_aside
    queue.submit(Job([5], deadline=0.1), 0.0)
    assert queue.start(0.0) is None  # the runner is at other work


def test_one_runner_is_left_to_what_is_no_bulk() -> None:
    """However much bulk waits; where there is one only, bulk has it too."""
    queue = make_queue(rows=4, steps=10**5, queue=10**6, runners=3)
    queue.submit(Job([1000] * 40), 0.0)
    runs = [queue.start(0.0) for _ in range(3)]
    assert [run is not None and run.is_bulk for run in runs] == [True, True, False]
    queue.submit(Job([500]), 0.0)
    small = queue.start(0.0)
    assert small is not None
    assert not small.is_bulk
    queue.update(small, None)
    assert queue.start(0.0) is None


def test_bulk_leaves_a_cpu_while_others_come() -> None:
    """For a while after each; with one runner more than CPUs, that is two runners."""
    queue = make_queue(rows=4, steps=10**5, queue=10**6, runners=3)
    queue.submit(Job([1000] * 40), 0.0)
    queue.submit(Job([5]), 0.0)
    runs = [queue.start(0.0) for _ in range(3)]
    assert [run is not None and run.is_bulk for run in runs] == [False, True, False]
    assert queue.start(0.19) is None
    assert (run := queue.start(0.21)) is not None
    assert run.is_bulk


def test_a_batch_takes_no_longer_than_a_quarter_of_a_second() -> None:
    """A run cannot be interrupted: if one batch of all would be cheapest but long, several run."""
    queue = make_queue(rows=32, steps=10**6, queue=10**6)
    queue.submit(Job([8000] * 6), 0.0)  # 0.08 s each
    assert [len(run.entries) for run in drain(queue)] == [3, 3]
    queue.submit(Job([30_000]), 0.0)
    assert [len(run.entries) for run in drain(queue)] == [1]  # one sequence cannot be cut


@pytest.mark.parametrize(
    ("lengths", "runners", "reasons"),
    [
        ([9, 9], 1, {"all"}),
        ([9] * 8, 1, {"rows", "all"}),
        ([20, 20, 20, 20, 20], 1, {"budget", "all"}),
        ([1, 30], 1, {"cost", "all"}),
        ([9, 9], 2, {"shared"}),
    ],
)
def test_a_batch_says_why_it_is_no_larger(lengths: list[int], runners: int, reasons: set[str]) -> None:
    """Nothing else waited, it is full, it is shared out among runners, or more in it would have cost more."""
    queue = OneQueue(make_costs(4, row_step=1e-4), Bounds(max_batch_steps=64, max_queue_steps=10_000), runners)
    queue.submit(Job(lengths), 0.0)
    assert {run.why for run in drain(queue)} == reasons


def test_a_batch_that_would_end_too_late_is_not_begun_while_others_wait() -> None:
    """It would be for nobody; with nothing else to do it is tried, since a prediction may be wrong."""
    for beside in (True, False):
        queue = make_queue(rows=1)
        late = Job([50], deadline=0.0016)  # 1.5 ms of run
        queue.submit(late, 0.0)
        if beside:
            queue.submit(Job([10]), 0.0)
        run = queue.start(0.0005)
        assert run is not None
        assert (run.entries[0].job is late) != beside
        assert late.is_withdrawn == beside
        assert queue.waiting == 0
