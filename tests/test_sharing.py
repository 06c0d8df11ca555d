"""The runners' time is shared by what runs take: on a made clock, with models as different as they can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.jobs import Job, Run
from service.batching.queue import Scheduler
from service.batching.sharing import Slots
from tests.test_queue import make_costs


def make_schedulers(slots: Slots, row_steps: list[float]) -> list[Scheduler]:
    """Make a scheduler for each model, whose runs take so long a padded step."""
    return [Scheduler(make_costs(4, row_step), slots, 256, 10**9) for row_step in row_steps]


def keep_busy(
    slots: Slots, schedulers: list[Scheduler], seconds: float, slowness: float = 1.0
) -> dict[Scheduler, float]:
    """Have work waiting for all of them all the time, and return the time of the runners that each got.

    Args:
        slots: of them all.
        schedulers: two or more.
        seconds: on the made clock.
        slowness: how many times as long runs take as was predicted.
    """
    now, ends = 0.0, list[tuple[float, Run, float]]()
    got = dict.fromkeys(schedulers, 0.0)
    draw = np.random.default_rng(0)
    while now < seconds:
        for scheduler in schedulers:
            while scheduler.waiting < 16:
                scheduler.submit(Job(draw.integers(1, 60, 3).tolist()), now)
        while run := slots.next_run(now):
            taken = slowness * run.expected_seconds
            ends.append((now + taken, run, taken))
        ends.sort(key=lambda one: one[0])
        now, run, taken = ends.pop(0)
        slots.finish(run, taken)
        got[run.scheduler] += taken  # type: ignore[index]
    return got


@pytest.mark.parametrize("runners", [1, 2, 3, 5])
def test_all_that_are_busy_get_the_same_time(runners: int) -> None:
    """Ten models, one of which is a hundred times as slow as another: no share is off by a tenth."""
    slots = Slots(runners)
    got = keep_busy(slots, make_schedulers(slots, [1e-5 * 1.6**n for n in range(10)]), 60.0 / runners)
    fair = sum(got.values()) / len(got)
    assert all(abs(share - fair) < 0.1 * fair for share in got.values())


def test_what_runs_take_is_charged_and_not_what_was_predicted() -> None:
    """A model whose runs take five times what was predicted for them gets no more time by it."""
    slots = Slots(2)
    honest, late = make_schedulers(slots, [1e-4, 1e-4])
    follow, late.costs.follow = late.costs.follow, lambda *_, **__: None  # type: ignore[method-assign] # it never learns
    now, ends, got = 0.0, list[tuple[float, Run, float]](), {honest: 0.0, late: 0.0}
    while now < 30.0:
        for scheduler in (honest, late):
            while scheduler.waiting < 16:
                scheduler.submit(Job([20, 30, 40]), now)
        while run := slots.next_run(now):
            taken = run.expected_seconds * (5 if run.scheduler is late else 1)
            ends.append((now + taken, run, taken))
        ends.sort(key=lambda one: one[0])
        now, run, taken = ends.pop(0)
        slots.finish(run, taken)
        got[run.scheduler] += taken  # type: ignore[index]
    assert got[late] == pytest.approx(got[honest], rel=0.1)
    assert callable(follow)


def test_who_was_idle_begins_level_with_the_others() -> None:
    """Time that was not used is not saved up, and a newcomer goes next."""
    slots = Slots(1)
    first, second = make_schedulers(slots, [1e-4, 1e-4])
    keep_busy(slots, [first], 10.0)
    while run := slots.next_run(10.0):
        slots.finish(run, run.expected_seconds)
    first.submit(Job([30] * 8), 10.0)
    second.submit(Job([30] * 8), 10.0)
    order = []
    while run := slots.next_run(10.0):
        slots.finish(run, run.expected_seconds)
        order.append(run.scheduler is first)
    assert sorted(order[:2]) == [False, True]  # in turn
    assert sum(order[: len(order) // 2]) * 2 == pytest.approx(len(order) // 2, abs=2)


def test_a_flood_on_one_costs_the_others_a_share_and_no_queue() -> None:
    """What is predicted of a model with nothing waiting is a turn, however much waits for another."""
    slots = Slots(2)
    flooded, quiet = make_schedulers(slots, [1e-4, 1e-4])
    for _ in range(500):
        flooded.submit(Job([50] * 4), 0.0)
    while slots.next_run(0.0):
        pass
    alone = quiet.costs.predict(1, 20)
    assert flooded.predict_wait(0.0) > 2.0
    assert quiet.predict_wait(0.0) < 0.05
    quiet.submit(Job([20], deadline=alone + 0.05), 0.0)
    ended = next(iter(slots.running))
    slots.finish(ended, ended.expected_seconds)
    run = slots.next_run(0.03)
    assert run is not None
    assert run.scheduler is quiet


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 20), min_size=1, max_size=5)), max_size=30))
def test_nothing_is_lost_or_mixed(jobs: list[tuple[int, list[int]]]) -> None:
    """Whatever waits for four models, each run is of one, and every sequence runs once."""
    slots = Slots(2)
    schedulers = make_schedulers(slots, [1e-5] * 4)
    waiting = set()
    for which, lengths in jobs:
        job = Job(lengths)
        schedulers[which].submit(job, 0.0)
        waiting |= {(job, row, which) for row in range(len(lengths))}
    now = 0.0
    while run := slots.next_run(now):
        entries = {(entry.job, entry.row, schedulers.index(run.scheduler)) for entry in run.entries}  # type: ignore[arg-type]
        assert entries <= waiting
        waiting -= entries
        now += run.expected_seconds
        slots.finish(run, None)
    assert not waiting
    assert slots.idle == 2


def test_a_short_batch_runs_beside_the_long_ones_of_other_models() -> None:
    """Where all runners are at work for others."""
    slots = Slots(2)
    flooded, quiet = make_schedulers(slots, [1e-3, 1e-5])
    for _ in range(20):
        flooded.submit(Job([40]), 0.0)
    while slots.next_run(0.0):
        pass
    assert slots.next_aside(0.0, 0.002) is None  # the flooded one has itself in its way, and no short batch
    quiet.submit(Job([5]), 0.0)
    run = slots.next_aside(0.0, 0.002)
    assert run is not None
    assert run.scheduler is quiet
    quiet.submit(Job([5]), 0.0)
    assert slots.next_aside(0.0, 0.002) is None  # its own run is under way now
    slots.finish(run, None)
    assert slots.next_aside(0.0, 0.002) is not None
