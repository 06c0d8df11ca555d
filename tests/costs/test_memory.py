"""The memory that threads take, and where they take it from."""

import gc
import os
import platform
import subprocess
import sys

import pytest

from service.costs.memory import spare_collector

# Threads that all hold something at once; each has a heap of its own unless they share one.
COUNT_HEAPS = """
import ctypes, sys, threading
from service.costs.memory import share_heap

if sys.argv[1] == "shared":
    share_heap()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
held = threading.Barrier(5)

def hold() -> None:
    for _ in range(100):
        library.malloc(10_000)
    held.wait()

threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
held.wait()
library.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
library.fdopen.restype = ctypes.c_void_p
library.fflush.argtypes = [ctypes.c_void_p]
out = library.fdopen(1, b"w")
library.malloc_info(0, out)
library.fflush(out)
"""


def count_heaps(way: str, **variables: str) -> int:
    """Return how many heaps a process has in which four threads hold memory."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    command = [sys.executable, "-c", COUNT_HEAPS, way]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return ran.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")
def test_threads_share_one_heap_unless_somebody_chose_otherwise() -> None:
    """What one has given back the others can take, so that the service holds what it needs at once, and no more."""
    assert count_heaps("apart") > 1
    assert count_heaps("shared") == 1
    assert count_heaps("shared", MALLOC_ARENA_MAX="4") > 1


def test_the_objects_of_many_requests_do_not_start_the_collector() -> None:
    """Sixty-four requests under way have some 3,000 objects: more than Python lets be made by itself."""
    before, started = gc.get_threshold(), []

    def see(_phase: str, generations: dict[str, int]) -> None:
        started.append(generations)

    try:
        spare_collector()
        gc.callbacks.append(see)
        held = [[number] for number in range(3000)]
    finally:
        gc.callbacks.remove(see)
        gc.set_threshold(*before)
        gc.unfreeze()
    assert (len(held), started) == (3000, [])
