"""Threads of training and export: as many as there are CPUs, asleep while they wait, one for small encoders."""

import os
import subprocess
import sys

import pytest

from model.threads import WORTH_THREADS, available_cpus

COUNT = """
import model, os, sys, torch
from model.threads import limit_threads

limit_threads(int(sys.argv[1]))
print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


def count(hidden: int, **environment: str) -> list[str]:
    """Return what torch does with an encoder of so many units: its threads, and how they wait."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    ran = subprocess.run(
        [sys.executable, "-c", COUNT, str(hidden)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


@pytest.mark.parametrize(("hidden", "threads"), [(64, 1), (WORTH_THREADS - 1, 1), (WORTH_THREADS, available_cpus())])
def test_small_encoders_have_one_thread(hidden: int, threads: int) -> None:
    """A large one has a thread for every CPU; threads that wait sleep."""
    assert count(hidden) == [str(threads), "PASSIVE"]


def test_the_user_chooses_threads() -> None:
    """OpenMP's own variables win, whatever the encoder's size."""
    every = str(available_cpus())
    assert count(64, OMP_NUM_THREADS=every, OMP_WAIT_POLICY="ACTIVE") == [every, "ACTIVE"]
    assert count(WORTH_THREADS, OMP_NUM_THREADS="1") == ["1", "PASSIVE"]


def test_torch_is_told_before_it_is_loaded() -> None:
    """Importing any module of `model` or `export` sets the variables first: torch's library reads them once."""
    script = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {"torch", "numpy", "onnx"}:
            assert {"OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"} <= __import__("os").environ.keys(), name
            print(name)

sys.meta_path.insert(0, Watch())
import MODULE
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))}
    for module in ("model.training.fit", "export.artifact"):
        ran = subprocess.run(
            [sys.executable, "-c", script.replace("MODULE", module)],
            env=inherited,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert {"torch", "numpy"} <= set(ran.stdout.split())
