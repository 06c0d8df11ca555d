"""The CPUs this process may use: how many, by affinity and by quota, of what kind, and how the kernel shares them."""

import ctypes
import os
import platform
import sys
import threading
from contextlib import suppress
from pathlib import Path

from service.costs.cgroups import CGROUPS, PROC, read_text, walk_groups

LONG_SLICE_SECONDS = 0.02  # Linux gives a thread some 3 ms if nobody says
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the number of the system call, which few C libraries know by name


def available_cpus(cgroups: Path = CGROUPS, proc: Path = PROC) -> int:
    """Count the CPUs this process may keep busy: those it may run on, within the quota of its control group.

    Args:
        cgroups: where the control groups are mounted.
        proc: where the kernel tells of processes.

    Returns:
        At least 1; a quota of 2.5 CPUs counts as 2, since a third would be stopped half of the time.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_cpu_quota(cgroups, proc)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def read_cpu_quota(cgroups: Path = CGROUPS, proc: Path = PROC) -> float | None:
    """Return the CPUs' worth of time the process's control group and those above it get, None if it is unbounded."""
    quotas = [quota for folder in walk_groups("cpu", cgroups, proc) for quota in _read_quota(folder)]
    return min(quotas, default=None)


def name_cpu(proc: Path = PROC) -> str:
    """Name the CPU's model as the kernel does, or its architecture if it does not."""
    for line in read_text(proc / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


class _SchedulingAttributes(ctypes.Structure):
    """What `sched_setattr` takes, as Linux lays it out."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_local = threading.local()


def choose_slice(*, is_long: bool) -> None:
    """Let the calling thread's turns on a CPU be long, so that those with short ones need not wait for their ends.

    Linux since 6.12 takes a CPU from the thread with the longer slice when another wakes up; each gets the same share
    of it as before. Elsewhere nothing changes.

    Args:
        is_long: false for turns as they were at first.
    """
    if is_long == getattr(_local, "is_long", False):
        return
    _local.is_long = is_long
    number = SCHED_SETATTR.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread: on Linux each has its own
    wanted = _SchedulingAttributes(nice=nice, runtime=int(1e9 * LONG_SLICE_SECONDS) if is_long else 0)
    wanted.size = ctypes.sizeof(wanted)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)


def _read_quota(folder: Path) -> list[float]:
    """Return the CPUs that one control group's own files allow, in a list; an empty one if they set no bound."""
    quota, _, period = read_text(folder / "cpu.max").partition(" ")
    if not quota:  # version 1
        quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    return [int(quota) / int(period)] if quota.strip().isdigit() and period.strip().isdigit() else []
