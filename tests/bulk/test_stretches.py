"""Which shards an actor is handed next: all of them once, and mostly the neighbours of what it has read."""

from collections import deque
from itertools import pairwise

import pytest

from bulk.stretches import Stretch, Stretches


@pytest.mark.parametrize("actors", [1, 2, 5])
def test_an_actor_stays_among_neighbours(actors: int) -> None:
    """Each shard is handed out once, and an actor seldom leaves off where it read, though they take turns."""
    stretches = Stretches(range(100))
    stretch: list[Stretch] = [deque() for _ in range(actors)]
    handed: list[list[int]] = [[] for _ in range(actors)]
    place = 0
    while stretches.left:
        stretch[place], numbers = stretches.take(stretch[place])
        handed[place] += numbers
        place = (place + 1) % actors
    assert sorted(number for some in handed for number in some) == [*range(100)]
    jumps = sum(after != before + 1 for some in handed for before, after in pairwise(some))
    assert jumps <= 2 * (actors - 1)


def test_shards_of_a_lost_actor_are_the_next() -> None:
    """What is left of its stretch goes to whoever needs one, with what it had in hand in front."""
    stretches = Stretches(range(10))
    stretch, numbers = stretches.take(deque())
    stretch.extendleft(reversed(numbers))
    stretches.leave(stretch)
    assert stretches.left == 10
    _, again = stretches.take(deque())
    assert again == numbers == [0, 1, 2, 3]
