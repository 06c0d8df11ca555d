"""Jobs of sequences, which go into a queue, and runs of entries, which come out of it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import Any, Literal, TypeAlias

# Why a batch is no larger: it is shared out among idle runners, nothing else waited, it has as many rows or as many
# padded steps as a batch may have, or the next sequence would have cost more in it than in another.
CutReason: TypeAlias = Literal["shared", "all", "rows", "budget", "cost"]

# How far a request had come when its client hung up.
HangUpStage: TypeAlias = Literal["body", "queue", "run", "answer"]


@dataclass(slots=True, eq=False)
class Job:
    """One request's sequences in the queue. Once it is submitted, only its queue writes what waits of it.

    Attributes:
        lengths: the steps of each of its sequences.
        deadline: when its answer is of no use any more, on the clock that `now` is read from; never by default.
        is_bulk: whether it waits in the lane of large jobs; the queue decides if the caller does not.
        origin: the mark by which observers of batches know its request.
        delivery: the engine's own: it takes in what runs give, while anybody waits for that. The queue never reads it.
        due: when it should run: by its deadline, or a while after its arrival; of a bulk job, its first part.
        parts: for a bulk job, the place after each part of its sequences and when that part is due, in order.
        waiting: how many of its sequences wait.
        waiting_steps: the steps of those, an empty sequence counting as one.
        seconds_per_step: the expected seconds of one of its steps, among sequences of its length.
        cut: how many of its sequences were cut into batches, in order from the first.
        first: how many sequences its queue had taken before it.
        is_withdrawn: whether what still waits of it will never run.
    """

    lengths: Sequence[int]
    deadline: float = inf
    is_bulk: bool = False
    origin: object = None
    delivery: Any = None
    due: float = inf
    parts: Sequence[tuple[int, float]] = ()
    waiting: int = 0
    waiting_steps: int = 0
    seconds_per_step: float = 0.0
    cut: int = 0
    first: int = 0
    is_withdrawn: bool = False

    def part_of(self, row: int) -> tuple[int, float]:
        """Return the place after the part that a sequence belongs to, and when it is due."""
        if not self.parts:
            return len(self.lengths), self.due
        return self.parts[bisect_right(self.parts, row, key=itemgetter(0))]


@dataclass(slots=True, eq=False)
class Entry:
    """Sequence `row` of `job`, the steps it costs (1 if it is empty), and when it is due. It never changes."""

    job: Job
    row: int
    steps: int
    due: float = inf


@dataclass(slots=True, eq=False)
class Run:
    """A batch that was started. It never changes.

    Attributes:
        entries: the sequences in it, shortest first.
        steps: T, what each is padded to.
        expected_end: when it should be finished, on the queue's clock.
        expected_seconds: seconds it should take.
        measured_seconds: seconds it should take by the measurements alone, uncorrected.
        why: what kept it from being larger; see `CutReason`.
        is_bulk: whether it holds bulk jobs.
        is_loaded: whether all runners were at work once it had begun.
        is_aside: whether it is a short run beside the runners, all of which are at work.
    """

    entries: list[Entry]
    steps: int
    expected_end: float
    expected_seconds: float
    measured_seconds: float
    why: CutReason
    is_bulk: bool = False
    is_loaded: bool = False
    is_aside: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """How much waits for one model, and how long that should take.

    Attributes:
        sequences: how many wait.
        steps: their steps, an empty sequence counting as one.
        seconds: the time until all of them should have a runner.
    """

    sequences: int
    steps: int
    seconds: float
