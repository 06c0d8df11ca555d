"""How many steps a second each key may have encoded, whichever workers it sends them to."""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress

from service.errors import RateExceeded

BURST_SECONDS = 1.0  # of steps that a key may be ahead of its rate
SLOTS = 2**14  # for keys that have sent more than is paid for; others need none
NEARBY = 16  # slots where a key may be
LOCK_SECONDS = 0.01  # until a process that has locked the table counts as one that stands still


class Rates:
    """When each key has paid for what it sent: a table of constant size, in memory that workers share.

    Keys are known by 64 bits of their hashes. A slot whose time has passed is free, so there is room for all keys that
    owe anything. Were there ever more of them nearby, the one that owes least would be let off.
    """

    def __init__(self, lock: int | None = None) -> None:
        """Start every key without a debt.

        Args:
            lock: a file that is locked while the table is changed, if processes that are forked from this one change it
                too. The kernel unlocks it for one that is killed.
        """
        memory = memoryview(mmap.mmap(-1, 16 * SLOTS))
        self._owners, self._paid = memory[: 8 * SLOTS].cast("Q"), memory[8 * SLOTS :].cast("d")
        self._slots: dict[bytes, int] = {}  # where this process last found a key
        self._lock = lock

    @classmethod
    def shared(cls) -> "Rates":
        """Return a table for this process and those that are forked from it; Linux only.

        Its lock is a file in memory: a semaphore with a name would need `/dev/shm`, which some sandboxes lack.
        """
        return cls(os.memfd_create("lengthwise-rates"))

    def paid_at(self, key: bytes) -> float:
        """Return when all that a key has sent is paid for; 0 if that is not known."""
        known = int.from_bytes(key[:8], "little")
        slot = self._slots.get(key, 0)
        if self._owners[slot] != known:
            slot = self._slots[key] = self._find(known)
        return self._paid[slot] if self._owners[slot] == known else 0.0

    def charge(self, key: bytes, seconds: float, now: float) -> None:
        """Have a key pay for so many seconds of its rate."""
        known = int.from_bytes(key[:8], "little")
        if self._lock is not None:
            _seize(self._lock)
        slot = self._slots.get(key, 0)
        if self._owners[slot] != known:
            slot = self._slots[key] = self._find(known)
        paid_at = self._paid[slot] if self._owners[slot] == known else 0.0
        self._owners[slot] = known
        self._paid[slot] = (max(now, paid_at)) + seconds
        if self._lock is not None:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _find(self, known: int) -> int:
        """Return the slot of a key, or of what owes least nearby if it has none."""
        first = known % (SLOTS - NEARBY)
        nearby = range(first, first + NEARBY)
        return next((slot for slot in nearby if self._owners[slot] == known), min(nearby, key=self._paid.__getitem__))


def _seize(file: int) -> None:
    """Lock a file against other processes; go on without that if one of them stands still and keeps it locked."""
    late = time.monotonic() + LOCK_SECONDS
    while True:
        with suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > late:
            return
        os.sched_yield()


class StepMeter:
    """A bucket of tokens for each key, kept as the time at which all that it has sent is paid for.

    A key that is not behind by more than the burst may send, and pays afterwards. So a request of any size passes in
    its turn, a key that must wait is known before a body is read, and over time the rate holds.
    """

    def __init__(
        self, steps_per_second: int, rates: Rates | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start every key at its full allowance.

        Args:
            steps_per_second: of each key.
            rates: the table that other workers share; one of its own by default.
            clock: in seconds; of all workers alike.
        """
        self._rate = steps_per_second
        self._clock = clock
        self._rates = Rates() if rates is None else rates

    def wait(self, key: bytes) -> float:
        """Return the seconds until a key may send; not over 0 if it may."""
        return self._rates.paid_at(key) - BURST_SECONDS - self._clock()

    def admit(self, key: bytes) -> None:
        """Refuse a key that is behind.

        Raises:
            RateExceeded: the key is behind; carries when to come back.
        """
        if (seconds := self.wait(key)) > 0:
            raise RateExceeded(self._rate, seconds)

    def charge(self, key: bytes, steps: int) -> None:
        """Have a key pay for steps."""
        self._rates.charge(key, steps / self._rate, self._clock())
