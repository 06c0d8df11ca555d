"""How far a large call is: a bar of tqdm if that is installed, else a line of numbers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any


@contextmanager
def show_progress(sequences: Any, *, shown: bool) -> Iterator[Callable[[int], None] | None]:
    """Show how many sequences are encoded, on stderr.

    Args:
        sequences: those of the call; how many there are is told if they say so.
        shown: false for nothing.

    Yields:
        What is to be called with how many more are encoded, from any thread; None if nothing is shown.
    """
    if not shown:
        yield None
        return
    total = len(sequences) if hasattr(sequences, "__len__") else None
    lock = Lock()
    bar = _open_bar(total)

    def see(count: int) -> None:
        with lock:
            bar.update(count)

    try:
        yield see
    finally:
        bar.close()


class _Line:
    """A line that is written over itself."""

    def __init__(self, total: int | None) -> None:
        self._of = "" if total is None else f" of {total:,}"
        self._done = 0

    def update(self, count: int) -> None:
        """Write the line anew."""
        self._done += count
        sys.stderr.write(f"\r{self._done:,}{self._of} sequences encoded")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        sys.stderr.write("\n")


def _open_bar(total: int | None) -> Any:
    try:
        tqdm = import_module("tqdm.auto").tqdm
    except ImportError:
        return _Line(total)
    return tqdm(total=total, unit=" sequences")
