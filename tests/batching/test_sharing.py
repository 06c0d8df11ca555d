"""The runners' time is shared by what runs take: on a made clock, with models as different as they can be."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.jobs import Job, Run
from service.batching.queue import Bounds, Queue
from service.batching.sharing import Queues
from tests.batching.test_queue import make_costs


def open_queues(queues: Queues, row_steps: list[float]) -> list[Queue]:
    """Open a queue for each model, whose runs take so long a padded step."""
    return [queues.open(make_costs(4, row_step), Bounds(256, 10**9)) for row_step in row_steps]


def submit(queues: Queues, queue: Queue, lengths: list[int], now: float = 0.0) -> Job:
    """Submit a job that knows which queue it is in."""
    job = Job(lengths, origin=queue)
    queues.submit(queue, job, now)
    return job


def owner_of(run: Run) -> object:
    """Return the queue that a run is of, the only one."""
    (owner,) = {entry.job.origin for entry in run.entries}
    return owner


def keep_busy(
    queues: Queues, opened: list[Queue], seconds: float, slowness: Callable[[object], float] = lambda _: 1.0
) -> dict[object, float]:
    """Have work waiting for all models all the time, and return the time of the runners that each got.

    Args:
        queues: the queues of all of them.
        opened: one or more, each of a model.
        seconds: how long, on the made clock.
        slowness: how many times as long a model's runs take as was predicted.
    """
    now, ends = 0.0, list[tuple[float, Run, float]]()
    got: dict[object, float] = dict.fromkeys(opened, 0.0)
    draw = np.random.default_rng(0)
    while now < seconds:
        for queue in opened:
            while queues.forecast(queue, now).sequences < 16:
                submit(queues, queue, draw.integers(1, 60, 3).tolist(), now)
        for run in queues.schedule(now):
            taken = slowness(owner_of(run)) * run.expected_seconds
            ends.append((now + taken, run, taken))
        ends.sort(key=lambda one: one[0])
        now, run, taken = ends.pop(0)
        queues.update(run, taken)
        got[owner_of(run)] += taken
    return got


@pytest.mark.parametrize("runners", [1, 2, 3, 5])
def test_all_that_are_busy_get_the_same_time(runners: int) -> None:
    """Ten models, one of which is a hundred times as slow as another: no share is off by a tenth."""
    queues = Queues(runners)
    got = keep_busy(queues, open_queues(queues, [1e-5 * 1.6**n for n in range(10)]), 60.0 / runners)
    fair = sum(got.values()) / len(got)
    assert all(abs(share - fair) < 0.1 * fair for share in got.values())


def test_what_runs_take_is_charged_and_not_what_was_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose runs take five times what was predicted for them gets no more time by it."""
    queues = Queues(2)
    honest, late = open_queues(queues, [1e-4, 1e-4])
    monkeypatch.setattr(late.costs, "follow", lambda *_, **__: None)  # it never learns
    got = keep_busy(queues, [honest, late], 30.0, lambda owner: 5.0 if owner is late else 1.0)
    assert got[late] == pytest.approx(got[honest], rel=0.1)


def test_who_was_idle_begins_level_with_the_others() -> None:
    """Time that was not used is not saved up, and a newcomer goes next."""
    queues = Queues(1)
    first, second = open_queues(queues, [1e-4, 1e-4])
    keep_busy(queues, [first], 10.0)
    for run in queues.schedule(10.0):
        queues.update(run, run.expected_seconds)
    submit(queues, first, [30] * 8, 10.0)
    submit(queues, second, [30] * 8, 10.0)
    order = []
    for run in queues.schedule(10.0):
        queues.update(run, run.expected_seconds)
        order.append(owner_of(run) is first)
    assert sorted(order[:2]) == [False, True]  # in turn
    assert sum(order[: len(order) // 2]) * 2 == pytest.approx(len(order) // 2, abs=2)


def test_a_flood_on_one_costs_the_others_a_share_and_no_queue() -> None:
    """What is predicted of a model with nothing waiting is a turn, however much waits for another."""
    queues = Queues(2)
    flooded, quiet = open_queues(queues, [1e-4, 1e-4])
    for _ in range(500):
        submit(queues, flooded, [50] * 4)
    ended, _ = queues.schedule(0.0)
    alone = quiet.costs.predict(1, 20)
    assert queues.forecast(flooded, 0.0).seconds > 2.0
    assert queues.forecast(quiet, 0.0).seconds < 0.05
    queues.submit(quiet, Job([20], deadline=alone + 0.05, origin=quiet), 0.0)
    queues.update(ended, ended.expected_seconds)
    run = next(queues.schedule(0.03))
    assert owner_of(run) is quiet
    assert not run.is_aside


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 20), min_size=1, max_size=5)), max_size=30))
def test_nothing_is_lost_or_mixed(jobs: list[tuple[int, list[int]]]) -> None:
    """Whatever waits for four models, each run is of one, and every sequence runs once."""
    queues = Queues(2)
    opened = open_queues(queues, [1e-5] * 4)
    waiting = set()
    for which, lengths in jobs:
        job = submit(queues, opened[which], lengths)
        waiting |= {(job, row) for row in range(len(lengths))}
    now = 0.0
    while run := next(queues.schedule(now), None):
        assert owner_of(run) in opened
        entries = {(entry.job, entry.row) for entry in run.entries}
        assert entries <= waiting
        waiting -= entries
        now += run.expected_seconds
        queues.update(run, None)
    assert not waiting
    assert queues.running == 0


def test_a_short_batch_runs_beside_the_long_ones_of_other_models() -> None:
    """If all runners are at work for others."""
    queues = Queues(2)
    flooded, quiet = open_queues(queues, [1e-3, 1e-5])
    for _ in range(20):
        submit(queues, flooded, [40])
    assert [run.is_aside for run in queues.schedule(0.0)] == [False, False]  # it has itself in its way
    submit(queues, quiet, [5])
    (run,) = queues.schedule(0.0)
    assert owner_of(run) is quiet
    assert run.is_aside
    submit(queues, quiet, [5])
    assert not list(queues.schedule(0.0))  # its own run is under way now
    queues.update(run, None)
    assert list(queues.schedule(0.0))
