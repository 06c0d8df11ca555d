"""Shares out shards in stretches of neighbours, so that a reader mostly goes on where it stopped."""

from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

SHARDS_AT_ONCE = 4  # for an actor, which reads the next while it encodes one

Stretch: TypeAlias = deque[int]  # numbers of shards, ascending


class Stretches:
    """All shards that are left, shared out.

    Whoever takes shards stays in a stretch, since a large row group or a compressed file is read on from where reading
    stopped. If its stretch is at its end, it goes on with the later half of the longest one.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._free = [deque(numbers)]
        self._taken: list[Stretch] = []

    @property
    def left(self) -> int:
        """How many shards there are."""
        return sum(map(len, (*self._free, *self._taken)))

    def take(self, stretch: Stretch) -> tuple[Stretch, list[int]]:
        """Return the next shards of a stretch, and the one to go on with: another if this one is at its end."""
        if not stretch:
            self.leave(stretch)
            stretch = self._free.pop() if self._free else split(max(self._taken, key=len))
            self._taken.append(stretch)
        return stretch, [stretch.popleft() for _ in range(min(SHARDS_AT_ONCE, len(stretch)))]

    def leave(self, stretch: Stretch) -> None:
        """Give up a stretch; what is left of it is for others."""
        self._taken = [one for one in self._taken if one is not stretch]
        if stretch:
            self._free.append(stretch)


def split(stretch: Stretch) -> Stretch:
    """Take the later half out of a stretch."""
    later = [stretch.pop() for _ in range((len(stretch) + 1) // 2)]
    return deque(reversed(later))
