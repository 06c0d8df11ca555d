"""How many workers there are, and why: by the CPUs, by the memory, and one if more would gain nothing."""

import sys
from pathlib import Path

from service.api.worker import Staff
from service.costs.cpus import available_cpus
from service.costs.memory import available_bytes
from service.settings import Settings

MIB = 2**20
WORKER_BYTES = 64 * MIB  # what a worker takes beside its models and what all share; measured under full load
MODEL_COPIES = 3  # of a model's file: what a worker takes of memory to serve it, measured
FIRST_BYTES = 96 * MIB  # what all share, and the first process holds
KEPT = 0.8  # of the free memory is given out; runs and answers of unusual size need the rest


def choose_staff(settings: Settings) -> Staff:
    """Choose how many workers serve on this machine."""
    cpus = available_cpus()
    if settings.processes != "auto":
        return Staff(settings.processes, cpus, "LENGTHWISE_PROCESSES says so")
    is_linux = sys.platform.startswith("linux")
    number, why = count_workers(cpus, available_bytes(), weigh_models(settings), is_linux=is_linux)
    return Staff(number, cpus, why)


def count_workers(cpus: int, free_bytes: int | None, model_bytes: int, *, is_linux: bool = True) -> tuple[int, str]:
    """Return how many workers serve best, and why.

    Two CPUs are used best by two workers: the event loop of one leaves half of the machine idle. On more CPUs a worker
    for every two was best, since each has a loop and a runner that work at the same time.

    Args:
        cpus: that may be kept busy.
        free_bytes: of memory; None if that is not known.
        model_bytes: of the files of all models.
        is_linux: whether several processes can share a port here.
    """
    if not is_linux:
        return 1, "several workers need Linux"
    if cpus == 1:
        return 1, "there is one CPU"
    wanted = max(2, cpus // 2)
    each = WORKER_BYTES + MODEL_COPIES * model_bytes
    room = wanted if free_bytes is None else int((KEPT * free_bytes - FIRST_BYTES) // each)
    if room < wanted:
        sizes = f"{free_bytes // MIB if free_bytes else 0} MiB are free and a worker takes {each // MIB} MiB"
        return max(1, room), f"there are {cpus} CPUs, but {sizes}"
    return wanted, f"there are {cpus} CPUs"


def weigh_models(settings: Settings) -> int:
    """Return the bytes of all artifacts that are served; those that cannot be read count as none."""
    place: Path = settings.models or settings.model
    try:
        files = [*place.glob("*.onnx")] if place.is_dir() else [place]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0
