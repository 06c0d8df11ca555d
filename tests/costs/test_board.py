"""What workers tell each other in shared memory: who is at work, and how much waits."""

import os
from itertools import count

import pytest

from service.batching.jobs import Job
from service.batching.policy import AFAR
from service.batching.queue import Bounds
from service.batching.sharing import Queues
from service.costs.board import COMPANY_SECONDS, LOOK_SECONDS, Board
from service.costs.model import CostModel
from service.errors import QueueFull

LATER = 10 * COMPANY_SECONDS


def make_views(workers: int, cpus: int) -> list[Board]:
    """Return the view of each worker of one board."""
    board = Board(workers, cpus)
    return [board.view(number) for number in range(workers)]


def test_a_worker_borrows_the_cpus_that_others_leave_idle() -> None:
    """It may use all runners while it is alone, its share while all are at work, and what is left in between."""
    views = make_views(4, 8)
    one, *others = views
    times = (100.0 + LATER * number for number in count())
    assert one.allow(9, next(times)) == 9
    for number, expected in enumerate((7, 6, 5), 1):  # of 8 CPUs, each busy one keeps one
        now = next(times)
        for other in others[:number]:
            other.tell(now, 1, [])
        assert one.allow(9, now) == 9 * (8 - number) // 8 == expected
    now = next(times)
    for other in others:
        other.tell(now, 3, [])
    assert one.allow(9, now) == 9 * 2 // 8  # its share is two CPUs, however busy others are
    assert one.allow(1, now + LATER) == 1


def test_a_worker_that_was_just_at_work_counts_as_busy() -> None:
    """Between two short runs its event loop is at work; soon afterwards its CPU is free."""
    one, other = make_views(2, 2)
    other.tell(100.0, 0, [])
    assert one.allow(3, 100.0) == 1
    assert one.allow(3, 100.0 + LOOK_SECONDS / 2) == 1  # it is not looked at again so soon
    assert one.allow(3, 100.0 + 2 * COMPANY_SECONDS) == 3


def test_a_worker_that_ended_leaves_nothing_behind() -> None:
    """Its runs and what waited in it are gone, whatever it told last."""
    one, other = make_views(2, 2)
    other.tell(100.0, 2, [(5, 70, 0.5)])
    assert (one.allow(3, 100.0), one.waiting_elsewhere(5, 100.0)) == (1, (70, 0.5))
    other.clear()
    assert (one.allow(3, 101.0), one.waiting_elsewhere(5, 101.0)) == (3, (0, 0.0))


def test_what_waits_is_told_by_place() -> None:
    """Queues of one place are added up, and a place where nothing waits any more is empty."""
    one, other = make_views(2, 2)
    other.tell(100.0, 1, [(5, 70, 0.5), (6, 1, 0.25), (5, 30, 0.5)])
    assert [one.waiting_elsewhere(place, 100.0) for place in (5, 6, 7)] == [(100, 1.0), (1, 0.25), (0, 0.0)]
    assert other.waiting_elsewhere(5, 100.0) == (0, 0.0)  # its own is not elsewhere
    other.tell(101.0, 0, [(6, 2, 0.5)])
    assert [one.waiting_elsewhere(place, 101.0) for place in (5, 6)] == [(0, 0.0), (2, 0.5)]


def test_a_forked_process_writes_on_the_same_board() -> None:
    """The words are in memory that processes share, not copied at the fork."""
    one, other = make_views(2, 2)
    if not (child := os.fork()):
        other.tell(100.0, 1, [(3, 9, 0.5)])
        os._exit(0)
    os.waitpid(child, 0)
    assert (one.allow(3, 100.0), one.waiting_elsewhere(3, 100.0)) == (1, (9, 0.5))


def make_queues(company: Board) -> Queues:
    """Return queues of a worker with three runners."""
    return Queues(3, company=company)


COSTS = CostModel({(1, 10): 1e-3, (1, 100): 1e-2, (8, 100): 3e-2}, 8)


def test_queues_start_as_many_runs_as_the_others_allow() -> None:
    """Three while the other worker is idle, one while it is at work; and they tell it of their own."""
    one, other = make_views(2, 2)
    queues = make_queues(one)
    queue = queues.open(COSTS, Bounds(1000, 10_000))
    for now, is_busy, expected in ((100.0, False, 3), (200.0, True, 1)):
        if is_busy:
            other.tell(now, 1, [])
        queues.submit(queue, Job([100] * 12), now)
        runs = [*queues.schedule(now)]
        assert len(runs) == queues.running == expected
        assert other.allow(3, now) == 1  # those runs keep both CPUs busy, or the last look did
        while runs:
            for run in runs:
                queues.update(run, 0.01)
            runs = [*queues.schedule(now)]


def test_bulk_leaves_a_cpu_while_small_work_comes_to_another_worker() -> None:
    """Between two small requests the other worker looks idle, and the next one finds a CPU all the same."""
    one, other = make_views(2, 2)
    queues = make_queues(one)
    queue = queues.open(COSTS, Bounds(1000, 10_000))
    other.tell(100.0, 0, [], small_at=100.0)
    queues.submit(queue, Job([100] * 40, is_bulk=True), 100.1)
    assert len([*queues.schedule(100.1)]) == 1
    assert len([*queues.schedule(100.5)]) == 1  # nobody else came meanwhile, and a second one starts


def test_bulk_in_all_of_a_share_leaves_a_runner_to_small_work() -> None:
    """A share of one runner is at bulk, and a job that is not need not wait for the end of that run."""
    one, other = make_views(2, 2)
    queues = make_queues(one)
    queue = queues.open(COSTS, Bounds(1000, 10_000))
    other.tell(100.0, 1, [])
    queues.submit(queue, Job([100] * 40, is_bulk=True), 100.0)
    assert [run.is_bulk for run in queues.schedule(100.0)] == [True]
    for _ in range(2):
        queues.submit(queue, Job([100]), 100.0)
        queues.submit(queue, Job([10]), 100.0)
    assert [run.is_bulk for run in queues.schedule(100.0)] == [False]
    assert queues.running == 2


def test_the_bound_on_waiting_steps_is_of_all_workers() -> None:
    """What waits in another worker takes up room, and `Retry-After` knows how long that takes."""
    one, other = make_views(2, 2)
    queues = make_queues(one)
    queue = queues.open(COSTS, Bounds(1000, 1000), place=4)
    other.tell(100.0, 1, [(4, 950, 30.0), (5, 950, 30.0)])
    queues.submit(queue, Job([50]), 100.0)
    with pytest.raises(QueueFull, match="1000 steps are waiting") as caught:
        queues.submit(queue, Job([1]), 100.0)
    assert caught.value.retry_after_seconds == 10  # 30 s of work for three runners
    with pytest.raises(QueueFull):
        queues.require_room([queue], 100.0)
    other.tell(101.0, 1, [])
    queues.submit(queue, Job([1]), 101.0)


def test_runs_of_a_gpu_leave_others_their_cpus() -> None:
    """If another process runs the batches, a busy worker beside this one is no reason for fewer runs."""
    one, other = make_views(2, 2)
    other.tell(100.0, 3, [])
    queues = Queues(3, AFAR, one)
    queue = queues.open(COSTS, Bounds(1000, 10_000))
    for _ in range(3):
        queues.submit(queue, Job([100] * 8), 100.0)
    assert len([*queues.schedule(100.0)]) == 3
    assert queues.is_alone(100.0)
