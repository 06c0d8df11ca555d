"""The connections of a process: how many may be open, and which is closed when one more comes.

The one that has been idle longest makes room. If all are busy, one more is accepted all the same: requests for health
and metrics are answered on it, and all others are refused.
"""

import sys
import time
from collections.abc import Callable
from math import inf
from typing import Protocol

# The key under which a request's scope holds its refusal, if its connection or its call is one too many.
CROWDED = "lengthwise.crowded"
IDLE_SECONDS = 1.0  # a connection that rests for less is in use: its next request may be on its way
SPARE = 32  # connections beyond the limit, on which health is answered and others are refused


class Guest(Protocol):
    """A connection; `WatchingProtocol` is one."""

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""

    @property
    def is_unread(self) -> bool:
        """Whether something that was answered waits to be read."""

    def hang_up(self) -> None:
        """Close it at once."""


class Crowd:
    """The open connections of a process.

    Attributes:
        limit: how many may be open, and busy.
    """

    def __init__(self, limit: float = inf, see_closed: Callable[[], None] = lambda: None) -> None:
        """Begin without connections.

        Args:
            limit: how many may be open, at least 1.
            see_closed: a function to call when an idle connection is closed.
        """
        self.limit = limit
        self._see_closed = see_closed
        self._open: set[Guest] = set()
        self._resting: dict[Guest, float] = {}  # since when, the longest first; some may be busy again

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    @property
    def is_over(self) -> bool:
        """Whether more are open than may be."""
        return len(self._open) > self.limit

    def enter(self, guest: Guest) -> bool:
        """Take in a connection, and close those that have been idle longest while there are too many.

        Returns:
            Whether there still are too many, and this one is only for health.
        """
        self._open.add(guest)
        self.rest(guest)
        self._make_room(guest)
        return self.is_over

    def rest(self, guest: Guest) -> None:
        """Take note that a connection waits for a request from now on."""
        if guest in self._open:
            self._resting.pop(guest, None)
            self._resting[guest] = time.monotonic()

    def leave(self, guest: Guest) -> None:
        """Forget a connection that is closed."""
        self._open.discard(guest)
        self._resting.pop(guest, None)

    def _make_room(self, newest: Guest) -> None:
        now = time.monotonic()
        while self.is_over:
            guest = next(iter(self._resting))
            least = 0.0 if len(self._open) > self.limit + SPARE else IDLE_SECONDS
            if guest is newest and least == 0.0:
                guest.hang_up()  # all others are busy
                return
            if guest is newest or now - self._resting[guest] < least:
                return
            if guest.is_busy:
                del self._resting[guest]  # it rests again once its answer is complete
            elif guest.is_unread and least:
                self.rest(guest)
            else:
                self.leave(guest)
                self._see_closed()
                guest.hang_up()


def allow_files(number: int) -> int:
    """Let this process have so many files and connections open, as far as the system's hard limit goes.

    Returns:
        How many it may have.
    """
    if not sys.platform.startswith(("linux", "darwin")):
        return number
    import resource  # noqa: PLC0415 - elsewhere there is none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unbounded = resource.RLIM_INFINITY
    if soft != unbounded and soft < number:
        soft = number if hard == unbounded else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return number if soft == unbounded else soft
