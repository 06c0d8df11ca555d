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
        waiting_steps: valid steps in the queue.
    """

    def __init__(self, max_batch_sequences: int, max_batch_steps: int, max_queue_steps: int) -> None:
        """Set the bounds.

        Args:
            max_batch_sequences: rows in a batch.
            max_batch_steps: the budget, padded steps in a batch; one longer sequence runs alone.
            max_queue_steps: valid steps that may wait.
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
            steps_per_second: valid steps the service gets through, to say when a refused job may come again.

        Raises:
            QueueFull: the queue has no room; nothing was queued.
        """
        steps = sum(map(len, job.sequences))
        if self.waiting_steps + steps > self._max_queue_steps:
            wait = max(1, round(self.waiting_steps / steps_per_second))
            raise QueueFull(self.waiting_steps, self._max_queue_steps, wait)
        for row, sequence in enumerate(job.sequences):
            self._entries[self._next_serial] = Entry(job, row)
            self._arrivals.append(self._next_serial)
            self._by_length.append((len(sequence), self._next_serial))
            self._next_serial += 1
        self._by_length.sort()  # the old part is sorted already, so this is a merge
        self.waiting_steps += steps

    def withdraw(self, job: Job) -> None:
        """Forget what still waits of a job."""
        self._remove({serial for serial, entry in self._entries.items() if entry.job is job})

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
        place = bisect_left(self._by_length, (len(self._entries[oldest].steps), oldest))
        rows = min(self._max_batch_sequences, -(-len(self._entries) // idle_runners))
        start, stop = self._grow(place, rows)
        serials = [serial for _, serial in self._by_length[start:stop]]
        batch = [self._entries[serial] for serial in serials]
        self._remove(set(serials))
        return batch

    def _grow(self, place: int, rows: int) -> tuple[int, int]:
        """Widen `[place, place + 1)` towards the nearer neighbour while rows and padded steps allow."""
        lengths = self._by_length
        start, stop = place, place + 1
        while stop - start < rows:
            shorter = lengths[place][0] - lengths[start - 1][0] if start else None
            longer = lengths[stop][0] - lengths[place][0] if stop < len(lengths) else None
            takes_longer = longer is not None and (shorter is None or longer <= shorter)
            if takes_longer and (stop - start + 1) * lengths[stop][0] <= self._max_batch_steps:
                stop += 1
            elif shorter is not None and (stop - start + 1) * lengths[stop - 1][0] <= self._max_batch_steps:
                start -= 1
            else:
                break
        return start, stop

    def _remove(self, serials: set[int]) -> None:
        self.waiting_steps -= sum(len(self._entries.pop(serial).steps) for serial in serials)
        self._by_length = [item for item in self._by_length if item[1] not in serials]
