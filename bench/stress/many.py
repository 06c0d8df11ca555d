"""`python -m bench many`: many models in one service, and one that is replaced while requests are answered.

Swaps: one encoder is replaced again and again by others of its size under 32 connections; every answer must be, bit for
bit, that of the model whose hash it names. Shares: ten models of different sizes, all busy, each with another number of
connections; what each got of the runners' time. Flood: one short sequence at a time to nine models, with and without 32
requests at a time to the tenth. Prints a table and ends with one JSON line.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from onnxruntime import InferenceSession

from bench.load.generator import Connection, Outcome, ask, run_closed
from bench.load.launch import make_models
from bench.load.servers import OURS, Running, Server, add_processes, start
from bench.load.workloads import MANY, MODELS, SLOW, TRAININGS, draw_lengths, draw_sequences
from bench.speed import raw
from service.costs.cpus import available_cpus
from service.encoder.session import EncoderSession

KEY = "the-key-of-this-bench"
BODIES = 100
CONNECTIONS = 32
SWAPS = 50
PAUSE_SECONDS = 0.3  # between two swaps
REST_SECONDS = 3.0
FLOOD = "m9"  # the slowest
QUIET_STEPS = 5
RUN_SECONDS = re.compile(r'lengthwise_run_seconds_total\{(?:.*,)?model="([^"]*)".*\} (\S+)')


def write_request(sequences: list[npt.NDArray[np.float32]], model: str, path: str = "/encode") -> bytes:
    """Write a request in JSON."""
    body = orjson.dumps({"sequences": sequences, "model": model}, option=orjson.OPT_SERIALIZE_NUMPY)
    return write_post(path, body)


def write_post(path: str, body: bytes = b"{}") -> bytes:
    """Write a request with the admin's key."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Swaps:
    """One encoder, its versions, and what became of the requests to it."""

    def __init__(self, trained: list[Path], folder: Path) -> None:
        lengths = draw_lengths(BODIES, None, seed=11)
        sequences = draw_sequences(lengths, MODELS["small"].features, seed=12)
        self.requests = [write_request([steps], "trained") for steps in sequences]
        self._contents = [path.read_bytes() for path in trained]
        self._expected: dict[bytes, list[npt.NDArray[np.float32]]] = {}
        for content in self._contents:
            session = EncoderSession(content, "trained")
            alone = [raw.encode_alone(InferenceSession(content), [steps])[0] for steps in sequences]
            self._expected[session.sha256.encode()] = alone
        self._file = folder / "served.onnx"
        self.put(0)
        self.counts: Counter[str] = Counter()
        self.swap_seconds: list[float] = []

    def put(self, number: int) -> None:
        """Put a version in its place."""
        draft = self._file.with_name(".draft")
        draft.write_bytes(self._contents[number % len(self._contents)])
        draft.replace(self._file)

    def note(self, connection: Connection, status: str) -> None:
        """Judge an answer by the hash it names."""
        if status == "200":
            named = next(line for line in connection.head.split(b"\r\n") if line.lower().startswith(b"x-model-sha:"))
            expected = self._expected[named.split(b":")[1].strip()][connection.index]
            found = np.array(orjson.loads(connection.answer)["embeddings"][0], dtype=np.float32)
            status = "right" if found.tobytes() == expected.tobytes() else "wrong"
        self.counts[status] += 1

    def swap(self, port: int, swaps: int) -> None:
        """Replace the model so many times."""
        for number in range(1, swaps + 1):
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            self.put(number)
            status, body = ask(port, write_post("/v2/repository/models/trained/load"))
            if status != "200":
                raise RuntimeError(f"swap {number} was answered {status}: {body!r}")
            self.swap_seconds.append(time.perf_counter() - began)


def measure_swaps(server: Server, models: Path, swaps: int) -> dict[str, float]:
    """Replace a model under load, and compare latency with what it is without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        judge = Swaps([models / "trained" / f"{number}.onnx" for number in range(TRAININGS)], folder)
        with start(server, Path(sys.executable), folder, judge.requests[0], models / "many.log") as running:
            run_closed(running.port, judge.requests, CONNECTIONS, 2.0)
            swapping = threading.Thread(target=judge.swap, args=(running.port, 3))  # the first tries start a process
            swapping.start()
            run_closed(running.port, judge.requests, CONNECTIONS, 3.0, judge.note)
            swapping.join()
            judge.swap_seconds.clear()
            before_mb = rest(running)
            still = run_closed(running.port, judge.requests, CONNECTIONS, 10.0, judge.note)
            during = swap_under_load(running, judge, swaps)
            after_mb = rest(running)
    seconds = np.array(judge.swap_seconds)
    return {
        "swaps": swaps,
        "right": judge.counts["right"],
        "other": judge.counts.total() - judge.counts["right"],
        "p99_ms": round(still.quantile(0.99), 2),
        "p99_during_ms": round(during.quantile(0.99), 2),
        "p99_ratio": round(during.quantile(0.99) / still.quantile(0.99), 2),
        "rate": round(still.rate),
        "rate_during": round(during.rate),
        "swap_seconds": round(float(np.median(seconds)), 2),
        "before_mb": round(before_mb, 1),
        "after_mb": round(after_mb, 1),
    }


def rest(running: Running) -> float:
    """Wait until what is given back in quiet times was, and return what all processes hold, in 10^6 bytes."""
    time.sleep(REST_SECONDS)
    return running.resident_mb


def swap_under_load(running: Running, judge: Swaps, swaps: int) -> Outcome:
    """Send requests for as long as swaps go on."""
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(judge.swap, running.port, swaps)
        outcomes = []
        while not swapping.done():
            outcomes.append(run_closed(running.port, judge.requests, CONNECTIONS, 1.0, judge.note))
        swapping.result()
    whole = Outcome(seconds=sum(one.seconds for one in outcomes))
    for one in outcomes:
        whole.latencies += one.latencies
    return whole


def measure_shares(port: int, seconds: float) -> dict[str, float]:
    """Keep ten models busy, each with another number of connections, and return the share of run time of each."""
    draw = np.random.default_rng(13)
    requests = {
        f"m{number}": [
            write_request(draw_sequences(draw.integers(5, 60, 8).tolist(), SLOW.features, seed), f"m{number}")
            for seed in range(8)
        ]
        for number in range(len(MANY))
    }
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    with ThreadPoolExecutor(len(requests)) as pool:
        running = [
            pool.submit(run_closed, port, sent, 6 + 2 * number, seconds + 2)
            for number, sent in enumerate(requests.values())
        ]
        time.sleep(1.0)
        before = read_run_seconds(port)
        time.sleep(seconds)
        after = read_run_seconds(port)
        for one in running:
            one.result()
    got = {name: after[name] - before[name] for name in requests}
    return {name: round(share / sum(got.values()), 4) for name, share in got.items()}


def read_run_seconds(port: int) -> dict[str, float]:
    """Return the runners' seconds by model, of all workers together."""
    status, body = ask(port, b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")
    if status != "200":
        raise RuntimeError(f"the metrics were answered {status}")
    seconds: defaultdict[str, float] = defaultdict(float)
    for line in body.decode().splitlines():
        if found := RUN_SECONDS.match(line):
            seconds[found[1]] += float(found[2])
    return dict(seconds)


def measure_flood(port: int, seconds: float) -> dict[str, float]:
    """Return the p99 of quiet models in ms without and with a flood on another, and the flooded one's."""
    steps = draw_sequences([QUIET_STEPS] * 8, SLOW.features, seed=14)
    quiet = [
        write_request([one], f"m{number}") for one in steps for number in range(len(MANY)) if f"m{number}" != FLOOD
    ]
    lengths = np.random.default_rng(15).integers(5, 60, 8).tolist()
    flood = [write_request(draw_sequences(lengths, SLOW.features, seed), FLOOD) for seed in range(8)]
    alone = run_closed(port, quiet, 1, seconds)
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(run_closed, port, flood, CONNECTIONS, seconds + 2)
        time.sleep(1.0)
        beside = run_closed(port, quiet, 1, seconds)
        flooded = flooding.result()
    return {
        "quiet_p99_ms": round(alone.quantile(0.99), 2),
        "quiet_beside_flood_p99_ms": round(beside.quantile(0.99), 2),
        "flooded_p99_ms": round(flooded.quantile(0.99), 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench many", description=__doc__)
    parser.add_argument("--swaps", type=int, default=SWAPS)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="for shares, and half of it for each part of a flood"
    )
    add_processes(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of models; .bench")
    options = parser.parse_args(arguments)
    models = options.folder.resolve() / "models"
    make_models(models)
    os.environ["LENGTHWISE_ADMIN_KEY"] = KEY
    server = replace(OURS, processes=options.processes)
    swaps = measure_swaps(server, models, options.swaps)
    for name, value in swaps.items():
        print(f"{name:>26} {value:g}")
    first = write_request(draw_sequences([QUIET_STEPS], SLOW.features, seed=16), "m0")
    with start(server, Path(sys.executable), models / "many", first, models / "many.log") as running:
        shares = measure_shares(running.port, options.seconds)
        flood = measure_flood(running.port, options.seconds / 2)
    fair = 1 / len(shares)
    for (name, share), hidden in zip(shares.items(), MANY, strict=True):
        print(f"{name:>26} {hidden:4} units, {share:.1%} of the time, {share / fair - 1:+.1%} of fair")
    for name, value in flood.items():
        print(f"{name:>26} {value:g}")
    setting = {"processes": options.processes, "cpus": available_cpus()}
    print(json.dumps({"bench": "many", **setting, "swaps": swaps, "shares": shares, "flood": flood}))
