"""Holds what runs to the memory that it may take."""

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest

TRIES = 5
Result = TypeVar("Result")


def run_within(most_bytes: int, run: Callable[[], Result]) -> Result:
    """Run something, and fail if it holds more bytes at once than it may.

    What all threads of the process hold counts, also of those that earlier tests left behind. They can only add to it,
    so it is run again if it seems to hold too much, and fails if it does so each time.

    Args:
        most_bytes: the bound.
        run: what runs, several times if need be.

    Returns:
        What it returned.
    """
    peaks: list[int] = []
    while len(peaks) < TRIES:
        tracemalloc.start()
        try:
            result = run()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        if peaks[-1] < most_bytes:
            return result
    pytest.fail(f"it may hold {most_bytes} bytes, and held {min(peaks)} or more in each of {TRIES} tries")
