"""gRPC beside npz over HTTP, and Triton's gRPC beside ours, by one load generator.

h2load speaks both, and repeats one body on each connection. So all requests to Triton have one shape, as its batcher
needs; they carry their padding, and the same model in ONNX Runtime answers them, an instance for each CPU.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import numpy.typing as npt

from bench.load.launch import make_models, start_service
from bench.load.servers import TRITON_BINARY, Unavailable, find_family, find_port, start
from bench.load.workloads import JSON, MODELS, NPZ, Steps, Wire, draw_lengths, draw_sequences
from service.codecs.kserve import messages
from service.encoder.sequences import pad_batch

H2LOAD = shutil.which("h2load")
SHAPES = {"S": (32, 1), "B": (4, 32)}  # connections, sequences


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is asked.

    Attributes:
        url: where.
        body: what it is sent.
        headers: what goes with it.
        pid: the first process of the server.
    """

    url: str
    body: bytes
    headers: dict[str, str]
    pid: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one wire gave.

    Attributes:
        rate: sequences a second.
        p50_ms: median latency.
        failed: requests without a right answer.
        share: of a CPU, what the generator took.
        cpu_us: CPU time of the server for a sequence, in microseconds, taken to be as much in the second before.
    """

    rate: float
    p50_ms: float
    failed: int
    share: float
    cpu_us: float


def write_body(wire: Wire, sequences: list[Steps]) -> bytes:
    """Write what follows the head of a request of HTTP."""
    return wire.write(sequences).partition(b"\r\n\r\n")[2]


def write_message(sequences: list[Steps]) -> bytes:
    """Write a ragged request as gRPC frames it: a byte that says it is not compressed, its size, the message."""
    request = messages.message("ModelInferRequest")
    request.parameters["ragged"].bool_param = True
    return _frame(request, np.concatenate(sequences), np.array([len(one) for one in sequences]))


def write_padded(sequences: list[Steps]) -> bytes:
    """Write a request as PyTriton's model takes it: padded, and each length a row."""
    batch = pad_batch(sequences)
    return _frame(messages.message("ModelInferRequest", model_name="encoder"), batch.steps, batch.lengths[:, None])


def _frame(request: Any, steps: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> bytes:
    for name, datatype, array in (("sequences", "FP32", steps), ("lengths", "INT64", lengths)):
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    body: bytes = request.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def load(way: Way, shape: tuple[int, int], seconds: float, answer_bytes: int) -> Figures:
    """Put a closed loop on a wire.

    Raises:
        Unavailable: h2load failed, or answers did; it takes a refused call of gRPC, which has no data, for an answer.
    """
    connections, sequences = shape
    assert H2LOAD is not None
    with tempfile.TemporaryDirectory() as folder:
        sent, log = Path(folder, "body"), Path(folder, "log")
        sent.write_bytes(way.body)
        command = [H2LOAD, "-c", str(connections), "-m", "1", "-D", f"{seconds:g}", "-d", str(sent)]
        command += [f"--log-file={log}", "--warm-up-time=1"]
        command += ["--h1"] if "accept" in way.headers else []
        for name, value in way.headers.items():
            command += ["-H", f"{name}: {value}"]
        before, took = resource.getrusage(resource.RUSAGE_CHILDREN), count_cpu_seconds(way.pid)
        ended = subprocess.run([*command, way.url], capture_output=True, text=True, check=False)
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), count_cpu_seconds(way.pid) - took
        if ended.returncode or not log.exists():
            raise Unavailable(f"h2load failed: {ended.stderr or ended.stdout}")
        lines = [line.split() for line in log.read_text().splitlines()]
    times = [int(line[2]) / 1000 for line in lines if line[1] == "200"]
    done, data = (re.search(pattern, ended.stdout) for pattern in (r"(\d+) done", r"\((\d+)\) data"))
    if not (times and done and data and int(data[1]) >= int(done[1]) * answer_bytes):
        raise Unavailable(f"requests were not answered: {ended.stdout}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    share, cpu = spent / (seconds + 1), took * seconds / (seconds + 1)  # the second is the one before
    answered = sequences * len(times)
    p50 = statistics.median(times)
    return Figures(answered / seconds, p50, len(lines) - len(times), share, 1e6 * cpu / answered)


def count_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all that it started."""
    fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in find_family(pid)]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def ask(port: int, body: bytes) -> npt.NDArray[np.float32]:
    """Make one call, and return the numbers of its first output."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")(body[5:])
    read = messages.message("ModelInferResponse")
    read.ParseFromString(answer)
    return np.frombuffer(read.raw_output_contents[0], dtype="<f4")


@contextmanager
def start_triton(model: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Start Triton with a model; its environment is made in a folder.

    Yields:
        Its port for gRPC, and its first process.

    Raises:
        Unavailable: it cannot be installed or started.
    """
    server = replace(TRITON_BINARY, grpc_port=(port := find_port()))
    first = server.wire.write(draw_sequences([3], MODELS[model.stem].features, seed=0))
    with start(server, server.prepare(folder), model, first, model.with_suffix(".log")) as running:
        yield port, running.process.pid


def measure(model: Path, triton: tuple[int, int] | None, rounds: int, seconds: float) -> None:
    """Measure all wires in turn, and print medians.

    Raises:
        Unavailable: wires give different embeddings, or a request was not answered.
    """
    features = MODELS[model.stem].features
    port = find_port()
    with start_service("--model", str(model), "--grpc-port", str(port), "--log-requests", "false") as (service, web):
        for name, shape in SHAPES.items():
            sequences = draw_sequences(draw_lengths(shape[1], None, seed=1), features, seed=2)
            npz = {"content-type": "application/x-npz", "accept": "application/x-npy"}
            json = {"content-type": "application/json", "accept": "application/json"}
            rpc = {"content-type": "application/grpc", "te": "trailers"}
            call = f"/{messages.SERVICE}/ModelInfer"
            wires = {
                "JSON": Way(f"{web}/encode", write_body(JSON, sequences), json, service.pid),
                "npz": Way(f"{web}/encode", write_body(NPZ, sequences), npz, service.pid),
                "gRPC": Way(f"http://127.0.0.1:{port}{call}", write_message(sequences), rpc, service.pid),
            }
            expected = NPZ.read(httpx.post(f"{web}/encode", content=wires["npz"].body, headers=npz).content).ravel()
            if ask(port, wires["gRPC"].body).tobytes() != expected.tobytes():
                raise Unavailable("gRPC and npz give different embeddings")
            if triton:
                padded = write_padded(sequences)
                wires["Triton's gRPC"] = Way(f"http://127.0.0.1:{triton[0]}{call}", padded, rpc, triton[1])
                if not np.allclose(ask(triton[0], padded), expected, atol=1e-5):
                    raise Unavailable("Triton gives different embeddings")
            found: dict[str, list[Figures]] = {wire: [] for wire in wires}
            for _ in range(rounds):
                for wire, way in wires.items():
                    found[wire].append(load(way, shape, seconds, expected.nbytes))
            print_rows(f"{model.stem:8} {name}", found)


def print_rows(place: str, found: dict[str, list[Figures]]) -> None:
    """Print the medians of each wire, and what gRPC gives beside the others."""
    medians = {wire: statistics.median(one.rate for one in all_) for wire, all_ in found.items()}
    for wire, all_ in found.items():
        p50 = statistics.median(one.p50_ms for one in all_)
        busy = statistics.median(one.share for one in all_)
        cpu = statistics.median(one.cpu_us for one in all_)
        print(
            f"{place}  {wire:13} {medians[wire]:9,.0f} sequences/s  p50 {p50:7.2f} ms  {cpu:6.0f} us of CPU each  "
            f"failed {sum(one.failed for one in all_)}  generator {busy:4.0%} of a CPU"
        )
    for other in ("npz", "Triton's gRPC"):
        if other in medians:
            print(f"{place}  gRPC to {other} {medians['gRPC'] / medians[other]:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Measure both models and print."""
    parser = argparse.ArgumentParser(prog="python -m bench rpc", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="one short round of the small model")
    parser.add_argument("--triton", action=argparse.BooleanOptionalAction, default=True, help="beside ours")
    parser.add_argument("--folder", type=Path, default=Path(".bench"), help="of Triton's environment; .bench")
    options = parser.parse_args(arguments)
    if H2LOAD is None:
        sys.exit("python -m bench rpc: h2load puts the load on: install nghttp2-client")
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for name in ["small"] if options.quick else [*MODELS]:
            model = Path(folder, f"{name}.onnx")
            with start_triton(model, options.folder.resolve()) if options.triton else nullcontext() as triton:
                measure(model, triton, rounds, seconds)
