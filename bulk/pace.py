"""How many requests a service should have at once: more while it answers quickly, half once it says no."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

FIRST, MOST = 2.0, 64
SLOW_TIMES = 6.0  # as long as the quickest answer, in seconds a byte: what is asked then only waits there


class Pace:
    """The bound on requests under way, as TCP finds its own: additive increase, multiplicative decrease."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = FIRST
        self.clock = clock
        self._under_way = 0
        self._quickest = inf
        self._halved = -inf
        self._changed = threading.Condition()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be one of those under way, once there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < int(self.limit))
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def refuse(self, began: float) -> None:
        """Take in that the service has too much to do; a request that began before it was last halved tells no news."""
        with self._changed:
            if began > self._halved:
                self.limit = max(1.0, self.limit / 2)
                self._halved = self.clock()

    def answer(self, seconds: float, size: int) -> None:
        """Take in that a request of so many bytes was answered."""
        with self._changed:
            time_of_byte = seconds / max(1, size)
            self._quickest = min(self._quickest, time_of_byte)
            is_slow = time_of_byte > SLOW_TIMES * self._quickest
            self.limit = max(1.0, self.limit - 1 / self.limit) if is_slow else min(MOST, self.limit + 1 / self.limit)
            self._changed.notify_all()
