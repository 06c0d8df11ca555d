"""One server, one model, one round: start it, check its answers under load, measure it."""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson

from bench.load.generator import Outcome, run_closed, run_open
from bench.load.servers import OURS, Server, Unavailable, find_family, start
from bench.load.watch import Watch
from bench.load.workloads import MODELS, WORKLOADS, Embeddings, Steps, Wire, Workload, draw_requests
from bench.speed import raw

# All servers run the same kernels on the same numbers; whoever pads, batches or scatters wrongly is off by 1e-2.
TOLERANCE = 1e-5

# Between two loads: a server may share out new connections by those that it does not know to be closed yet.
SETTLE_SECONDS = 0.1

Figures: TypeAlias = dict[str, float]  # `S.rate` (sequences/s), `S.p50_ms`, `S.p99_ms`, `S.failed`, ..., `resident_mb`


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes.

    Attributes:
        rounds: of the whole measurement.
        seconds: of each load.
        warm_seconds: of the load before it, whose answers are checked.
        raw_seconds: of each arrangement of the raw limit.
    """

    rounds: int
    seconds: float
    warm_seconds: float
    raw_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A workload on a model.

    Attributes:
        name: of the workload.
        requests: the sequences of each request.
        expected: the embeddings of each request, each sequence encoded alone by ONNX Runtime.
    """

    name: str
    requests: list[list[Steps]]
    expected: list[Embeddings]

    @property
    def workload(self) -> Workload:
        """The workload itself."""
        return WORKLOADS[self.name]

    @property
    def sequences(self) -> list[Steps]:
        """All sequences of all requests."""
        return [steps for request in self.requests for steps in request]


@cache
def write_requests(task: Task, wire: Wire) -> list[bytes]:
    """Encode every request of a task, once for all rounds."""
    return [wire.write(request) for request in task.requests]


def plan_tasks(model: Path) -> list[Task]:
    """Draw the requests of every workload and compute what must be answered."""
    session = raw.open_raw(model, threads=1)
    tasks = []
    for name, workload in WORKLOADS.items():
        requests = draw_requests(workload, MODELS[model.stem].features)
        tasks.append(Task(name, requests, [raw.encode_alone(session, request) for request in requests]))
    return tasks


def measure_server(
    server: Server, python: Path, model: Path, tasks: list[Task], pace: Pace, *, is_open: bool = False
) -> Figures:
    """Start a server and put every workload on it.

    Args:
        server: which.
        python: the interpreter from `Server.prepare`.
        model: the ONNX file.
        tasks: the workloads.
        pace: how long.
        is_open: whether to add the open loops, at 50 and 80 % of the rate that `S` reaches.

    Raises:
        Unavailable: it cannot be started, or answers wrongly.
    """
    figures: Figures = {}
    first = write_requests(tasks[0], server.wire)[0]
    watch = Watch()
    with start(server, python, model, first, model.with_suffix(".log")) as running:
        figures["ready_seconds"] = running.ready_seconds
        for task in tasks:
            requests = write_requests(task, server.wire)
            for seconds in (pace.warm_seconds, pace.seconds):
                time.sleep(SETTLE_SECONDS)
                outcome = run_closed(running.port, requests, task.workload.connections, seconds)
                check(outcome, task, server.wire)
            figures |= describe(task.name, outcome, task.workload.sequences)
            if server is OURS:
                figures[f"{task.name}.padding"] = padding_ratio(outcome)
            if is_open and task.name == "S":
                for share in (0.5, 0.8):
                    outcome = run_open(running.port, requests, share * figures["S.rate"], 2 * pace.seconds)
                    figures |= describe(f"open{share * 100:.0f}", outcome, 1)
        figures["resident_mb"] = running.resident_mb
        figures["others_share"] = watch.others_share(find_family(running.process.pid))
    return figures


def describe(name: str, outcome: Outcome, sequences: int) -> Figures:
    """Name the figures of a load whose requests held `sequences` each."""
    return {
        f"{name}.rate": outcome.rate * sequences,
        f"{name}.p50_ms": outcome.quantile(0.5),
        f"{name}.p99_ms": outcome.quantile(0.99),
        f"{name}.failed": float(sum(outcome.failures.values())),
    }


def check(outcome: Outcome, task: Task, wire: Wire) -> None:
    """Compare every answer with the embeddings of the same sequences alone.

    Raises:
        Unavailable: one is wrong, or nothing was answered; a measurement would mean nothing.
    """
    if not outcome.answers:
        raise Unavailable(f"{task.name}: no request was answered: {outcome.failures}")
    for index, body in outcome.answers.items():
        found, expected = wire.read(body), task.expected[index]
        if found.shape != expected.shape or not np.abs(found - expected).max() <= TOLERANCE:
            raise Unavailable(f"{task.name}: it answers wrongly; embeddings are to be within {TOLERANCE:g}")


def padding_ratio(outcome: Outcome) -> float:
    """Return computed steps over valid steps, as our own answers tell them."""
    usages = [orjson.loads(body)["usage"] for body in outcome.answers.values()]
    return float(sum(usage["padded_steps"] for usage in usages) / sum(usage["steps"] for usage in usages))


def measure_raw(model: Path, tasks: list[Task], pace: Pace) -> tuple[Figures, dict[str, str]]:
    """Measure the raw limit of a model on each workload's sequences.

    Returns:
        `L.p50_ms`, and `B.rate` and `mix.rate` (sequences/s; `S` has the lengths of `B`), and the arrangement of each.
    """
    by_name = {task.name: task.sequences for task in tasks}
    figures: Figures = {"L.p50_ms": raw.measure_latency(model, by_name["L"][:200])}
    arrangements = {}
    for name in ("B", "mix"):
        rate, arrangement = raw.measure_throughput(model, by_name[name], pace.raw_seconds)
        figures[f"{name}.rate"], arrangements[name] = rate, str(arrangement)
    figures["S.rate"] = figures["B.rate"]
    return figures, arrangements
