"""The scheduler's promises, over any arrivals: nothing lost, doubled or starved, and never over budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QueueFull
from service.scheduler import Job, Scheduler, count_steps

JOBS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=1, max_size=6)


def make_job(lengths: list[int]) -> Job:
    """Make a job of zeros."""
    return Job([np.zeros((length, 1), dtype=np.float32) for length in lengths], dim=2)


def make_scheduler(rows: int = 4, steps: int = 64, queue: int = 10_000) -> Scheduler:
    """Make a scheduler with small bounds."""
    return Scheduler(max_batch_sequences=rows, max_batch_steps=steps, max_queue_steps=queue)


@given(jobs=JOBS, rows=st.integers(1, 9), steps=st.integers(1, 100), idle=st.integers(1, 3))
def test_every_sequence_runs_once_and_within_budget(jobs: list[list[int]], rows: int, steps: int, idle: int) -> None:
    """Batches cover each row of each job exactly once; none exceeds rows or padded steps, but a lone long one."""
    scheduler = make_scheduler(rows, steps)
    made = [make_job(lengths) for lengths in jobs]
    for job in made:
        scheduler.submit(job, 1.0)
    assert len(scheduler) == sum(map(len, jobs))
    assert scheduler.waiting_steps == sum(max(1, length) for lengths in jobs for length in lengths)
    seen = []
    while batch := scheduler.next_batch(idle):
        lengths = [len(entry.steps) for entry in batch]
        assert len(batch) <= rows
        assert len(batch) * max(1, *lengths, 1) <= steps or len(batch) == 1
        assert lengths == sorted(lengths)
        seen += [(made.index(entry.job), entry.row) for entry in batch]
    assert sorted(seen) == [(place, row) for place, lengths in enumerate(jobs) for row in range(len(lengths))]
    assert (len(scheduler), scheduler.waiting_steps) == (0, 0)


@given(jobs=JOBS, later=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_the_oldest_sequence_is_always_in_the_next_batch(jobs: list[list[int]], later: list[int]) -> None:
    """However much keeps arriving, the longest wait ends with the next batch."""
    scheduler = make_scheduler()
    waiting = []
    for lengths in jobs:
        job = make_job(lengths)
        scheduler.submit(job, 1.0)
        waiting += [(job, row) for row in range(len(lengths))]
    while waiting:
        scheduler.submit(make_job(later), 1.0)
        taken = {(entry.job, entry.row) for entry in scheduler.next_batch(1)}
        assert waiting[0] in taken
        waiting = [item for item in waiting if item not in taken]


def test_a_batch_takes_the_nearest_lengths() -> None:
    """A short sequence runs with short ones, though a long one came before them."""
    scheduler = make_scheduler(rows=3)
    scheduler.submit(make_job([5, 30, 6, 29, 4]), 1.0)
    assert [len(entry.steps) for entry in scheduler.next_batch(1)] == [4, 5, 6]
    assert [len(entry.steps) for entry in scheduler.next_batch(1)] == [29, 30]


def test_what_waits_is_shared_among_idle_runners() -> None:
    """Two idle runners get half each, rather than one everything."""
    scheduler = make_scheduler(rows=8)
    scheduler.submit(make_job([3, 3, 3, 3]), 1.0)
    assert len(scheduler.next_batch(2)) == 2
    assert len(scheduler.next_batch(1)) == 2


def test_empty_sequences_cost_a_step() -> None:
    """They are computed as one padded step, and bounded and counted as one."""
    scheduler = make_scheduler(rows=9, steps=4, queue=6)
    scheduler.submit(make_job([0] * 5), 1.0)
    assert scheduler.waiting_steps == 5
    with pytest.raises(QueueFull):
        scheduler.submit(make_job([0, 0]), 1.0)
    assert len(scheduler.next_batch(1)) == 4


@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_no_batch_computes_more_than_twice_its_valid_steps(lengths: list[int]) -> None:
    """A long sequence does not make short ones wait for its length."""
    scheduler = make_scheduler(rows=32, steps=16_384)
    scheduler.submit(make_job(lengths), 1.0)
    while batch := scheduler.next_batch(1):
        steps = [count_steps(entry.steps) for entry in batch]
        assert len(steps) * max(steps) <= 2 * sum(steps)


def test_a_withdrawn_job_never_runs() -> None:
    """What waits of it is forgotten, and the rest stays."""
    scheduler = make_scheduler()
    gone, stays = make_job([3, 4]), make_job([3])
    scheduler.submit(gone, 1.0)
    scheduler.submit(stays, 1.0)
    scheduler.withdraw(gone)
    assert [entry.job for entry in scheduler.next_batch(1)] == [stays]
    assert scheduler.next_batch(1) == []
    assert scheduler.waiting_steps == 0


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    """The refused job leaves no trace, and the wait is what is queued over the speed."""
    scheduler = make_scheduler(queue=100)
    scheduler.submit(make_job([90]), 30.0)
    with pytest.raises(QueueFull, match="90 steps are waiting and the queue holds 100") as caught:
        scheduler.submit(make_job([11]), 30.0)
    assert caught.value.retry_after_seconds == 3
    assert (len(scheduler), scheduler.waiting_steps) == (1, 90)
    scheduler.submit(make_job([10]), 30.0)
