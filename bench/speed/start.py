"""`python -m bench start`: from process start to ready, and the memory a serving process holds.

Prints a table and ends with one JSON line. Times include the interpreter's own start and the first 200 from
`/health/ready`. Memory is the resident set the kernel reports.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import httpx
import numpy as np

from bench.load.launch import start_service
from service.costs.cpus import available_cpus
from service.settings import SHIPPED_MODEL


def measure_start(model: Path, requests: int) -> dict[str, float]:
    """Start the service once.

    Args:
        model: the artifact to serve.
        requests: how many to send, of 1 to 8 sequences of mixed lengths, before memory is read again.

    Returns:
        `ready_seconds`, `ready_mb` and `after_requests_mb`.
    """
    began = time.perf_counter()
    with start_service("--model", str(model)) as (process, url), httpx.Client(base_url=url) as client:
        client.get("/health/ready").raise_for_status()
        ready = time.perf_counter() - began
        fresh = resident_mb(process.pid)
        features = client.get("/info").json()["models"][0]["features"]
        draw = np.random.default_rng(0)
        for _ in range(requests):
            lengths = draw.lognormal(3.5, 0.8, draw.integers(1, 9)).clip(1, 200).astype(int)
            sequences = [draw.standard_normal((length, features)).round(4).tolist() for length in lengths]
            client.post("/encode", json={"sequences": sequences}).raise_for_status()
        return {"ready_seconds": ready, "ready_mb": fresh, "after_requests_mb": resident_mb(process.pid)}


def measure_starts(model: Path, starts: int, requests: int) -> dict[str, float]:
    """Start the service several times, after once for the file cache and bytecode, and take medians; see above."""
    measure_start(model, 0)
    rounds = [measure_start(model, requests) for _ in range(starts)]
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: list[str] | None = None) -> None:
    """Print the medians of several starts."""
    parser = argparse.ArgumentParser(prog="python -m bench start", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args(arguments)
    medians = measure_starts(options.model, options.starts, options.requests)
    print(f"{options.model}, {options.starts} starts, {options.requests} requests each, {available_cpus()} CPUs")
    for name, median in medians.items():
        print(f"{name:18} median {median:8.3f}")
    machine = {"cpus": available_cpus(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"bench": "start", "starts": options.starts, **medians, **machine}))
