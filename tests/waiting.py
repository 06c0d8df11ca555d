"""Waits for what another process, thread or turn of an event loop is about to do, and looks at what others change."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def wait_until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def list_opened(pid: int | str) -> list[str]:
    """Return what a process has open, as Linux names it; what it closes meanwhile is left out."""
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(one.readlink()))
    return sorted(found)
