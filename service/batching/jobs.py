"""What the scheduler is given and what it hands out: jobs in, runs of entries out."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import Literal, Protocol, TypeAlias

# Why a batch is no larger: it is shared out among idle runners, nothing else waited, it has as many rows or as many
# padded steps as a batch may have, or the next sequence would have cost more in it than in another.
Why: TypeAlias = Literal["shared", "all", "rows", "budget", "cost"]

# How far a request had come when nobody waited for it any more.
Where: TypeAlias = Literal["body", "queue", "run", "answer"]


@dataclass(slots=True, eq=False)
class Job:
    """One request's sequences on their way through the queue.

    Attributes:
        lengths: the steps of each of its sequences.
        deadline: when it is of no use any more, on the clock that `now` is read from; none by default.
        is_bulk: whether it waits in the lane of large jobs; the scheduler decides where the caller does not.
        origin: what whoever observes batches knows its request by.
        due: how urgent it is: its deadline, or a while after its arrival. Of a bulk job, its first part.
        parts: of a bulk job, the place after each part of its sequences, and when that part is due; in order.
        waiting: sequences of it that wait.
        waiting_steps: the steps of those, an empty sequence counting as one.
        seconds_per_step: what a step of it is expected to cost in good company.
        cut: sequences of it that were cut into batches, the first of them.
        is_withdrawn: what waits of it will not run.
    """

    lengths: Sequence[int]
    deadline: float = inf
    is_bulk: bool = False
    origin: object = None
    due: float = inf
    parts: Sequence[tuple[int, float]] = ()
    waiting: int = 0
    waiting_steps: int = 0
    seconds_per_step: float = 0.0
    cut: int = 0
    is_withdrawn: bool = False

    def part_of(self, row: int) -> tuple[int, float]:
        """Return the place after the part that a sequence belongs to, and when it is due."""
        if not self.parts:
            return len(self.lengths), self.due
        return self.parts[bisect_right(self.parts, row, key=itemgetter(0))]


@dataclass(slots=True, eq=False)
class Entry:
    """Sequence `row` of `job`, the steps it costs, 1 where it has none, and when it is due."""

    job: Job
    row: int
    steps: int
    due: float = inf


class Owner(Protocol):
    """Who started a run."""

    def finish(self, run: "Run", seconds: float | None) -> None:
        """Take it back."""


@dataclass(slots=True, eq=False)
class Run:
    """A batch that was handed to a runner.

    Attributes:
        entries: what is in it, shortest first.
        steps: T, what each is padded to.
        expected_end: when it should be finished, on the scheduler's clock.
        expected_seconds: what it should take.
        measured_seconds: and what the measurements say, uncorrected.
        why: it is no larger.
        scheduler: that started it, and is told when it is done.
        is_bulk: whether it is of bulk jobs.
        is_loaded: whether all runners were at work once it had begun.
    """

    entries: list[Entry]
    steps: int
    expected_end: float
    expected_seconds: float
    measured_seconds: float
    why: Why
    scheduler: "Owner"
    is_bulk: bool = False
    is_loaded: bool = False
