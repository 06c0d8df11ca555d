"""How many workers there are, and why: by the CPUs, by the memory, and one if more would gain nothing."""

import sys
from pathlib import Path

from service.api.worker import Staff
from service.costs.cpus import available_cpus
from service.costs.memory import available_bytes
from service.settings import Settings

MIB = 2**20
# What a worker has to itself under load was 46 MB for a file of 0.2 MB, 158 MB for 3.2 MB and 202 MB for 12.6 MB, and
# what all share was 66 to 74 MB (`python -m bench workers`); so much is counted for each of them, and a little more.
# They take less since they share weights and have one heap. What is counted stays, as there is then room to spare.
WORKER_BYTES = 48 * MIB  # beside its models
MODEL_COPIES = 3  # of a model's file
RUN_COPIES, RUN_BYTES = 36, 112 * MIB  # what its runs take: so many times its file, and no more than that
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

    Two CPUs are used best by two workers: the event loop of one leaves half of the machine idle. On 16 CPUs eight
    services side by side were best, since each has an event loop and a runner that work at the same time.

    Args:
        cpus: how many CPUs may be kept busy.
        free_bytes: the memory that is free; None if that is not known.
        model_bytes: the memory that a worker takes for its models.
        is_linux: whether several processes can share a port here.
    """
    if not is_linux:
        return 1, "several workers need Linux"
    if cpus == 1:
        return 1, "there is one CPU"
    wanted = max(2, cpus // 2)
    each = WORKER_BYTES + model_bytes
    room = wanted if free_bytes is None else int((KEPT * free_bytes - FIRST_BYTES) // each)
    if room < wanted:
        sizes = f"{free_bytes // MIB if free_bytes else 0} MiB are free and a worker takes {each // MIB} MiB"
        return max(1, room), f"there are {cpus} CPUs, but {sizes}"
    return wanted, f"there are {cpus} CPUs"


def weigh_models(settings: Settings) -> int:
    """Return the memory that a worker takes for all its models; a file that cannot be read counts as none."""
    place: Path = settings.models or settings.model
    try:
        files = [*place.glob("*.onnx")] if place.is_dir() else [place]
        sizes = [file.stat().st_size for file in files]
    except OSError:
        return 0
    return sum(MODEL_COPIES * size + min(RUN_COPIES * size, RUN_BYTES) for size in sizes)
