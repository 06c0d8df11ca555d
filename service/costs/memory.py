"""The memory this process holds: how much it is, and how to give back what is free of it."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def resident_bytes(proc: Path = PROC) -> int:
    """Return the memory of this process that is in use, 0 if the kernel does not say."""
    try:
        fields = (proc / "self" / "statm").read_text(encoding="utf-8").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def trim_heap() -> None:
    """Have the C library give back what it keeps of freed memory, if it is one that can (glibc)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
