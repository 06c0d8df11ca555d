"""The memory this process holds, how to give back what is free of it, and how much more there is."""

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

from service.costs.cgroups import CGROUPS, PROC, read_text, walk_groups

ARENA_MAX = "MALLOC_ARENA_MAX"  # the variable of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of its malloc.h
KEPT_BYTES = 2**26  # free at the end of the heap, before they are given back: each run would take its pages anew
LARGEST_BYTES = 2**25  # that is taken from the heap, the most that glibc allows; larger pieces are taken anew, too
NEW_OBJECTS = 10_000  # that Python makes before its collector looks for cycles among them; 700 if nobody says
UNBOUNDED_BYTES = 2**60  # what version 1 says of a group without a limit is more


def resident_bytes(proc: Path = PROC) -> int:
    """Return the memory of this process that is in use, 0 if the kernel does not say."""
    fields = read_text(proc / "self" / "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def share_heap() -> None:
    """Have all threads take memory from one heap, if the C library has several (glibc) and nobody chose their number.

    Each thread would have one of its own otherwise, and keep what its largest run took where no other can use it.
    Between runs the heap keeps up to `KEPT_BYTES` that are free.
    """
    if ARENA_MAX not in os.environ:
        with suppress(OSError, AttributeError, TypeError):
            choose = ctypes.CDLL(None).mallopt
            choose(M_ARENA_MAX, 1)
            choose(M_TRIM_THRESHOLD, KEPT_BYTES)
            choose(M_MMAP_THRESHOLD, LARGEST_BYTES)


def spare_collector() -> None:
    """Have Python's collector look no more at what is there now, and seldom at what is new.

    Requests, streams and connections leave no cycles, so that it has nothing to free of them. Sixteen requests under
    way have more objects than it lets be made by itself: it would look through them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


def trim_heap() -> None:
    """Have the C library give back what it keeps of freed memory, if it is one that can (glibc)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes(cgroups: Path = CGROUPS, proc: Path = PROC) -> int | None:
    """Return the memory that may still be taken: the machine's, within the limits of its control groups.

    Args:
        cgroups: where the control groups are mounted.
        proc: where the kernel tells of processes.

    Returns:
        Bytes; what the kernel keeps of files that nobody reads counts as free. None if the kernel says nothing.
    """
    found = [1024 * kilobytes for kilobytes in _find_numbers(read_text(proc / "meminfo"), "MemAvailable:")]
    for folder in walk_groups("memory", cgroups, proc):
        limit = _read_number(folder, "memory.max", "memory.limit_in_bytes")
        used = _read_number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < UNBOUNDED_BYTES:
            cached = sum(_find_numbers(read_text(folder / "memory.stat"), "inactive_file"))
            found.append(max(0, limit - max(0, used - cached)))
    return min(found, default=None)


def _read_number(folder: Path, *names: str) -> int | None:
    """Return the number in the first of some files that holds one."""
    texts = (read_text(folder / name).strip() for name in names)
    return next((int(text) for text in texts if text.isdigit()), None)


def _find_numbers(table: str, name: str) -> list[int]:
    """Return the numbers that follow a name at the beginning of a line."""
    fields = (line.split() for line in table.splitlines())
    return [int(found[1]) for found in fields if len(found) > 1 and found[0] == name and found[1].isdigit()]
