"""The scheduler's promises, over any arrivals on a made clock: nothing lost, doubled, late, starved or over budget."""

from collections.abc import Iterator
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.jobs import Job, Run
from service.batching.lanes import WINDOW
from service.batching.queue import BULK_SHARE, PATIENCE_SECONDS, Scheduler
from service.batching.sharing import LITTLE_SECONDS, Slots
from service.costs.model import CostModel
from service.errors import DeadlineUnreachable, QueueFull

JOBS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=1, max_size=6)


def make_costs(rows: int = 4, row_step: float = 1e-5) -> CostModel:
    """Make a model of runs that take 1 ms, and `row_step` for each padded step."""
    shapes = [(b, t) for b in (1, rows) for t in (1, 1000)]
    return CostModel({(b, t): 1e-3 + row_step * b * t for b, t in shapes}, rows)


def make_scheduler(
    rows: int = 4, steps: int = 64, queue: int = 10_000, runners: int = 1, queue_seconds: float = inf
) -> Scheduler:
    """Make a scheduler with small bounds."""
    return Scheduler(make_costs(rows), Slots(runners), steps, queue, queue_seconds)


def lengths_of(run: Run) -> list[int]:
    """Return the lengths in a run."""
    return [entry.job.lengths[entry.row] for entry in run.entries]


def drain(scheduler: Scheduler, now: float = 0.0) -> Iterator[Run]:
    """Run what waits, one run after the other."""
    while run := scheduler.next_run(now):
        scheduler._slots.finish(run, None)
        yield run


class Simulation:
    """Jobs that come and go, and runners that take as long as they should; each start is held to the promises."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self.waiting: set[tuple[Job, int]] = set()
        self.started: list[tuple[Job, int]] = []
        self._ends: list[tuple[float, Run]] = []

    def submit(self, lengths: list[int], allowed: float = inf) -> Job | None:
        """Submit a job now; None where it is refused."""
        job = Job(lengths, self.now + allowed)
        try:
            self.scheduler.submit(job, self.now)
        except DeadlineUnreachable:
            return None
        self.waiting |= {(job, row) for row in range(len(lengths))}
        return job

    def withdraw(self, job: Job) -> None:
        """Withdraw a job now."""
        self.scheduler.withdraw(job)
        self.waiting = {(other, row) for other, row in self.waiting if other is not job}

    def advance(self, until: float = inf) -> None:
        """Start and finish runs until a time, or until nothing is left to do."""
        while True:
            while run := self.scheduler.next_run(self.now):
                self._check(run)
                self._ends.append((run.expected_end, run))
            if not self._ends or min(self._ends, key=lambda pair: pair[0])[0] > until:
                break
            end, run = min(self._ends, key=lambda pair: pair[0])
            self._ends.remove((end, run))
            self.now = end
            self.scheduler._slots.finish(run, None)
        self.now = self.now if until == inf else until

    def _check(self, run: Run) -> None:
        """Only what waits and is not late runs; and what is due first of all that is in the run."""
        self.waiting = {(job, row) for job, row in self.waiting if job.deadline > self.now}
        given_up = {(job, row) for job, row in self.waiting if job.is_withdrawn}  # for its run would end too late
        longest = self.scheduler.costs.predict(8, 1000)
        assert all(job.deadline <= self.now + longest for job, _ in given_up)
        self.waiting -= given_up
        taken = {(entry.job, entry.row) for entry in run.entries}
        assert len(taken) == len(run.entries)
        assert taken <= self.waiting
        due_first = min(job.part_of(row)[1] for job, row in self.waiting)
        assert min(job.part_of(row)[1] for job, row in taken) == due_first
        self.waiting -= taken
        self.started += taken


@given(jobs=JOBS, rows=st.integers(1, 9), steps=st.integers(1, 100), runners=st.integers(1, 3))
def test_every_sequence_runs_once_and_within_budget(jobs: list[list[int]], rows: int, steps: int, runners: int) -> None:
    """Runs cover each row of each job exactly once; none exceeds rows or padded steps, but a lone long one."""
    scheduler = make_scheduler(rows, steps, runners=runners)
    made = [Job(lengths) for lengths in jobs]
    for job in made:
        scheduler.submit(job, 0.0)
    assert scheduler.waiting == sum(map(len, jobs))
    assert scheduler.waiting_steps == sum(max(1, length) for lengths in jobs for length in lengths)
    seen = []
    for run in drain(scheduler):
        lengths = lengths_of(run)
        assert len(lengths) <= rows
        assert run.steps == max(1, *lengths, 1)
        assert len(lengths) * run.steps <= steps or len(lengths) == 1
        seen += [(made.index(entry.job), entry.row) for entry in run.entries]
    assert sorted(seen) == [(place, row) for place, lengths in enumerate(jobs) for row in range(len(lengths))]
    assert (scheduler.waiting, scheduler.waiting_steps, len(scheduler._slots.running)) == (0, 0, 0)
    assert scheduler.predict_wait(0.0) == 0


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
    simulation = Simulation(make_scheduler(rows=8, steps=1000, queue=10**6, runners=runners))
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
    assert (simulation.scheduler.waiting, simulation.scheduler.waiting_steps) == (0, 0)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), length=st.integers(1, 30))
def test_nothing_is_passed_over_by_what_arrives_a_patience_later(lengths: list[int], length: int) -> None:
    """However much keeps arriving, a sequence starts before all that comes `PATIENCE_SECONDS` after it."""
    scheduler = make_scheduler(rows=4, steps=10**4, queue=10**6)
    old = Job([length])
    scheduler.submit(old, 0.0)
    for number in range(20):
        urgent = Job(lengths, deadline=PATIENCE_SECONDS + 0.1 + number)  # due later, whatever it allows
        scheduler.submit(urgent, 0.0)
    scheduler.submit(Job([length]), PATIENCE_SECONDS)
    run = scheduler.next_run(0.0)
    assert run is not None
    assert old in {entry.job for entry in run.entries}


def test_a_deadline_overtakes_what_has_none() -> None:
    """A request that allows 50 ms runs before others that came first and said nothing."""
    scheduler = make_scheduler(rows=1)
    for length in (3, 4, 5):
        scheduler.submit(Job([length]), 0.0)
    running = scheduler.next_run(0.0)
    scheduler.submit(urgent := Job([9], deadline=0.051), 0.001)
    assert running is not None
    scheduler._slots.finish(running, None)
    run = scheduler.next_run(0.002)
    assert run is not None
    assert [entry.job for entry in run.entries] == [urgent]


def test_a_batch_takes_the_nearest_lengths() -> None:
    """A short sequence runs with short ones, though a long one came before them."""
    scheduler = make_scheduler(rows=3, steps=10**4)
    scheduler.submit(Job([5, 300, 6, 299, 4]), 0.0)
    assert sorted(map(lengths_of, drain(scheduler))) == [[4, 5, 6], [299, 300]]


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=9), row_step=st.floats(1e-7, 1e-4))
def test_the_cuts_take_the_least_time_there_is(lengths: list[int], row_step: float) -> None:
    """No division of the sorted queue into batches is predicted to be faster."""
    costs = make_costs(rows=4, row_step=row_step)
    scheduler = Scheduler(costs, Slots(1), max_batch_steps=10**6, max_queue_steps=10**6)
    scheduler.submit(Job(lengths), 0.0)

    def cost(batch: list[int]) -> float:
        return dict(costs.of_batches(batch[-1]))[len(batch)]

    def least(rest: list[int]) -> float:
        return min((cost(rest[-n:]) + least(rest[:-n]) for n in range(1, min(4, len(rest)) + 1)), default=0.0)

    found = sum(cost(lengths_of(run)) for run in drain(scheduler))
    assert found == pytest.approx(least(sorted(lengths)), rel=1e-9)  # sums in another order


def test_a_lone_request_spreads_over_idle_runners() -> None:
    """32 sequences keep two runners busy for about as long, though one batch of all would be fastest on one."""
    scheduler = make_scheduler(rows=32, steps=10**5, runners=2)
    scheduler.submit(Job([10] * 32), 0.0)
    runs = [scheduler.next_run(0.0), scheduler.next_run(0.0)]
    assert [len(run.entries) for run in runs if run] == [16, 16]
    assert scheduler.next_run(0.0) is None
    assert len(scheduler._slots.running) == 2


def test_a_request_larger_than_the_window_is_cut_in_parts() -> None:
    """A job of three windows runs in order of its rows by the window, and each row once."""
    scheduler = make_scheduler(rows=32, steps=10**5, queue=10**6)
    scheduler.submit(Job([1 + n % 7 for n in range(3 * WINDOW)]), 0.0)
    rows = [entry.row for run in drain(scheduler) for entry in run.entries]
    assert sorted(rows) == list(range(3 * WINDOW))
    assert max(rows[: WINDOW // 4]) < WINDOW


def test_empty_sequences_cost_a_step() -> None:
    """They are computed as one padded step, and bounded and counted as one."""
    scheduler = make_scheduler(rows=9, steps=4, queue=6)
    scheduler.submit(Job([0] * 5), 0.0)
    assert scheduler.waiting_steps == 5
    with pytest.raises(QueueFull):
        scheduler.submit(Job([0, 0]), 0.0)
    assert sorted(len(run.entries) for run in drain(scheduler)) in ([1, 4], [2, 3])


def test_a_withdrawn_job_never_runs() -> None:
    """What waits of it is forgotten, cut or not, and the rest stays; to withdraw what is over changes nothing."""
    scheduler = make_scheduler(runners=2)
    gone, stays, late = Job([3, 4, 5, 6, 7, 8, 9]), Job([3]), Job([3])
    scheduler.submit(gone, 0.0)
    scheduler.submit(stays, 0.0)
    first = scheduler.next_run(0.0)
    assert first is not None
    scheduler.submit(late, 0.0)
    scheduler.withdraw(gone)
    scheduler.withdraw(late)
    taken = [(entry.job, entry.row) for entry in first.entries]
    rest = [(entry.job, entry.row) for run in drain(scheduler) for entry in run.entries]
    assert [job for job, _ in rest] == [stays] * (1 - (stays in dict(taken)))
    scheduler.withdraw(gone)
    assert (scheduler.waiting, scheduler.waiting_steps) == (0, 0)


def test_what_is_late_is_dropped() -> None:
    """Past its deadline a job does not run, and counts no more; what is left to do is done."""
    scheduler = make_scheduler()
    late, stays = Job([5, 6], deadline=0.1), Job([5])
    scheduler.submit(late, 0.0)
    scheduler.submit(stays, 0.0)
    run = scheduler.next_run(0.1)
    assert run is not None
    assert [entry.job for entry in run.entries] == [stays]
    scheduler._slots.finish(run, None)
    scheduler.submit(Job([7], deadline=0.3), 0.2)
    assert scheduler.next_run(0.3) is None
    assert (late.is_withdrawn, scheduler.waiting, scheduler.waiting_steps) == (True, 0, 0)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    """The refused job leaves no trace; behind less urgent work it is taken, behind more urgent work it is not."""
    scheduler = make_scheduler(steps=10**5, queue=10**6)
    with pytest.raises(DeadlineUnreachable, match="should take 12 ms and the request allows 10 more"):
        scheduler.submit(Job([1000], deadline=0.01), 0.0)
    assert (scheduler.waiting, scheduler.predict_wait(0.0)) == (0, 0.0)
    scheduler.submit(Job([1000] * 100), 0.0)
    assert scheduler.predict_wait(0.0) == pytest.approx(25 * 0.0411, rel=0.01)  # 25 runs of 4 x 1000 steps
    scheduler.submit(Job([1000], deadline=0.1), 0.0)
    with pytest.raises(DeadlineUnreachable):
        scheduler.submit(Job([1000] * 10, deadline=0.11), 0.0)
    assert scheduler.waiting == 101


def test_an_idle_service_trusts_its_measurements() -> None:
    """What runs took under load does not refuse a job when there is none: else nothing would correct it."""
    scheduler = make_scheduler(steps=10**5)
    for _ in range(100):
        scheduler.costs.follow(0.01, 0.1)
    assert scheduler.costs.predict(1, 1000) > 0.05
    scheduler.submit(Job([1000], deadline=0.02), 0.0)
    with pytest.raises(DeadlineUnreachable):
        scheduler.submit(Job([1000], deadline=0.02), 0.0)


def test_an_idle_runner_waits_for_nobody() -> None:
    """Beside one long run, a job is expected to start at once; with both runners busy, when the first is through."""
    scheduler = make_scheduler(rows=1, steps=10**5, queue=10**6, runners=2)
    scheduler.submit(Job([1000]), 0.0)
    assert scheduler.next_run(0.0) is not None
    assert scheduler.predict_wait(0.0) == 0
    scheduler.submit(Job([500]), 0.0)
    assert scheduler.next_run(0.0) is not None
    assert scheduler.predict_wait(0.0) == pytest.approx(0.006, rel=0.02)
    scheduler.submit(Job([1000, 1000]), 0.0)
    assert scheduler.predict_wait(0.0) == pytest.approx((0.006 + 0.011 + 2 * 0.0111) / 2, rel=0.02)


def test_real_runs_correct_the_costs() -> None:
    """A finished run that says what it took moves the prediction; one that failed does not."""
    scheduler = make_scheduler()
    scheduler.submit(Job([5, 6, 7]), 0.0)
    for seconds, runs in ((None, 0), (0.1, 1)):
        scheduler.submit(Job([5]), 0.0)
        run = scheduler.next_run(0.0)
        assert run is not None
        scheduler._slots.finish(run, seconds)
        assert scheduler.costs.runs == runs
    assert scheduler.costs.factors[True] > 1


def test_little_work_is_not_shared_out() -> None:
    """What takes two milliseconds in all is one batch, however many runners are idle; more is shared out."""
    for length, runs in ((20, 1), (50, 2)):
        scheduler = make_scheduler(runners=2, steps=10_000)
        scheduler.submit(Job([length] * 4), 0.0)
        assert (scheduler.small_seconds <= LITTLE_SECONDS) == (runs == 1)
        started = 0
        while scheduler.next_run(0.0):
            started += 1
        assert started == runs


def test_what_lone_runs_take_says_nothing_of_runs_under_load() -> None:
    """Each kind corrects its own predictions, and what waits is expected to run under load."""
    scheduler = make_scheduler(runners=2)
    for _ in range(2):
        for _ in range(2):
            scheduler.submit(Job([40]), 0.0)
        lone, beside = scheduler.next_run(0.0), scheduler.next_run(0.0)
        assert lone is not None
        assert beside is not None
        assert (lone.is_loaded, beside.is_loaded) == (False, True)
        scheduler._slots.finish(beside, 10.0)
        scheduler._slots.finish(lone, 0.001)
    assert lone is not None
    assert beside is not None
    assert lone.expected_seconds < beside.expected_seconds
    assert scheduler.costs.factors[False] < 1 < scheduler.costs.factors[True]
    scheduler.submit(Job([40]), 0.0)
    assert scheduler.waiting_seconds > scheduler.costs.share(40)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """The refused job leaves no trace, and the wait is what the queue should take."""
    scheduler = make_scheduler(rows=1, steps=10**6, queue=500_000)
    scheduler.submit(Job([1000] * 440), 0.0)
    with pytest.raises(QueueFull, match="440000 steps are waiting and the queue holds 500000") as caught:
        scheduler.submit(Job([60_001]), 0.0)
    assert caught.value.retry_after_seconds == 5  # 440 runs of 11.2 ms
    assert (scheduler.waiting, scheduler.waiting_steps) == (440, 440_000)
    scheduler.submit(Job([60_000]), 0.0)


def test_a_deep_queue_pads_little() -> None:
    """With 256 log-normal sequences waiting at all times, at most 1.15 times the valid steps are computed."""
    scheduler = make_scheduler(rows=32, steps=16_384, queue=10**6, runners=2)
    draw = np.random.default_rng(0)
    valid = padded = 0
    for _ in range(400):
        while scheduler.waiting < 256:
            scheduler.submit(Job(draw.lognormal(3.5, 0.8, 1).clip(1, 200).astype(int).tolist()), 0.0)
        run = scheduler.next_run(0.0)
        assert run is not None
        scheduler._slots.finish(run, None)
        valid += sum(lengths_of(run))
        padded += len(run.entries) * run.steps
    assert padded / valid <= 1.15


def test_a_small_job_goes_before_the_bulk_in_progress() -> None:
    """What arrives while a large job runs is next, and shares no batch with it."""
    scheduler = make_scheduler(rows=4, steps=10**5, queue=10**6)
    scheduler.submit(Job([100] * 1000), 0.0)
    first = scheduler.next_run(0.0)
    assert first is not None
    scheduler.submit(small := Job([100]), 5.0)
    scheduler.submit(streamed := Job([100], is_bulk=True), 5.0)
    scheduler._slots.finish(first, None)
    (second, *others) = drain(scheduler, 5.0)
    assert (first.is_bulk, second.is_bulk) == (True, False)
    assert [entry.job for entry in second.entries] == [small]
    assert others[-1].entries[-1].job is streamed


@given(bulks=st.lists(st.integers(10, 30), min_size=1, max_size=3), runners=st.integers(1, 2))
def test_small_jobs_without_end_do_not_starve_bulk(bulks: list[int], runners: int) -> None:
    """All bulk is done in the time that its share of the runners takes, after its patience; others have the rest."""
    patience, small_seconds, bulk_seconds = 0.2, 0.0021, 0.0111
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.batching.queue.PATIENCE_SECONDS", patience / 4)
        patch.setattr("service.batching.queue.BULK_PATIENCE_SECONDS", patience)
        scheduler = make_scheduler(rows=1, steps=10**5, queue=10**7, runners=runners)
        work = 0.0
        for count in bulks:
            scheduler.submit(Job([1000] * count), 0.0)
            work += count * bulk_seconds
        now, left, smalls = 0.0, sum(bulks), 0
        ends: list[tuple[float, int, Run]] = []
        bound = patience + work / (BULK_SHARE * runners) + patience / 4 + 2 * bulk_seconds
        while left and now <= bound:
            while scheduler.waiting - left < 4:
                scheduler.submit(Job([100]), now)
            while run := scheduler.next_run(now):
                left -= run.is_bulk
                smalls += not run.is_bulk
                ends.append((run.expected_end, id(run), run))
            now, _, ended = min(ends)
            ends.remove(min(ends))
            scheduler._slots.finish(ended, None)
    assert left == 0
    assert smalls * small_seconds >= (1 - BULK_SHARE - 0.1) * now * runners - 4 * bulk_seconds


@given(allowed=st.lists(st.integers(200, 10**8), min_size=2, max_size=6))
def test_of_jobs_that_arrive_together_the_earlier_deadline_runs_first(allowed: list[int]) -> None:
    """However far their deadlines are, they run in that order."""
    scheduler = make_scheduler(rows=1, steps=10**5)
    for milliseconds in allowed:
        scheduler.submit(Job([1], deadline=100.0 + milliseconds / 1000), 100.0)
    deadlines = [run.entries[0].job.deadline for run in drain(scheduler, 100.0)]
    assert deadlines == sorted(deadlines)


def test_a_deadline_of_a_minute_does_not_mean_a_minute_of_waiting() -> None:
    """A small job that allows a minute is due within seconds of one that allows any time, and before all bulk."""
    scheduler = make_scheduler(rows=1, steps=10**5, queue=10**6)
    scheduler.submit(bulk := Job([1000] * 100, deadline=60.0), 0.0)
    scheduler.submit(small := Job([5], deadline=61.0), 1.0)
    assert small.due == pytest.approx(1.0 + 1 + np.log(60))
    assert small.due < bulk.due == 10.0
    assert bulk.parts[-1][1] < 60.0


def test_a_queue_is_bounded_in_seconds() -> None:
    """Beyond the bound on what goes before it a job is refused, and told to the millisecond when that is done."""
    scheduler = make_scheduler(rows=1, steps=10**5, queue=10**7, queue_seconds=1.0)
    scheduler.submit(Job([1000] * 200), 0.0)  # 2.22 s of bulk: as much as it likes, being first
    with pytest.raises(QueueFull, match=r"2\.2 seconds of work are waiting and the queue holds 1\.0") as caught:
        scheduler.submit(Job([1000] * 5), 0.0)
    assert (caught.value.retry_after_ms, caught.value.retry_after_seconds) == (2236, 3)  # T is rounded up to 1008
    for _ in range(477):
        scheduler.submit(Job([100]), 0.0)  # 2.1 ms each, before the bulk
    with pytest.raises(QueueFull, match=r"LENGTHWISE_MAX_QUEUE_SECONDS"):
        scheduler.submit(Job([100]), 0.0)
    assert scheduler.waiting == 677


def test_a_full_queue_refuses_what_is_not_read_yet() -> None:
    """What has no room however small it is is refused; bulk in the way of bulk only is no reason."""
    scheduler = make_scheduler(rows=1, steps=10**5, queue=10**7, queue_seconds=1.0)
    scheduler.submit(Job([1000] * 200), 0.0)
    scheduler.require_room(0.0)
    for _ in range(477):
        scheduler.submit(Job([100]), 0.0)
    with pytest.raises(QueueFull, match=r"LENGTHWISE_MAX_QUEUE_SECONDS"):
        scheduler.require_room(0.0)
    scheduler = make_scheduler(rows=1, steps=10**5, queue=10)
    scheduler.submit(Job([9]), 0.0)
    scheduler.require_room(0.0)
    scheduler.submit(Job([1]), 0.0)
    with pytest.raises(QueueFull, match=r"LENGTHWISE_MAX_QUEUE_STEPS"):
        scheduler.require_room(0.0)


def test_a_short_batch_runs_beside_runners_at_bulk_work() -> None:
    """It need not wait for one of them; a longer batch does, and so does any beside other work."""
    scheduler = make_scheduler(rows=4, steps=10**5, queue=10**6, runners=1)
    scheduler.submit(Job([1000] * 40), 0.0)
    assert scheduler._slots.next_aside(0.0, 1.0) is None  # nothing small waits
    bulk = scheduler.next_run(0.0)
    assert bulk is not None
    scheduler.submit(Job([500]), 0.0)
    assert scheduler._slots.next_aside(0.0, 0.002) is None  # it should take 6 ms
    scheduler.submit(small := Job([5], deadline=0.1), 0.0)
    assert scheduler.next_run(0.0) is None
    aside = scheduler._slots.next_aside(0.0, 0.002)
    assert aside is not None
    assert [entry.job for entry in aside.entries] == [small]
    scheduler.submit(Job([5], deadline=0.1), 0.0)
    assert scheduler._slots.next_aside(0.0, 0.002) is None  # one at a time
    scheduler._slots.finish(aside, None)
    scheduler._slots.finish(bulk, None)
    assert (run := scheduler.next_run(0.0)) is not None
    assert not run.is_bulk
    scheduler.submit(Job([5], deadline=0.1), 0.0)
    assert scheduler._slots.next_aside(0.0, 0.002) is None  # the runner is at other work


def test_one_runner_is_left_to_what_is_no_bulk() -> None:
    """However much bulk waits; where there is one only, bulk has it too."""
    scheduler = make_scheduler(rows=4, steps=10**5, queue=10**6, runners=3)
    scheduler.submit(Job([1000] * 40), 0.0)
    runs = [scheduler.next_run(0.0) for _ in range(3)]
    assert [run is not None and run.is_bulk for run in runs] == [True, True, False]
    scheduler.submit(Job([500]), 0.0)
    small = scheduler.next_run(0.0)
    assert small is not None
    assert not small.is_bulk
    scheduler._slots.finish(small, None)
    assert scheduler.next_run(0.0) is None


def test_bulk_leaves_a_cpu_while_others_come() -> None:
    """For a while after each; with one runner more than CPUs, that is two runners."""
    scheduler = make_scheduler(rows=4, steps=10**5, queue=10**6, runners=3)
    scheduler.submit(Job([1000] * 40), 0.0)
    scheduler.submit(Job([5]), 0.0)
    runs = [scheduler.next_run(0.0) for _ in range(3)]
    assert [run is not None and run.is_bulk for run in runs] == [False, True, False]
    assert scheduler.next_run(0.19) is None
    assert (run := scheduler.next_run(0.21)) is not None
    assert run.is_bulk


def test_a_batch_takes_no_longer_than_a_quarter_of_a_second() -> None:
    """A run cannot be interrupted: where one batch of all would be cheapest but long, several run."""
    scheduler = make_scheduler(rows=32, steps=10**6, queue=10**6)
    scheduler.submit(Job([8000] * 6), 0.0)  # 0.08 s each
    assert [len(run.entries) for run in drain(scheduler)] == [3, 3]
    scheduler.submit(Job([30_000]), 0.0)
    assert [len(run.entries) for run in drain(scheduler)] == [1]  # one sequence cannot be cut


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
    scheduler = Scheduler(make_costs(4, row_step=1e-4), Slots(runners), max_batch_steps=64, max_queue_steps=10_000)
    scheduler.submit(Job(lengths), 0.0)
    assert {run.why for run in drain(scheduler)} == reasons


def test_a_batch_that_would_end_too_late_is_not_begun_while_others_wait() -> None:
    """It would be for nobody; with nothing else to do it is tried, since a prediction may be wrong."""
    for beside in (True, False):
        scheduler = make_scheduler(rows=1)
        late = Job([50], deadline=0.0016)  # 1.5 ms of run
        scheduler.submit(late, 0.0)
        if beside:
            scheduler.submit(Job([10]), 0.0)
        run = scheduler.next_run(0.0005)
        assert run is not None
        assert (run.entries[0].job is late) != beside
        assert late.is_withdrawn == beside
        assert scheduler.waiting == 0
