"""One server, one model, one round: start it, check its answers under load, measure it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson

from bench.load.drive import Load, drive
from bench.load.generator import Outcome, run_closed, run_number, run_open
from bench.load.servers import OURS, Running, Server, Unavailable, find_family, start
from bench.load.watch import Watch, spent_seconds
from bench.load.workloads import SIZES, WORKLOADS, Embeddings, Steps, Wire, Workload, draw_requests
from bench.speed import raw

# All servers run the same kernels on the same numbers; a server that pads, batches or scatters wrongly is off by 1e-2.
TOLERANCE = 1e-5

# Between two loads: a server may share out new connections by those that it does not know to be closed yet.
SETTLE_SECONDS = 0.1

Figures: TypeAlias = dict[str, float]  # `S.rate` (sequences/s), `S.p50_ms`, `S.p99_ms`, `S.failed`, ..., `resident_mb`


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes.

    Attributes:
        rounds: how often the whole measurement is repeated.
        seconds: the time of each load.
        warm_seconds: the time of the load before it, whose answers are checked; longer until every request has one.
        raw_seconds: the time of each arrangement of the raw limit.
    """

    rounds: int
    seconds: float
    warm_seconds: float
    raw_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class DrawnWorkload:
    """A workload on a model.

    Attributes:
        name: the workload's name.
        requests: the sequences of each request.
        expected: the embeddings of each request, each sequence encoded alone by ONNX Runtime.
        connections: that are open, if not as many as the workload's own.
    """

    name: str
    requests: list[list[Steps]]
    expected: list[Embeddings]
    connections: int = 0

    @property
    def workload(self) -> Workload:
        """The workload itself."""
        return WORKLOADS[self.name]

    @property
    def in_flight(self) -> int:
        """How many connections are open, each with a request."""
        return self.connections or self.workload.connections

    @property
    def sequences(self) -> list[Steps]:
        """All sequences of all requests."""
        return [steps for request in self.requests for steps in request]


@cache
def write_requests(drawn: DrawnWorkload, wire: Wire) -> list[bytes]:
    """Encode every request of a workload, once for all rounds."""
    return [wire.write(request) for request in drawn.requests]


def draw_workloads(model: Path, names: Iterable[str] = WORKLOADS) -> list[DrawnWorkload]:
    """Draw the requests of workloads, all of them by default, and compute what must be answered."""
    session = raw.open_raw(model, threads=1)
    workloads = []
    for name in names:
        requests = draw_requests(WORKLOADS[name], SIZES[model.stem].features)
        workloads.append(DrawnWorkload(name, requests, [raw.encode_alone(session, request) for request in requests]))
    return workloads


def measure_server(
    server: Server, python: Path, model: Path, workloads: list[DrawnWorkload], pace: Pace, *, is_open: bool = False
) -> Figures:
    """Start a server and put every workload on it.

    Args:
        server: the row's server.
        python: the interpreter from `Server.prepare`.
        model: the ONNX file.
        workloads: the workloads.
        pace: how long everything takes.
        is_open: whether to add the open loops, at 50 and 80 % of the rate that `S` reaches.

    Raises:
        Unavailable: it cannot be started, or answers wrongly.
    """
    figures: Figures = {}
    first = write_requests(workloads[0], server.wire)[0]
    watch = Watch()
    with start(server, python, model, first, model.with_suffix(".log")) as running:
        figures["ready_seconds"] = running.ready_seconds
        for drawn in workloads:
            outcome = warm_up(running, server.wire, drawn, pace.warm_seconds)
            if server.name == OURS.name:
                figures[f"{drawn.name}.padding"] = padding_ratio(outcome)
            figures |= load_server(running, server.wire, drawn, pace.seconds)
            if is_open and drawn.name == "S":
                figures |= load_openly(running, write_requests(drawn, server.wire), figures["S.rate"], 2 * pace.seconds)
        figures["resident_mb"] = running.resident_mb
        figures["others_share"] = watch.others_share(find_family(running.process.pid))
    return figures


def warm_up(running: Running, wire: Wire, drawn: DrawnWorkload, seconds: float) -> Outcome:
    """Put a workload's load on a server until every request was answered at least once, and check the answers.

    Raises:
        Unavailable: an answer is wrong, or a request was not answered.
    """
    requests, connections = write_requests(drawn, wire), drawn.in_flight
    time.sleep(SETTLE_SECONDS)
    outcome = run_closed(running.port, requests, connections, seconds)
    if len(outcome.answers) < len(requests):
        outcome = run_number(running.port, requests, connections, len(requests))
    check(outcome, drawn, wire)
    return outcome


def load_server(running: Running, wire: Wire, drawn: DrawnWorkload, seconds: float) -> Figures:
    """Measure a server that was warmed up, and what the load generator itself takes meanwhile.

    Returns:
        Beside rate, latencies and failures: `NAME.generator`, its share of the CPU time that it and the server took,
        and `NAME.generator_busy`, the share of its own time that it worked.
    """
    time.sleep(SETTLE_SECONDS)
    before = _family_seconds(running)
    load = drive(running.port, write_requests(drawn, wire), drawn.in_flight, seconds)
    return describe(drawn.name, load, drawn.workload.sequences, _family_seconds(running) - before)


def load_openly(running: Running, requests: list[bytes], rate: float, seconds: float) -> Figures:
    """Measure latencies while requests come at random moments, at half and at four fifths of a rate."""
    figures: Figures = {}
    for share in (0.5, 0.8):
        server, own = _family_seconds(running), time.process_time()
        outcome = run_open(running.port, requests, share * rate, seconds)
        server, own = _family_seconds(running) - server, time.process_time() - own
        name = f"open{share * 100:.0f}"
        figures |= {
            f"{name}.rate": outcome.rate,
            f"{name}.p50_ms": outcome.quantile(0.5),
            f"{name}.p99_ms": outcome.quantile(0.99),
            f"{name}.failed": float(sum(outcome.failures.values())),
            f"{name}.generator": own / max(own + server, 1e-9),
        }
    return figures


def _family_seconds(running: Running) -> float:
    return sum(map(spent_seconds, find_family(running.process.pid)))


def describe(name: str, load: Load, sequences: int, server_seconds: float) -> Figures:
    """Name the figures of a load whose requests held `sequences` each, and that cost the server so much CPU time."""
    return {
        f"{name}.rate": load.rate * sequences,
        f"{name}.p50_ms": load.p50_ms,
        f"{name}.p99_ms": load.p99_ms,
        f"{name}.failed": float(sum(load.failures.values())),
        f"{name}.generator": load.cpu_seconds / max(load.cpu_seconds + server_seconds, 1e-9),
        f"{name}.generator_busy": load.busy_share,
    }


def check(outcome: Outcome, drawn: DrawnWorkload, wire: Wire) -> None:
    """Compare every answer with the embeddings of the same sequences alone.

    Raises:
        Unavailable: one is wrong, or is missing; a measurement would mean nothing.
    """
    total = len(drawn.expected)
    if len(outcome.answers) < total:
        missing = total - len(outcome.answers)
        raise Unavailable(f"{drawn.name}: {missing} of {total} requests were not answered: {outcome.failures}")
    for index, body in outcome.answers.items():
        found, expected = wire.read(body), drawn.expected[index]
        if found.shape != expected.shape or not np.abs(found - expected).max() <= TOLERANCE:
            raise Unavailable(f"{drawn.name}: it answers wrongly; embeddings are to be within {TOLERANCE:g}")


def padding_ratio(outcome: Outcome) -> float:
    """Return computed steps over valid steps, as our own answers tell them."""
    usages = [orjson.loads(body)["usage"] for body in outcome.answers.values()]
    return float(sum(usage["padded_steps"] for usage in usages) / sum(usage["steps"] for usage in usages))


def measure_raw(model: Path, workloads: list[DrawnWorkload], pace: Pace) -> tuple[Figures, dict[str, str]]:
    """Measure the raw limit of a model on each workload's sequences.

    Returns:
        `L.p50_ms`, the `.rate` of the others (sequences/s; `S` has the lengths of `B`), and the arrangement of each.
    """
    by_name = {drawn.name: drawn.sequences for drawn in workloads}
    figures: Figures = {}
    arrangements: dict[str, str] = {}
    if "L" in by_name:
        figures["L.p50_ms"] = raw.measure_latency(model, by_name["L"][:200])
    for name in ("B" if "B" in by_name else "S", "mix"):
        if name in by_name:
            rate, arrangement = raw.measure_throughput(model, by_name[name], pace.raw_seconds)
            figures[f"{name}.rate"], arrangements[name] = rate, str(arrangement)
    if "B" in by_name and "S" in by_name:
        figures["S.rate"] = figures["B.rate"]
    return figures, arrangements
