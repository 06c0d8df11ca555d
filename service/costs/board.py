"""Words of memory that the workers of one service share: who is at work, and how much waits.

Each worker writes its own row and reads the others', so nothing is locked. A word is eight bytes, written at once; what
is read may be a millisecond old, and decides nothing but how many CPUs are borrowed and when a queue is full.
"""

import mmap
from collections.abc import Iterable

PLACES = 30  # for what waits of each model; those that share one count as one model
FIRST = 4  # words of a row before them: when it was written, runs under way, when small work last came, and none
WORDS = FIRST + 2 * PLACES  # of a row, a whole number of lines of a CPU's cache
LOOK_SECONDS = 0.001  # how old what was read of others may be
COMPANY_SECONDS = 0.005  # a worker that gave out work so lately is at work, whether a run is under way or not


class Board:
    """What one worker tells the others, and what they tell it.

    Attributes:
        workers: how many there are.
        cpus: that all of them may keep busy together.
        number: of the worker whose view this is, from 0.
    """

    def __init__(self, workers: int, cpus: int, number: int = 0, memory: mmap.mmap | None = None) -> None:
        """Make a board that forked processes share, or a worker's view of one.

        Args:
            workers: how many there are.
            cpus: that all of them may keep busy together.
            number: of the worker whose view this is.
            memory: of a board that was made before.
        """
        self.workers, self.cpus, self.number = workers, cpus, number
        self._memory = mmap.mmap(-1, 8 * WORDS * workers) if memory is None else memory
        self._words = memoryview(self._memory).cast("d")
        self._own = number * WORDS
        self._others = [row * WORDS for row in range(workers) if row != number]
        self._share = max(1, cpus // workers)
        self._looked = -1.0
        self._free = self._share
        self._small_at = 0.0
        self._told: set[int] = set()  # places at which something waits here, as the others know it
        self._elsewhere: dict[int, tuple[int, float]] = {}  # what waits in the others, by place, as far as it was read

    def view(self, number: int) -> "Board":
        """Return the view of a worker."""
        return Board(self.workers, self.cpus, number, self._memory)

    def clear(self) -> None:
        """Forget what this worker told: it has ended."""
        self._words[self._own : self._own + WORDS] = memoryview(bytes(8 * WORDS)).cast("d")

    def tell(self, now: float, running: int, waiting: Iterable[tuple[int, int, float]], small_at: float = 0.0) -> None:
        """Tell the others of this worker.

        Args:
            now: the time, by a clock that all processes share.
            running: runs under way.
            waiting: of each queue its place, the steps that wait, and what these should take one runner.
            small_at: when a job that is not bulk last came; long ago by default.
        """
        words, own = self._words, self._own
        words[own], words[own + 1], words[own + 2] = now, running, small_at
        if waiting or self._told:
            by_place: dict[int, tuple[int, float]] = {}
            for place, steps, seconds in waiting:
                known = by_place.get(place, (0, 0.0))
                by_place[place] = known[0] + steps, known[1] + seconds
            for place in self._told | by_place.keys():
                at = own + FIRST + 2 * place
                words[at], words[at + 1] = by_place.get(place, (0, 0.0))
            self._told = {*by_place}

    def allow(self, runners: int, now: float) -> int:
        """Return how many of its runners this worker may use: its share, and those whose CPUs others leave idle."""
        self._look(now)
        return max(1, runners * self._free // self.cpus)

    def small_elsewhere(self, now: float) -> float:
        """Return when a job that is not bulk last came to another worker."""
        self._look(now)
        return self._small_at

    def waiting_elsewhere(self, place: int, now: float) -> tuple[int, float]:
        """Return the steps that wait in other workers at a place, and what these should take one runner."""
        self._look(now)
        if (known := self._elsewhere.get(place)) is None:
            words, at = self._words, FIRST + 2 * place
            steps = int(sum([words[row + at] for row in self._others]))
            known = steps, sum([words[row + at + 1] for row in self._others])
            self._elsewhere[place] = known
        return known

    def _look(self, now: float) -> None:
        """See who is at work, unless that was done just now."""
        if 0 <= now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._elsewhere.clear()
        words, busy = self._words, 0.0
        for row in self._others:
            busy += max(words[row + 1], now - words[row] < COMPANY_SECONDS)
        self._small_at = max([words[row + 2] for row in self._others], default=0.0)
        self._free = max(self._share, self.cpus - int(busy))
