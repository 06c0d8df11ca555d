"""Watches what else the machine was doing: figures from a busy one say little."""

import os
import time
from pathlib import Path


class Watch:
    """Counts CPU time from its making on."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def others_share(self) -> float:
        """Return the share of the machine's CPU time that neither this process nor any it has awaited took."""
        elapsed = time.perf_counter() - self._began
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / (elapsed * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """Return the CPU seconds of the whole machine, idle and waiting ones aside, as Linux counts them."""
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
