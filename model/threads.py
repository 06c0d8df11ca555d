"""How many threads learn and export, and how they wait for one another.

OpenMP's threads spin while they wait. If another process has taken the CPU of one of them, or a quota has, the
others burn theirs until it is back; and a step of a small encoder is too short to be worth a second thread at all.
"""

import os
from pathlib import Path

WORTH_THREADS = 512  # units in one direction of a layer; below them no second thread that sleeps is worth its waking
IS_CHOSEN = "OMP_NUM_THREADS" in os.environ  # by whoever started this

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def prepare_threads() -> None:
    """Let OpenMP's threads sleep while they wait, and bound NumPy's by the CPUs there are; torch's are bounded later.

    The libraries read these variables as they are loaded, so this comes before torch and numpy. A variable that is set
    stays as it is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not IS_CHOSEN:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(available_cpus()))


def limit_threads(hidden: int) -> None:
    """Let torch run a small encoder on one thread, and others on all CPUs there are, unless `OMP_NUM_THREADS` says how.

    Args:
        hidden: units in one direction of a layer.
    """
    import torch  # noqa: PLC0415 - the variables above come first

    if not IS_CHOSEN:
        torch.set_num_threads(1 if hidden < WORTH_THREADS else available_cpus())


def available_cpus(cgroups: Path = CGROUPS, proc: Path = PROC) -> int:
    """Count the CPUs this process may keep busy, by affinity and by the quota of its control groups.

    Args:
        cgroups: where the control groups are mounted.
        proc: where the kernel tells of processes.

    Returns:
        At least 1; a quota of 2.5 CPUs counts as 2.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [allowed]
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / "cpu" if controllers else cgroups  # version 1, or 2
        inside = mount / path.lstrip("/")  # in a container the path may be the host's, and only the mount be there
        for folder in (one for one in (inside, *inside.parents) if one.is_relative_to(mount)):
            limits = _read(folder / "cpu.max").split()
            limits = limits or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            if all(limit.isdigit() for limit in limits):  # "max" or -1 is not a bound
                quotas.append(int(limits[0]) // int(limits[1]))
    return max(1, min(quotas))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
