"""What is asked of a server: models, workloads, and requests encoded before any clock runs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

Steps: TypeAlias = npt.NDArray[np.float32]  # (t, F): one sequence
Embeddings: TypeAlias = npt.NDArray[np.float32]  # (n, D)


@dataclass(frozen=True, slots=True)
class Size:
    """A model: F features to a bidirectional LSTM layer of H units in each direction."""

    features: int
    hidden: int


MODELS = {"small": Size(12, 64), "medium": Size(128, 256)}
LARGE = Size(256, 512)  # for GPUs
SIZES = {**MODELS, "large": LARGE}
SLOW = Size(4, 512)  # much work in few bytes: what overloads it overloads neither the wire nor the load generator
MANY = (*range(96, 384, 32), 512)  # units of ten models whose runs differ in length more than tenfold
TRAININGS = 4  # of one encoder, which differ in their weights


@dataclass(frozen=True, slots=True)
class Workload:
    """A closed loop: as many connections as may be, each sending its next request when it has its answer.

    Attributes:
        connections: how many are open, and so requests in flight.
        sequences: how many are in each request.
        longest: None draws lengths log-normally, median 33, cut at 200; a number draws their logarithm evenly from 1
            step to that many.
        bodies: different requests, sent in turn.
    """

    connections: int
    sequences: int
    bodies: int
    longest: int | None = None


WORKLOADS = {
    "L": Workload(connections=1, sequences=1, bodies=512),
    "S": Workload(connections=32, sequences=1, bodies=512),
    "B": Workload(connections=4, sequences=32, bodies=48),
    "mix": Workload(connections=32, sequences=1, bodies=256, longest=2000),
}


def draw_lengths(count: int, longest: int | None, seed: int) -> list[int]:
    """Draw sequence lengths as `Workload.longest` says."""
    draw = np.random.default_rng(seed)
    if longest is None:
        lengths = draw.lognormal(np.log(33), 0.8, count).clip(1, 200)
    else:
        lengths = np.exp(draw.uniform(0, np.log(longest), count)).round()
    return [int(length) for length in lengths]


def draw_sequences(lengths: list[int], features: int, seed: int) -> list[Steps]:
    """Draw sequences of standard normal numbers with four decimals, `(t_i, F)` each."""
    draw = np.random.default_rng(seed)
    return [draw.standard_normal((length, features)).round(4).astype(np.float32) for length in lengths]


def draw_requests(workload: Workload, features: int) -> list[list[Steps]]:
    """Draw the sequences of every request of a workload; the same in every run."""
    lengths = draw_lengths(workload.bodies * workload.sequences, workload.longest, seed=1)
    sequences = draw_sequences(lengths, features, seed=2)
    return [sequences[first : first + workload.sequences] for first in range(0, len(sequences), workload.sequences)]


@dataclass(frozen=True, slots=True)
class Wire:
    """A way to put sequences on the wire.

    Attributes:
        write: sequences to one whole HTTP request.
        read: an answer's body to `(n, D)`.
    """

    write: Callable[[list[Steps]], bytes]
    read: Callable[[bytes], Embeddings]


def post(path: str, body: bytes, media_type: str = "application/json", *headers: str) -> bytes:
    """Return a POST as HTTP/1.1 sends it."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", f"Content-Type: {media_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def _write_json(sequences: list[Steps]) -> bytes:
    return post("/encode", _dump({"sequences": sequences}))


def _dump(document: dict[str, Any]) -> bytes:
    """Write JSON; float32 becomes the shortest decimals that read back as it, four here."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_json(body: bytes) -> Embeddings:
    return np.array(orjson.loads(body)["embeddings"], dtype=np.float32)


def pad(sequences: list[Steps]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Right-pad n sequences with zeros to `(n, T, F)`, and return it with their lengths `(n, 1)`."""
    lengths = np.array([[len(steps)] for steps in sequences], dtype=np.int64)
    padded = np.zeros((len(sequences), int(lengths.max()), sequences[0].shape[1]), dtype=np.float32)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = steps
    return padded, lengths


def _describe_tensors(padded: Steps, lengths: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {"name": "sequences", "shape": list(padded.shape), "datatype": "FP32"},
        {"name": "lengths", "shape": list(lengths.shape), "datatype": "INT64"},
    ]


INFER = "/v2/models/encoder/infer"


def _write_kserve_json(sequences: list[Steps]) -> bytes:
    padded, lengths = pad(sequences)
    steps, counts = _describe_tensors(padded, lengths)
    steps["data"], counts["data"] = padded.ravel(), lengths.ravel()
    return post(INFER, _dump({"inputs": [steps, counts]}))


def _read_kserve_json(body: bytes) -> Embeddings:
    output = orjson.loads(body)["outputs"][0]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def _write_kserve_binary(sequences: list[Steps]) -> bytes:
    padded, lengths = pad(sequences)
    inputs = _describe_tensors(padded, lengths)
    for description, size in zip(inputs, (padded.nbytes, lengths.nbytes), strict=True):
        description["parameters"] = {"binary_data_size": size}
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    body = head + padded.tobytes() + lengths.tobytes()
    return post(INFER, body, "application/octet-stream", f"Inference-Header-Content-Length: {len(head)}")


def _read_kserve_binary(body: bytes) -> Embeddings:
    document, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return np.frombuffer(body[end:], dtype=np.float32).reshape(document["outputs"][0]["shape"])


def _write_npz(sequences: list[Steps]) -> bytes:
    content = BytesIO()
    lengths = np.array([len(steps) for steps in sequences], dtype=np.int64)
    np.savez(content, values=np.concatenate(sequences), lengths=lengths)
    return post("/encode", content.getvalue(), "application/x-npz", "Accept: application/x-npy")


def _read_npy(body: bytes) -> Embeddings:
    found: Embeddings = np.load(BytesIO(body), allow_pickle=False)
    return found


JSON = Wire(_write_json, _read_json)
NPZ = Wire(_write_npz, _read_npy)
KSERVE_JSON = Wire(_write_kserve_json, _read_kserve_json)
KSERVE_BINARY = Wire(_write_kserve_binary, _read_kserve_binary)
