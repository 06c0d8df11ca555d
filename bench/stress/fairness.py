"""`python -m bench fairness`: what a bulk request costs small ones.

Requests of one sequence of 5 steps go one after the other on one connection, first alone, then beside processes that
send requests of 100,000 steps without a pause; in turn, several rounds. Of several workers, one such process keeps one
at bulk, and small requests come to another; more of them keep all at bulk. Prints a table and ends with one JSON line.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.load.generator import Outcome, ask, run_closed
from bench.load.servers import OURS, Server, add_processes, find_family, start
from bench.load.watch import Watch
from bench.load.workloads import JSON, NPZ, draw_sequences
from service.costs.cpus import available_cpus
from service.encoder.session import open_session
from service.settings import SHIPPED_MODEL

SMALL_STEPS, BULK_STEPS, BULK_LENGTH = 5, 100_000, 50
WIRES = {"json": JSON, "npz": NPZ}


def send_bulk(port: int, request: bytes, answered: "multiprocessing.SimpleQueue[tuple[str, float]]") -> None:
    """Send one request after the other for ever; each answer's status and seconds go to `answered`."""
    while True:
        began = time.perf_counter()
        status, _ = ask(port, request)
        answered.put((status, time.perf_counter() - began))


def measure_fairness(
    server: Server, model: Path, wire: str, rounds: int, seconds: float, senders: int = 1
) -> dict[str, float]:
    """Measure small requests alone and beside bulk, in turn; so many processes send bulk.

    Returns:
        Medians over the rounds of `alone_p50_ms`, `alone_p99_ms`, `beside_p50_ms` and `beside_p99_ms`; the `ratio` of
        the p99s; `bulk_seconds`, the median answer of a bulk request; `bulks` answered; `others_share` of the CPUs.
    """
    features = open_session(model).kind.features
    if features is None:
        raise SystemExit("bench.stress.fairness measures encoders of features")
    draws = draw_sequences([SMALL_STEPS] * 64, features, seed=3)
    small = [JSON.write([steps]) for steps in draws]
    bulk = WIRES[wire].write(draw_sequences([BULK_LENGTH] * (BULK_STEPS // BULK_LENGTH), features, seed=4))
    context = multiprocessing.get_context("spawn")
    answered: multiprocessing.SimpleQueue[tuple[str, float]] = context.SimpleQueue()
    found: dict[str, list[Outcome]] = {"alone": [], "beside": []}
    watch = Watch()
    with (
        tempfile.TemporaryDirectory() as folder,
        start(server, Path(sys.executable), model, small[0], Path(folder) / "log") as running,
    ):
        run_closed(running.port, small, 1, 1.0)
        for _ in range(rounds):
            found["alone"].append(run_closed(running.port, small, 1, seconds))
            sending = [
                context.Process(target=send_bulk, args=(running.port, bulk, answered), daemon=True)
                for _ in range(senders)
            ]
            for sender in sending:
                sender.start()
            for _ in sending:
                answered.get()  # the first ones say that the senders are at work
            found["beside"].append(run_closed(running.port, small, 1, seconds))
            for sender in sending:
                sender.terminate()
                sender.join()
        others = watch.others_share([*find_family(running.process.pid)])
    bulks = []
    while not answered.empty():
        status, took = answered.get()
        if status != "200":
            raise SystemExit(f"a bulk request was answered {status}")
        bulks.append(took)
    figures = {
        f"{name}_p{100 * share:.0f}_ms": statistics.median(outcome.quantile(share) for outcome in outcomes)
        for name, outcomes in found.items()
        for share in (0.5, 0.99)
    }
    failed = sum(sum(outcome.failures.values()) for outcomes in found.values() for outcome in outcomes)
    ratio = figures["beside_p99_ms"] / figures["alone_p99_ms"]
    bulk_seconds = statistics.median(bulks) if bulks else float("nan")
    return figures | {
        "ratio": ratio,
        "failed": failed,
        "bulk_seconds": bulk_seconds,
        "bulks": len(bulks),
        "others_share": others,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench fairness", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--wire", choices=WIRES, default="json", help="how the bulk is sent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each half of a round")
    parser.add_argument("--senders", type=int, default=1, help="processes that send bulk at the same time")
    add_processes(parser)
    options = parser.parse_args(arguments)
    server = replace(OURS, processes=options.processes)
    figures = measure_fairness(server, options.model, options.wire, options.rounds, options.seconds, options.senders)
    print(f"{options.model}, bulk as {options.wire}, {options.rounds} rounds, {available_cpus()} CPUs")
    for name, value in figures.items():
        print(f"{name:14} {value:10.3f}")
    rounded = {name: round(value, 4) for name, value in figures.items()}
    setting = {name: getattr(options, name) for name in ("wire", "rounds", "seconds", "senders")}
    arrangement = {"processes": options.processes, "cpus": available_cpus()}
    print(json.dumps({"bench": "fairness", **setting, **arrangement, **rounded}))
