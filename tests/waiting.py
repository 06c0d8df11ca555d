"""Waits for what another process, thread or turn of an event loop is about to do."""

import time
from collections.abc import Callable


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
