"""Watches what else the machine was doing: figures from a busy one say little."""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path


class Watch:
    """Counts CPU time from its making on."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def others_share(self, family: Iterable[int]) -> float:
        """Return the share of the machine's CPU time that others took.

        Others are neither this process, nor its children that have ended, such as load generators, nor a family of
        processes.

        Args:
            family: a process and its descendants, begun after this watch.
        """
        elapsed = time.perf_counter() - self._began
        own = _own_seconds() - self._own + sum(map(spent_seconds, family))
        return max(0.0, (_busy_seconds() - self._busy - own) / (elapsed * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """Return the CPU seconds of the whole machine, idle and waiting ones aside, as Linux counts them."""
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def spent_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
