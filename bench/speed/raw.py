"""The raw limit: what ONNX Runtime gives in one process, with nothing around it and the kindest batches there are."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from bench.load.workloads import Embeddings, Steps, pad
from service.costs.cpus import available_cpus

BATCH_ROWS = (6, 8, 12, 16, 24, 32)

Feed: TypeAlias = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a machine's CPUs are put to work.

    Attributes:
        runners: runs at the same time.
        threads: threads within each run.
        rows: sequences in a batch.
    """

    runners: int
    threads: int
    rows: int

    def __str__(self) -> str:
        """Say it shortly."""
        return f"{self.runners} runs x {self.threads} threads, {self.rows} rows"


def open_raw(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # shapes vary
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def feed(sequences: list[Steps]) -> Feed:
    """Pad sequences `(t_i, F)` to a session's inputs."""
    padded, lengths = pad(sequences)
    return {"sequences": padded, "lengths": lengths[:, 0]}


def encode_alone(session: onnxruntime.InferenceSession, sequences: list[Steps]) -> Embeddings:
    """Encode each sequence in a run of its own; `(n, D)`."""
    return np.concatenate([session.run(["embedding"], feed([steps]))[0] for steps in sequences])


def measure_latency(model: Path, sequences: list[Steps]) -> float:
    """Return the median time in ms of a run of one sequence, with one thread or all, whichever is faster."""
    medians = []
    for threads in {1, available_cpus()}:
        session, times = open_raw(model, threads), []
        for one in [feed([steps]) for steps in sequences]:
            start = time.perf_counter()
            session.run(["embedding"], one)
            times.append(time.perf_counter() - start)
        medians.append(float(np.median(times)) * 1e3)
    return min(medians)


def measure_throughput(model: Path, sequences: list[Steps], seconds: float) -> tuple[float, Arrangement]:
    """Return sequences a second over length-sorted batches, in the best arrangement, and that arrangement.

    Args:
        model: the ONNX file.
        sequences: what is run, over and over, each time all of them.
        seconds: time for each arrangement.
    """
    cpus = available_cpus()
    ordered = sorted(sequences, key=len, reverse=True)  # the longest first, so that no runner ends long after another
    found: dict[Arrangement, float] = {}
    for runners, threads in {(cpus, 1), (1, cpus)}:
        session = open_raw(model, threads)
        with ThreadPoolExecutor(runners) as pool:
            for rows in BATCH_ROWS:
                batches = [feed(part) for part in _cut(ordered, rows)]
                found[Arrangement(runners, threads, rows)] = len(ordered) * _time_passes(
                    session, pool, batches, seconds
                )
    best = max(found, key=lambda arrangement: found[arrangement])
    return found[best], best


def _cut(ordered: list[Steps], rows: int) -> Iterator[list[Steps]]:
    for first in range(0, len(ordered), rows):
        yield ordered[first : first + rows]


def _time_passes(
    session: onnxruntime.InferenceSession, pool: ThreadPoolExecutor, batches: list[Feed], seconds: float
) -> float:
    """Return passes over all batches in a second, after one that warms up."""

    def run(batch: Feed) -> None:
        session.run(["embedding"], batch)

    list(pool.map(run, batches[::4]))
    start, passes = time.perf_counter(), 0
    while not passes or time.perf_counter() - start < seconds:
        list(pool.map(run, batches))
        passes += 1
    return passes / (time.perf_counter() - start)
