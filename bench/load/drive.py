"""Puts a load on a server with as little of the CPUs as can be, and says how much that was.

wrk drives it if it is installed. Without wrk, several processes of `generator` share the connections. Neither looks at
an answer's body: what a server answers is checked before it is measured.
"""

import math
import multiprocessing
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from bench.load.generator import run_closed
from service.costs.cpus import available_cpus

WRK = shutil.which("wrk")
SCRIPT = Path(__file__).with_name("wrk.lua")
CPUS_A_THREAD = 4  # one thread of wrk is enough for the servers on so many CPUs
TIMEOUT_SECONDS = 60  # for an answer
START_SECONDS = 2.0  # for the processes of a generator in Python to come up


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop gave.

    Attributes:
        rate: requests answered 200, a second.
        p50_ms: the median latency.
        p99_ms: the latency that 99 of 100 answers stayed within.
        failures: what else became of requests, by kind.
        seconds: how long it lasted.
        cpu_seconds: CPU time that the generator itself took.
        threads: threads or processes of the generator.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    failures: dict[str, int]
    seconds: float
    cpu_seconds: float
    threads: int

    @property
    def busy_share(self) -> float:
        """The share of its time that the generator worked; near 1 it measures itself."""
        return self.cpu_seconds / (self.seconds * self.threads)


def drive(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keep `connections` requests in flight for a while.

    Args:
        port: the server's, on this machine.
        requests: whole HTTP requests, sent in turn.
        connections: how many are open, each with one request at a time.
        seconds: how long; wrk takes whole ones, so that they are rounded up.

    Raises:
        RuntimeError: wrk ended without figures; carries what it wrote.
    """
    if WRK is not None:
        return _drive_by_wrk(WRK, port, requests, connections, math.ceil(seconds))
    return _drive_by_processes(port, requests, connections, seconds)


def name_generator() -> str:
    """Name what `drive` drives with here."""
    return "wrk" if WRK is not None else f"{available_cpus()} processes of Python; wrk is not installed"


def _drive_by_wrk(wrk: str, port: int, requests: Sequence[bytes], connections: int, seconds: int) -> Load:
    threads = max(1, min(connections, available_cpus() // CPUS_A_THREAD))
    with tempfile.NamedTemporaryFile() as file:
        sizes = " ".join(str(len(request)) for request in requests)
        file.write(f"{len(requests)}\n{sizes}\n".encode())
        file.writelines(requests)
        file.flush()
        command = [wrk, "--threads", str(threads), "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), f"http://127.0.0.1:{port}/", file.name]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = [line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("found ")]
    if not found:
        raise RuntimeError(f"wrk ended with {ran.returncode} and without figures: {ran.stdout}{ran.stderr}")
    complete, microseconds, p50, p99, refused, broken, late = map(int, found[0])
    lasted = microseconds / 1e6
    failures = {"status": refused, "broken": broken, "stalled": late}
    return Load(
        rate=(complete - refused) / lasted,
        p50_ms=p50 / 1e3 if complete else float("nan"),
        p99_ms=p99 / 1e3 if complete else float("nan"),
        failures={kind: count for kind, count in failures.items() if count},
        seconds=lasted,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        threads=threads,
    )


def _drive_by_processes(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    number = min(connections, available_cpus())
    shares = [connections // number + (place < connections % number) for place in range(number)]
    begin = time.time() + START_SECONDS
    # Each goes through the requests from another place on.
    turned = [
        [*requests[first:], *requests[:first]] for first in (place * 37 % len(requests) for place in range(number))
    ]
    with ProcessPoolExecutor(number, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(_drive_alone, repeat(port), turned, shares, repeat(seconds), repeat(begin)))
    latencies = np.concatenate([part.latencies for part in parts])
    failures = sum((Counter(part.failures) for part in parts), Counter[str]())
    p50, p99 = (
        1e3 * float(np.quantile(latencies, share, method="inverted_cdf")) if len(latencies) else float("nan")
        for share in (0.5, 0.99)
    )
    return Load(
        rate=sum(len(part.latencies) / part.seconds for part in parts),
        p50_ms=p50,
        p99_ms=p99,
        failures=dict(failures),
        seconds=max(part.seconds for part in parts),
        cpu_seconds=sum(part.cpu_seconds for part in parts),
        threads=number,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What one process of a generator gave; see `Load`."""

    latencies: list[float]
    failures: dict[str, int]
    seconds: float
    cpu_seconds: float


def _drive_alone(port: int, requests: Sequence[bytes], connections: int, seconds: float, begin: float) -> _Part:
    """Drive a part of the connections, from a moment of the clock on at which all parts begin."""
    time.sleep(max(0.0, begin - time.time()))
    spent = time.process_time()
    outcome = run_closed(port, requests, connections, seconds)
    return _Part(outcome.latencies, outcome.failures, outcome.seconds, time.process_time() - spent)
