"""How many steps a second each key may have encoded."""

import time
from collections.abc import Callable

from service.errors import RateExceeded

BURST_SECONDS = 1.0  # of steps that a key may be ahead of its rate


class StepMeter:
    """A bucket of tokens for each key, kept as the time at which all that it has sent is paid for.

    A key that is not behind by more than the burst may send, and pays afterwards. So a request of any size passes in
    its turn, a key that must wait is known before a body is read, and over time the rate holds.
    """

    def __init__(self, steps_per_second: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start every key at its full allowance.

        Args:
            steps_per_second: the steps that each key may send in a second.
            clock: a clock in seconds.
        """
        self._rate = steps_per_second
        self._clock = clock
        self._paid_at: dict[bytes, float] = {}  # as many as there ever were keys

    def wait(self, key: bytes) -> float:
        """Return the seconds until a key may send; 0 or less if it may now."""
        return self._paid_at.get(key, 0.0) - BURST_SECONDS - self._clock()

    def admit(self, key: bytes) -> None:
        """Refuse a key that is behind.

        Raises:
            RateExceeded: the key is behind; carries when to come back.
        """
        if (seconds := self.wait(key)) > 0:
            raise RateExceeded(self._rate, seconds)

    def charge(self, key: bytes, steps: int) -> None:
        """Have a key pay for steps."""
        self._paid_at[key] = max(self._paid_at.get(key, 0.0), self._clock()) + steps / self._rate
