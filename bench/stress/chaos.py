"""`python -m bench chaos`: whether every request is answered, once and rightly, whatever breaks.

A slow encoder is served while runs raise, runner threads die or hang, clients hang up, workers are killed and the
service is told to end. Each answer is compared with the encoder alone. Prints a table and ends with one JSON line.
"""

import argparse
import json
import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from onnxruntime import InferenceSession

from bench.load.generator import Connection, run_number
from bench.load.launch import make_models
from bench.load.servers import Running, Server, add_processes, find_family, start
from bench.load.workloads import JSON, SLOW, Steps, draw_sequences
from bench.speed import raw
from bench.speed.measure import TOLERANCE
from bench.stress.faulty import DIES, HANGS, RAISES
from service.costs.cpus import available_cpus

FAULTY = Server("lengthwise, with faults", module="bench.stress.faulty")
BODIES, MARKED, CONNECTIONS = 100, 50, 16  # one request in a hundred is marked
HANG_SECONDS = 3.0
HANG_UPS = 0.3  # of all requests
KILLS = 3  # one after the other, each once the one before it was replaced
KILL_PAUSE_SECONDS = 0.5

Counts: TypeAlias = Counter[str]


class Judge:
    """Requests, one of them marked if a mark is given, and what became of them."""

    def __init__(self, session: InferenceSession, mark: float | None = None) -> None:
        lengths = np.random.default_rng(9).integers(1, 60, BODIES).tolist()
        sequences: list[Steps] = draw_sequences(lengths, SLOW.features, seed=10)
        if mark is not None:
            sequences[MARKED][0, 0] = mark
        self._expected = [raw.encode_alone(session, [steps]) for steps in sequences]
        self.requests = [JSON.write([steps]) for steps in sequences]
        self.counts: Counts = Counter()

    def note(self, connection: Connection, status: str) -> None:
        """Judge an answer."""
        marked = "marked " if connection.index == MARKED else ""
        if status == "200":
            off = float(np.abs(JSON.read(connection.answer) - self._expected[connection.index]).max())
            status = "right" if off <= TOLERANCE else "wrong"
        self.counts[marked + status] += 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What the faults are put on.

    Attributes:
        server: the service, in the arrangement that was asked for.
        model: the encoder's file.
        session: the encoder alone, which answers are compared with.
    """

    server: Server
    model: Path
    session: InferenceSession

    @contextmanager
    def serve(self, judge: Judge) -> Iterator[Running]:
        """Start the service."""
        log = self.model.with_suffix(".log")
        with start(self.server, Path(sys.executable), self.model, judge.requests[0], log) as running:
            yield running


def send_marked(mark: float | None) -> Callable[[Subject, int], Counts]:
    """Make a phase that sends requests of which one in a hundred is marked."""

    def run(subject: Subject, number: int) -> Counts:
        judge = Judge(subject.session, mark)
        if mark == HANGS:
            number = min(number, 2 * BODIES)  # each runner is replaced once
        with subject.serve(judge) as running:
            run_number(running.port, judge.requests, CONNECTIONS, number, judge.note)
        judge.counts["lost"] += number - judge.counts.total()
        return judge.counts

    return run


def hang_up(subject: Subject, number: int) -> Counts:
    """Send requests, and others beside them whose clients hang up."""
    judge, ended = Judge(subject.session), threading.Event()
    hung_up = 0

    def send_and_close(port: int) -> None:
        nonlocal hung_up
        while not ended.wait(0.002):
            if hung_up < HANG_UPS / (1 - HANG_UPS) * (judge.counts.total() + CONNECTIONS):
                connection = Connection(port)
                connection.start(judge.requests[hung_up % BODIES], 0.0)
                connection.close()
                hung_up += 1

    with subject.serve(judge) as running:
        beside = threading.Thread(target=send_and_close, args=(running.port,))
        beside.start()
        run_number(running.port, judge.requests, CONNECTIONS, number, judge.note)
        ended.set()
        beside.join()
    judge.counts["lost"] += number - judge.counts.total()
    judge.counts["hung up"] = hung_up
    return judge.counts


def kill_workers(subject: Subject, number: int) -> Counts:
    """Send requests while one worker after the other is killed; at most what is under way on its connections breaks.

    If the service is one process, none is killed.
    """
    judge, ended = Judge(subject.session), threading.Event()

    def kill(first: int) -> None:
        whole = len(find_family(first))
        while judge.counts["killed"] < KILLS and not ended.wait(KILL_PAUSE_SECONDS):
            workers = find_family(first)[1:]
            if workers and len(workers) == whole - 1:
                os.kill(workers[judge.counts["killed"] % len(workers)], signal.SIGKILL)
                judge.counts["killed"] += 1

    with subject.serve(judge) as running:
        beside = threading.Thread(target=kill, args=(running.process.pid,))
        beside.start()
        run_number(running.port, judge.requests, CONNECTIONS, number, judge.note)
        ended.set()
        beside.join()
    judge.counts["lost"] += number - (judge.counts.total() - judge.counts["killed"])
    return judge.counts


def end_under_load(subject: Subject, number: int) -> Counts:
    """Send many requests at once, tell the process to end, and read what comes."""
    judge = Judge(subject.session)
    with subject.serve(judge) as running:
        waiting = {Connection(running.port) for _ in range(min(number, 4 * BODIES))}
        sent = len(waiting)
        for place, connection in enumerate(waiting):
            connection.index = place % BODIES
            connection.start(judge.requests[connection.index], 0.0)
        time.sleep(0.2)
        running.process.terminate()
        began = time.perf_counter()
        while waiting and time.perf_counter() - began < 60:
            for connection in select.select(list(waiting), [], [], 1.0)[0]:
                if (status := connection.receive()) is not None:
                    judge.note(connection, status)
                    waiting.discard(connection)
                    connection.close()
        running.process.wait(60)
    judge.counts["lost"] += sent - judge.counts.total()
    return judge.counts


PHASES = {
    "the model raises on 1 in 100": send_marked(RAISES),
    "a runner dies on 1 in 100": send_marked(DIES),
    "runners hang on 1 in 100": send_marked(HANGS),
    "3 in 10 clients hang up": hang_up,
    "workers are killed": kill_workers,
    "SIGTERM under load": end_under_load,
}


def main(arguments: list[str] | None = None) -> None:
    """Go through the phases and print what became of the requests."""
    parser = argparse.ArgumentParser(prog="python -m bench chaos", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="in each phase")
    add_processes(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    models = options.folder.resolve() / "models"
    make_models(models)
    model = models / "slow.onnx"
    server = replace(FAULTY, processes=options.processes)
    subject = Subject(server, model, raw.open_raw(model, threads=1))
    os.environ["LENGTHWISE_MAX_RUN_SECONDS"] = str(HANG_SECONDS)
    found: dict[str, Counts] = {}
    for name, phase in PHASES.items():
        found[name] = phase(subject, options.requests)
        print(f"{name:30} {', '.join(f'{count} {kind}' for kind, count in sorted(found[name].items()))}", flush=True)
    setting = {"requests": options.requests, "processes": options.processes, "cpus": available_cpus()}
    print(json.dumps({"bench": "chaos", **setting, "phases": found}))
