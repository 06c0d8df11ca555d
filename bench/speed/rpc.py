"""gRPC beside npz over HTTP, by one load generator: h2load, which speaks both, repeats one body on each connection."""

import argparse
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np

from bench.load.launch import make_models, start_service
from bench.load.servers import Unavailable
from bench.load.workloads import JSON, MODELS, NPZ, Steps, Wire, draw_lengths, draw_sequences
from service.codecs.kserve import messages

H2LOAD = shutil.which("h2load")
SHAPES = {"S": (32, 1), "B": (4, 32)}  # connections, sequences


@dataclass(frozen=True, slots=True)
class Figures:
    """What one wire gave.

    Attributes:
        rate: sequences a second.
        p50_ms: median latency.
        failed: requests without a right answer.
        share: of the CPU time of both, what the generator took.
    """

    rate: float
    p50_ms: float
    failed: int
    share: float


def write_body(wire: Wire, sequences: list[Steps]) -> bytes:
    """Write what follows the head of a request of HTTP."""
    return wire.write(sequences).partition(b"\r\n\r\n")[2]


def write_message(sequences: list[Steps]) -> bytes:
    """Write a ragged request as gRPC frames it: a byte that says it is not compressed, its size, the message."""
    request = messages.message("ModelInferRequest")
    request.parameters["ragged"].bool_param = True
    arrays = {"sequences": np.concatenate(sequences), "lengths": np.array([len(one) for one in sequences])}
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype="FP32" if name == "sequences" else "INT64", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    body: bytes = request.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def load(url: str, body: bytes, headers: dict[str, str], shape: tuple[int, int], seconds: float) -> Figures:
    """Put a closed loop on a wire.

    Raises:
        Unavailable: h2load failed, or answers did.
    """
    connections, sequences = shape
    assert H2LOAD is not None
    with tempfile.TemporaryDirectory() as folder:
        sent, log = Path(folder, "body"), Path(folder, "log")
        sent.write_bytes(body)
        command = [H2LOAD, "-c", str(connections), "-m", "1", "-D", f"{seconds:g}", "-d", str(sent)]
        command += [f"--log-file={log}", "--warm-up-time=1"]
        command += ["--h1"] if "accept" in headers else []
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode or not log.exists():
            raise Unavailable(f"h2load failed: {ended.stderr or ended.stdout}")
        lines = [line.split() for line in log.read_text().splitlines()]
    times = [int(line[2]) / 1000 for line in lines if line[1] == "200"]
    if not times:
        raise Unavailable(f"no request was answered: {ended.stdout}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    share = spent / (seconds + 1)
    return Figures(sequences * len(times) / seconds, statistics.median(times), len(lines) - len(times), share)


def check(port: int, sequences: list[Steps], expected: bytes) -> None:
    """See that gRPC gives the bits of npz.

    Raises:
        Unavailable: it does not.
    """
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        body = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")(write_message(sequences)[5:])
    answer = messages.decode("ModelInferResponse", body)
    if answer.raw_output_contents[0] != NPZ.read(expected).tobytes():
        raise Unavailable("gRPC and npz give different embeddings")


def require_none_refused(web: str) -> None:
    """See that every request was answered: h2load takes a refused call of gRPC for an answer.

    Raises:
        Unavailable: some were not.
    """
    lines = httpx.get(f"{web}/metrics").text.splitlines()
    refused = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("lengthwise_rejected_total{"))
    if refused:
        raise Unavailable(f"{refused:g} requests were refused")


def find_port() -> int:
    """Return a port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def measure(model: Path, rounds: int, seconds: float) -> None:
    """Measure both wires in turn, and print medians."""
    features = MODELS[model.stem].features
    port = find_port()
    with start_service("--model", str(model), "--grpc-port", str(port), "--log-requests", "false") as (_, web):
        for name, shape in SHAPES.items():
            sequences = draw_sequences(draw_lengths(shape[1], None, seed=1), features, seed=2)
            rpc = f"http://127.0.0.1:{port}/{messages.SERVICE}/ModelInfer"
            npz = {"content-type": "application/x-npz", "accept": "application/x-npy"}
            json = {"content-type": "application/json", "accept": "application/json"}
            wires = {
                "JSON": (f"{web}/encode", write_body(JSON, sequences), json),
                "npz": (f"{web}/encode", write_body(NPZ, sequences), npz),
                "gRPC": (rpc, write_message(sequences), {"content-type": "application/grpc", "te": "trailers"}),
            }
            check(port, sequences, httpx.post(wires["npz"][0], content=wires["npz"][1], headers=npz).content)
            found: dict[str, list[Figures]] = {wire: [] for wire in wires}
            for _ in range(rounds):
                for wire, (url, body, headers) in wires.items():
                    found[wire].append(load(url, body, headers, shape, seconds))
            medians = {wire: statistics.median(one.rate for one in all_) for wire, all_ in found.items()}
            require_none_refused(web)
            for wire, all_ in found.items():
                p50 = statistics.median(one.p50_ms for one in all_)
                busy = statistics.median(one.share for one in all_)
                print(
                    f"{model.stem:8} {name}  {wire:5} {medians[wire]:9,.0f} sequences/s  p50 {p50:6.2f} ms  "
                    f"failed {sum(one.failed for one in all_)}  generator {busy:4.0%} of a CPU"
                )
            print(f"{model.stem:8} {name}  gRPC to npz {medians['gRPC'] / medians['npz']:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Measure both models and print."""
    parser = argparse.ArgumentParser(prog="python -m bench rpc", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="one short round of the small model")
    options = parser.parse_args(arguments)
    if H2LOAD is None:
        sys.exit("python -m bench rpc: h2load puts the load on: install nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for name in ["small"] if options.quick else [*MODELS]:
            model = Path(folder, f"{name}.onnx")
            measure(model, 1 if options.quick else options.rounds, 1.0 if options.quick else options.seconds)
