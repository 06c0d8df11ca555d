"""`python -m bench codecs`: what it costs to decode and encode each format, beside the model's own run.

For 32 sequences of 50 steps on the small model and 16 of 100 on the medium one: decoding with every check a request
gets, the writing of the answer, and the run as one batch on one thread. JSON is compared with orjson and NumPy doing
the same. Each is timed alone, in turns, and the fastest time stands. Prints a table and ends with one JSON line.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa

from bench.load.launch import make_models
from bench.load.workloads import MODELS, Steps
from bench.speed.rpc import write_message
from service.codecs.binary import arrow, npy, npz
from service.codecs.json import ndjson, ragged
from service.codecs.json.plain import Bounds
from service.codecs.kserve import inference, messages
from service.codecs.options import AnswerOptions
from service.encoder.sequences import Answer, InputSpec, Sequences, pad_batch
from service.encoder.session import EncoderSession, open_session
from service.settings import Settings

SHAPES = {"small": (32, 50), "medium": (16, 100)}  # sequences, steps
ROUNDS = 15
ROUND_SECONDS = 0.02  # of each of them in each round
LIMITS = Settings().limits


@dataclass(frozen=True, slots=True)
class Timed:
    """Something that is timed: of a format, `decode`, `encode` or `run`."""

    form: str
    stage: str
    call: Callable[[], object]


def write_bodies(sequences: list[Steps]) -> dict[str, bytes]:
    """Write sequences in each format."""
    values, lengths = np.concatenate(sequences), [len(steps) for steps in sequences]
    nested = [orjson.dumps(steps, option=orjson.OPT_SERIALIZE_NUMPY) for steps in sequences]  # shortest decimals
    file = io.BytesIO()
    np.savez(file, values=values, lengths=np.array(lengths))
    steps = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    column = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), steps)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("sequence", column.type)])) as stream:
        stream.write_batch(pa.record_batch([column], ["sequence"]))
    return {
        "json": b'{"sequences":[' + b",".join(nested) + b"]}",
        "ndjson": b"\n".join(nested),
        "npz": file.getvalue(),
        "npy": npy.write_array(values),  # one sequence of all the steps
        "arrow": sink.getvalue(),
        "gRPC": write_message(sequences)[5:],
    }


def decode_plainly(body: bytes) -> list[Steps]:
    """Decode JSON as most services do, checks left out."""
    return [np.asarray(steps, dtype=np.float32) for steps in orjson.loads(body)["sequences"]]


def list_timed(session: EncoderSession, sequences: list[Steps]) -> list[Timed]:
    """Make what is timed for one model."""
    spec, bodies = InputSpec(session.kind), write_bodies(sequences)
    batch = pad_batch(sequences)
    lengths = [len(steps) for steps in sequences]
    answer = Answer(session.run(batch), lengths=lengths, model="model", padded_steps=batch.steps.shape[0])
    bounds = Bounds.of([spec])
    floats, base64 = AnswerOptions(), AnswerOptions(encoding_format="base64")

    def decode_json() -> Sequences:
        _, read = ragged.parse(bodies["json"], None, LIMITS, bounds)
        return cast("Sequences", read(spec))

    def check(read: Callable[[], Sequences]) -> Callable[[], object]:
        return lambda: read().check(LIMITS)

    def decode_lines() -> object:
        splitter = ndjson.LineSplitter(2**25)
        lines = [*splitter.feed(bodies["ndjson"]), *splitter.finish()]
        return ndjson.decode(lines, spec, LIMITS, 2**25)

    def encode_lines(encoding_format: str) -> Callable[[], object]:
        return lambda: b"".join(
            ndjson.write_embedding(row, one, encoding_format) for row, one in enumerate(answer.embeddings)
        )

    signature = inference.Signature(spec, {"embedding": "embedding"}, "model", "1", LIMITS)
    message = messages.parse(messages.decode("ModelInferRequest", bodies["gRPC"]), signature)

    def decode_message() -> Sequences:
        request = messages.decode("ModelInferRequest", bodies["gRPC"])
        return cast("Sequences", messages.parse(request, signature).read(spec))

    return [
        Timed("the model", "run", lambda: session.run(batch)),
        Timed("orjson + numpy", "decode", lambda: decode_plainly(bodies["json"])),
        Timed("json", "decode", check(decode_json)),
        Timed("ndjson", "decode", decode_lines),
        Timed("npz", "decode", check(lambda: npz.read(bodies["npz"], spec, 2**25))),
        Timed("npy", "decode", check(lambda: npy.read(bodies["npy"], spec, 2**25))),
        Timed("arrow", "decode", check(lambda: arrow.read(bodies["arrow"], spec, 2**25))),
        Timed("gRPC", "decode", check(decode_message)),
        Timed("json", "encode", lambda: ragged.write(answer, floats)),
        Timed("json, base64", "encode", lambda: ragged.write(answer, base64)),
        Timed("ndjson", "encode", encode_lines("float")),
        Timed("ndjson, base64", "encode", encode_lines("base64")),
        Timed("npy", "encode", lambda: npy.write(answer, floats)),
        Timed("gRPC", "encode", lambda: message.write(answer)),
        Timed("arrow", "encode", lambda: arrow.write(answer, floats)),
    ]


def measure(timed: list[Timed], rounds: int) -> dict[str, dict[str, float]]:
    """Return the least microseconds of each, by format and stage."""
    least: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for one in timed:
            began, times = time.perf_counter(), list[float]()
            while not times or time.perf_counter() - began < ROUND_SECONDS:
                start = time.perf_counter()
                one.call()
                times.append(time.perf_counter() - start)
            stages = least.setdefault(one.form, {})
            stages[one.stage] = min(stages.get(one.stage, np.inf), 1e6 * min(times))
    return least


def print_table(name: str, least: dict[str, dict[str, float]]) -> None:
    """Print what one model's formats cost, and what part of its run that is."""
    run = least["the model"]["run"]
    size, (rows, steps) = MODELS[name], SHAPES[name]
    print(f"{rows} x {steps} x {size.features}, {size.hidden} units a direction: the run takes {run:.0f} µs")
    print(f"{'':16} {'decode µs':>10} {'of run':>7} {'encode µs':>10} {'of run':>7}")
    for form, stages in least.items():
        if form != "the model":
            cells = (
                f"{stages[stage]:10.1f} {stages[stage] / run:7.1%}" if stage in stages else " " * 18
                for stage in ("decode", "encode")
            )
            print(f"{form:16} {' '.join(cells)}")
    ratio = least["json"]["decode"] / least["orjson + numpy"]["decode"]
    print(f"json is decoded in {ratio:.2f} of the time of orjson and numpy\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure both models and print."""
    parser = argparse.ArgumentParser(prog="python -m bench codecs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    arrow.FORMAT.load()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for name, (rows, steps) in SHAPES.items():
            session = open_session(Path(folder) / f"{name}.onnx", threads=1)
            drawn = np.random.default_rng(0).standard_normal((rows, steps, MODELS[name].features))
            timed = list_timed(session, list(drawn.astype(np.float32)))
            found[name] = measure(timed, options.rounds)
            print_table(name, found[name])
    rounded = {
        name: {form: {stage: round(cost, 1) for stage, cost in stages.items()} for form, stages in least.items()}
        for name, least in found.items()
    }
    print(json.dumps({"bench": "codecs", "unit": "microseconds", "models": rounded}))
