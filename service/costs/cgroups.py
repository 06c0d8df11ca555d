"""Where the kernel keeps what a control group, and each one above it, may use."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def walk_groups(controller: str, cgroups: Path = CGROUPS, proc: Path = PROC) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it, the innermost first.

    Args:
        controller: whose folders are meant under version 1, which has a tree for each.
        cgroups: where the control groups are mounted.
        proc: where the kernel tells of processes.
    """
    for line in read_text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            mount = cgroups
        elif controller in controllers.split(","):
            mount = cgroups / controller
        else:
            continue
        inside = mount / path.lstrip("/")
        # In a container the path may be the host's, and only the mount's root is there.
        for folder in (inside, *inside.parents):
            if folder == mount or mount in folder.parents:
                yield folder


def read_text(path: Path) -> str:
    """Return what a file of the kernel's says, nothing if it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
