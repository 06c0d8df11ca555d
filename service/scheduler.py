"""Which waiting sequences run together next: pure logic, without threads, clock or session.

Sequences wait, not requests: a large request fills several batches, and small ones share one. A batch is the oldest
waiting sequence and those nearest to it in length, so that little is padded and nothing waits for ever.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

import numpy as np

from service.errors import QueueFull
from service.sequences import Embeddings, Steps

# A batch computes at most this many times its valid steps: beyond that, two batches cost less than one.
MAX_PADDING = 2


def count_steps(sequence: Steps) -> int:
    """Return the steps a sequence costs in a batch of its own: its length, and 1 where it has none."""
    return max(1, len(sequence))


@dataclass(slots=True, eq=False)
class Job:
    """One request's sequences on their way through the queue.

    Attributes:
        sequences: n arrays `(t_i, F)`.
        embeddings: `(n, D)`, filled row by row as batches finish.
        remaining: rows not filled yet.
        padded_steps: steps computed for this job so far, padding included.
    """

    sequences: Sequence[Steps]
    dim: InitVar[int]
    embeddings: Embeddings = field(init=False)
    remaining: int = field(init=False)
    padded_steps: int = 0

    def __post_init__(self, dim: int) -> None:
        """Make room for the embeddings; every row is missing."""
        self.remaining = len(self.sequences)
        self.embeddings = np.empty((self.remaining, dim), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Row `row` of `job`, waiting or running."""

    job: Job
    row: int

    @property
    def steps(self) -> Steps:
        """The sequence itself, `(t, F)`."""
        return self.job.sequences[self.row]


class Scheduler:
    """The queue, and the cuts that turn it into batches.

    Attributes:
        waiting_steps: steps in the queue, an empty sequence counting as one.
    """

    def __init__(self, max_batch_sequences: int, max_batch_steps: int, max_queue_steps: int) -> None:
        """Set the bounds.

        Args:
            max_batch_sequences: rows in a batch.
            max_batch_steps: the budget, padded steps in a batch; one longer sequence runs alone.
            max_queue_steps: steps that may wait.
        """
        self._max_batch_sequences = max_batch_sequences
        self._max_batch_steps = max_batch_steps
        self._max_queue_steps = max_queue_steps
        self._arrivals: deque[int] = deque()  # serials, oldest first; those already taken are skipped
        self._by_length: list[tuple[int, int]] = []  # (length, serial), sorted
        self._entries: dict[int, Entry] = {}
        self._next_serial = 0
        self.waiting_steps = 0

    def __len__(self) -> int:
        """Count the waiting sequences."""
        return len(self._entries)

    def submit(self, job: Job, steps_per_second: float) -> None:
        """Queue every sequence of a job.

        Args:
            job: new to the scheduler.
            steps_per_second: steps the service gets through, to say when a refused job may come again.

        Raises:
            QueueFull: the queue has no room; nothing was queued.
        """
        steps = sum(map(count_steps, job.sequences))
        if self.waiting_steps + steps > self._max_queue_steps:
            wait = max(1, round(self.waiting_steps / steps_per_second))
            raise QueueFull(self.waiting_steps, self._max_queue_steps, wait)
        for row, sequence in enumerate(job.sequences):
            self._entries[self._next_serial] = Entry(job, row)
            self._arrivals.append(self._next_serial)
            self._by_length.append((count_steps(sequence), self._next_serial))
            self._next_serial += 1
        self._by_length.sort()  # the old part is sorted already, so this is a merge
        self.waiting_steps += steps

    def withdraw(self, job: Job) -> None:
        """Forget what still waits of a job."""
        kept = [item for item in self._by_length if self._entries[item[1]].job is not job]
        self._entries = {serial: self._entries[serial] for _, serial in kept}
        self._by_length = kept
        self.waiting_steps = sum(steps for steps, _ in kept)

    def next_batch(self, idle_runners: int) -> list[Entry]:
        """Take the next batch off the queue.

        Args:
            idle_runners: runners that could start now; what waits is shared out among them.

        Returns:
            The oldest entry and its nearest in length, shortest first; nothing where nothing waits.
        """
        while self._arrivals and self._arrivals[0] not in self._entries:
            self._arrivals.popleft()
        if not self._arrivals:
            return []
        oldest = self._arrivals[0]
        place = bisect_left(self._by_length, (count_steps(self._entries[oldest].steps), oldest))
        start, stop = self._grow(place, min(self._max_batch_sequences, -(-len(self._entries) // idle_runners)))
        taken = self._by_length[start:stop]
        del self._by_length[start:stop]
        self.waiting_steps -= sum(steps for steps, _ in taken)
        return [self._entries.pop(serial) for _, serial in taken]

    def _grow(self, place: int, rows: int) -> tuple[int, int]:
        """Widen `[place, place + 1)` by the nearer neighbour in length while rows, budget and padding allow."""
        lengths = self._by_length
        start, stop, valid = place, place + 1, lengths[place][0]
        while stop - start < rows:
            neighbours = [candidate for candidate in (stop, start - 1) if 0 <= candidate < len(lengths)]
            for candidate in sorted(neighbours, key=lambda other: abs(lengths[other][0] - lengths[place][0])):
                added = lengths[candidate][0]
                padded = (stop - start + 1) * max(added, lengths[stop - 1][0])
                if padded <= min(self._max_batch_steps, MAX_PADDING * (valid + added)):
                    start, stop, valid = min(start, candidate), max(stop, candidate + 1), valid + added
                    break
            else:
                break
        return start, stop
