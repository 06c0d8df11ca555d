"""`python -m bench soak`: whether memory stays over requests of mixed shapes.

Requests of 1 to 8 sequences of 1 to 200 steps, two thousand different ones in turn, 8 at a time. Resident memory is
read after the first tenth and at the end. Prints a table and ends with one JSON line.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.load.generator import run_number
from bench.load.servers import OURS, Server, add_processes, start
from bench.load.workloads import JSON, draw_lengths, draw_sequences
from service.costs.cpus import available_cpus
from service.encoder.session import open_session
from service.settings import SHIPPED_MODEL

SHAPES = 2_000


def draw_requests(features: int) -> list[bytes]:
    """Draw a list of requests, log-normal in length."""
    counts = np.random.default_rng(6).integers(1, 9, SHAPES)
    sequences = draw_sequences(draw_lengths(int(counts.sum()), None, seed=7), features, seed=8)
    ends = np.cumsum(counts)
    return [JSON.write(sequences[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def measure_soak(server: Server, model: Path, number: int) -> dict[str, float]:
    """Send so many requests.

    Returns:
        `ready_mb`, `tenth_mb` and `end_mb` (10^6 bytes), `growth` from the tenth to the end, `failed`, `per_second`.
    """
    features = open_session(model).kind.features
    if features is None:
        raise SystemExit("bench.stress.soak measures encoders of features")
    requests = draw_requests(features)
    with (
        tempfile.TemporaryDirectory() as folder,
        start(server, Path(sys.executable), model, requests[0], Path(folder) / "log") as running,
    ):
        ready = running.resident_mb
        tenth = run_number(running.port, requests, 8, number // 10)
        tenth_mb = running.resident_mb
        rest = run_number(running.port, requests, 8, number - number // 10)
        end_mb = running.resident_mb
    failed = sum(sum(outcome.failures.values()) for outcome in (tenth, rest))
    growth = end_mb / tenth_mb - 1
    figures = {"ready_mb": ready, "tenth_mb": tenth_mb, "end_mb": end_mb, "growth": growth}
    return figures | {"failed": failed, "per_second": rest.rate}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--requests", type=int, default=100_000)
    add_processes(parser)
    options = parser.parse_args(arguments)
    figures = measure_soak(replace(OURS, processes=options.processes), options.model, options.requests)
    print(f"{options.model}, {options.requests} requests, {available_cpus()} CPUs")
    for name, value in figures.items():
        print(f"{name:12} {value:12.3f}")
    rounded = {name: round(value, 4) for name, value in figures.items()}
    setting = {"requests": options.requests, "processes": options.processes, "cpus": available_cpus()}
    print(json.dumps({"bench": "soak", **setting, **rounded}))
