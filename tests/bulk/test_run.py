"""Shards read, encoded and written at the same time: what waits for what."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from bulk.encoder import Encoded
from bulk.plan import Plan, Shard
from bulk.progress import Meter
from bulk.rows import Rows
from bulk.run import Bounds, Stages, run
from bulk.sources.files import find_inputs
from service.encoder.sequences import Steps

OPTIONS = {"outputs": ["embedding"], "on_error": "null"}
PLAN = Plan("", OPTIONS, find_inputs([__file__]), [Shard(0, n, 1, n, n) for n in range(5)])
PATIENCE_SECONDS = 60.0  # of a step that waits for another, if that never comes


class Stage:
    """Reads, encodes and writes, and lets each step wait for others."""

    def __init__(self, needs: dict[str, str]) -> None:
        self.came = {f"{step} {number}": threading.Event() for step in ("read", "write") for number in range(5)}
        self.needs = needs
        self.late: list[str] = []
        self.held: list[int] = []

    def wait(self, step: str) -> None:
        """Wait for what a step needs."""
        if step in self.needs and not self.came[self.needs[step]].wait(PATIENCE_SECONDS):
            self.late.append(step)

    def read(self, shard: Shard) -> Rows:
        """Read one sequence, of as many steps as the shard's number, and one."""
        self.came[f"read {shard.first}"].set()
        return Rows([np.zeros((shard.first + 1, 1), np.float32)])

    def begin(self, sequences: list[Steps], _outputs: tuple[str, ...]) -> Callable[[], Encoded]:
        """Begin to encode."""
        lengths = np.array([len(sequences[0])])

        def wait() -> Encoded:
            self.wait(f"encode {lengths[0] - 1}")
            return Encoded(np.zeros((1, 1), np.float32), lengths, [], {}, int(lengths[0]))

        return wait

    def write(self, number: int, rows: Rows, _encoded: Encoded, _problems: list[dict[str, Any]]) -> None:
        """Write."""
        self.held.append(len(rows.sequences))
        self.came[f"write {number}"].set()
        self.wait(f"write {number}")

    def run(self) -> tuple[int, Meter]:
        """Run all shards."""
        stages = Stages(cast("Any", None), cast("Any", self), cast("Any", self), {0: cast("Any", self)})
        with Meter(5, quiet=True) as meter:
            return run(PLAN, [*range(5)], stages, meter, Bounds(None, threading.Event())), meter


def test_a_shard_is_read_while_two_are_encoded() -> None:
    """The one after next need not wait until the first is encoded."""
    stage = Stage({"encode 0": "read 2", "encode 2": "read 4"})
    count, meter = stage.run()
    assert not stage.late
    assert (count, meter.done.rows, meter.done.steps) == (5, 5, 15)


def test_a_slow_write_keeps_none_from_being_encoded_and_written() -> None:
    """A disk or store may take its time with one part while the next is written."""
    stage = Stage({"write 1": "write 2"})
    stage.run()
    assert not stage.late


def test_what_is_written_holds_no_sequences() -> None:
    """Their memory is the next shard's."""
    stage = Stage({})
    stage.run()
    assert stage.held == [0] * 5


def test_threads_share_the_heap_and_the_interpreter() -> None:
    """Arrow's memory is that of all else, and who waits for the interpreter has it after a part of a run."""
    script = (
        "import sys, bulk.__main__; from bulk.encoder import settle_threads; settle_threads(); import pyarrow as pa; "
    )
    script += "print(pa.default_memory_pool().backend_name, sys.getswitchinterval() < 0.001)"
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "system True\n", ran.stderr
