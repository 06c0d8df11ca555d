"""`python -m bench overload`: ten times more requests than can be answered, in an open loop.

A slow encoder is served, so that neither the wire nor the load generator is what is overloaded. The capacity is
measured first, in a closed loop; then requests with a deadline come at random moments at ten times that rate. Prints a
table and ends with one JSON line.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.load.generator import Connection, Outcome, run_closed, run_number, run_open
from bench.load.launch import make_models
from bench.load.servers import OURS, Server, add_processes, find_family, start
from bench.load.watch import Watch
from bench.load.workloads import JSON, SLOW, Embeddings, draw_sequences, post
from bench.speed import raw
from bench.speed.measure import TOLERANCE
from service.costs.cpus import available_cpus

STEPS, BODIES = 200, 64
DEADLINE_MS, QUEUE_SECONDS = 2000, 1.0
CLOSED_CONNECTIONS, OPEN_CONNECTIONS = 32, 900  # more than wait for answers at a time, fewer than a worker takes
RECOVERY_SECONDS = 10.0  # watched for it
REST_SECONDS = 1.0  # before each load: all workers take connections by then, and those of the load before have ended
RETRY, QUEUED = re.compile(rb"retry-after-ms: *(\d+)", re.IGNORECASE), re.compile(rb"queue;dur=([\d.]+)")


class Witness:
    """Sees every answer: when its request was due, and what became of it."""

    def __init__(self) -> None:
        self.refused: list[tuple[float, float]] = []  # (when it was refused, seconds from when it was due)
        self.expired = 0  # accepted, and not complete in time
        self.retries: list[tuple[float, float]] = []  # (when, seconds it was told to wait)
        self.queued: list[tuple[float, float]] = []  # (when it was due, seconds in the queue) of the accepted

    def note(self, connection: Connection, status: str) -> None:
        """Take an answer in."""
        now = time.perf_counter()
        if status == "200":
            if found := QUEUED.search(connection.head):
                self.queued.append((connection.due, float(found[1]) / 1e3))
            return
        if b"deadline-passed" in connection.answer:
            self.expired += 1
            return
        self.refused.append((now, now - connection.due))
        if found := RETRY.search(connection.head):
            self.retries.append((now, float(found[1]) / 1e3))

    def retry_errors(self) -> list[float]:
        """Return, for each refusal, how far its wait was from what the next accepted request waited, in seconds."""
        accepted = sorted(self.queued)
        moments = [moment for moment, _ in accepted]
        errors = []
        for moment, told in self.retries:
            place = bisect_right(moments, moment)
            if place < len(accepted):
                errors.append(abs(told - accepted[place][1]))
        return errors


def measure_overload(server: Server, model: Path, seconds: float, times: float) -> dict[str, float]:
    """Measure capacity, overload and recovery.

    Returns:
        What `main` prints; rates in requests a second.
    """
    sequences = draw_sequences([STEPS] * BODIES, SLOW.features, seed=5)
    session = raw.open_raw(model, threads=1)
    expected = [raw.encode_alone(session, [steps]) for steps in sequences]
    plain = [JSON.write([steps]) for steps in sequences]
    bodies = [request.partition(b"\r\n\r\n")[2] for request in plain]
    urgent = [post("/encode", body, "application/json", f"X-Request-Timeout-Ms: {DEADLINE_MS}") for body in bodies]
    os.environ["LENGTHWISE_MAX_QUEUE_SECONDS"] = str(QUEUE_SECONDS)
    watch, witness = Watch(), Witness()
    with start(server, Path(sys.executable), model, plain[0], model.with_suffix(".log")) as running:
        time.sleep(REST_SECONDS)
        run_closed(running.port, plain, CLOSED_CONNECTIONS, 2.0)
        time.sleep(REST_SECONDS)
        capacity = run_closed(running.port, plain, CLOSED_CONNECTIONS, min(10.0, seconds)).rate
        normal = run_number(running.port, plain, 1, 20).quantile(0.5)
        rate = times * capacity
        time.sleep(REST_SECONDS)
        load = run_open(running.port, urgent, rate, seconds, OPEN_CONNECTIONS, witness.note)
        recovery = measure_recovery(running.port, plain, 2 * normal)
        others = watch.others_share(find_family(running.process.pid))
    wrong = count_wrong(load, expected)
    in_time = sum(latency <= DEADLINE_MS / 1e3 for latency in load.latencies)
    refusals = [took for _, took in witness.refused]
    errors = witness.retry_errors()
    return {
        "capacity": capacity,
        "offered": rate,
        "answered": len(load.latencies) + len(refusals) + witness.expired,
        "expired": witness.expired,
        "goodput_share": in_time / load.seconds / capacity,
        "accepted_p99_ms": load.quantile(0.99),
        "refused_p50_ms": 1e3 * float(np.quantile(refusals, 0.5)) if refusals else float("nan"),
        "refused_p99_ms": 1e3 * float(np.quantile(refusals, 0.99)) if refusals else float("nan"),
        "lost": sum(load.failures.get(reason, 0) for reason in ("broken", "stalled")),
        "wrong": wrong,
        "recovery_seconds": recovery,
        "retry_after_error_seconds": statistics.mean(errors) if errors else float("nan"),
        "others_share": others,
    } | {f"answered_{status}": count for status, count in load.failures.items()}


def count_wrong(load: Outcome, expected: list[Embeddings]) -> int:
    """Count the requests whose last answer is not what the encoder gives alone."""
    return sum(
        float(np.abs(JSON.read(body) - expected[index]).max()) > TOLERANCE for index, body in load.answers.items()
    )


def measure_recovery(port: int, requests: list[bytes], normal_ms: float) -> float:
    """Return the seconds until a lone request is answered within `normal_ms`."""
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < RECOVERY_SECONDS:
        if run_number(port, requests, 1, 1).quantile(0.5) <= normal_ms:
            return passed
    return float("inf")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the open loop")
    parser.add_argument("--times", type=float, default=10.0, help="the load, in parts of the capacity")
    add_processes(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    models = options.folder.resolve() / "models"
    make_models(models)
    server = replace(OURS, processes=options.processes)
    figures = measure_overload(server, models / "slow.onnx", options.seconds, options.times)
    print(f"{options.times:g} times the capacity for {options.seconds:g} s, {available_cpus()} CPUs")
    for name, value in figures.items():
        print(f"{name:26} {value:12.3f}")
    arrangement = {"processes": options.processes, "cpus": available_cpus()}
    setting = {"seconds": options.seconds, "times": options.times, **arrangement}
    print(json.dumps({"bench": "overload", **setting, **{name: round(value, 4) for name, value in figures.items()}}))
