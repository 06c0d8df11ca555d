"""`python -m bench fuzz-artifacts`: artifacts, damaged at random, must be refused for a reason, or hold their proof.

Each file is drawn from its own number, so that `--first NUMBER --files 1` repeats it. What passes is loaded here, too,
as the service would. Prints what became of the files, and ends with one JSON line; exits with 1 if anything but a
refusal on purpose came of one. Reads the shipped artifact, a small one made here, and those given.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bench.stress.damage import draw_file
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.findings import UNFORESEEN, TrialBounds
from service.encoder.manifest import METADATA_KEY, Golden, Input, Tensor
from service.encoder.sequences import pad_batch
from service.encoder.session import EncoderSession
from service.errors import ArtifactError
from service.settings import SHIPPED_MODEL

BOUNDS = TrialBounds(seconds=20, cpu_seconds=10)
REASON_LENGTH = 64  # characters that tell one kind of refusal from another


@dataclass(slots=True)
class Tally:
    """What came of the files: counts by outcome, and what should not have come, each with its first file's number."""

    files: int = 0
    served: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    escapes: dict[str, int] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    slowest_file: int = 0


def make_small() -> bytes:
    """Return an artifact of some 3 kB, an LSTM of two units: most of it is structure, and little weights."""
    draw = np.random.default_rng(0)
    shapes = {"W": (1, 8, 3), "R": (1, 8, 2), "B": (1, 16)}
    stored = [
        onnx.numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    stored += [helper.make_tensor(f"axis_{number}", TensorProto.INT64, [1], [number]) for number in range(2)]
    stored.append(helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
    nodes = [
        helper.make_node("Transpose", ["sequences"], ["steps"], "turn", perm=[1, 0, 2]),
        helper.make_node("Cast", ["lengths"], ["short"], "shorten", to=TensorProto.INT32),
        helper.make_node("LSTM", ["steps", "W", "R", "B", "short"], ["Y"], "lstm", hidden_size=2),
        helper.make_node("ReduceSum", ["Y", "axis_0"], ["sums"], "sum", keepdims=0),
        helper.make_node("Squeeze", ["sums", "axis_0"], ["rows"], "squeeze"),
        helper.make_node("Cast", ["lengths"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Max", ["floats", "one"], ["divisors"], "max"),
        helper.make_node("Unsqueeze", ["divisors", "axis_1"], ["column"], "unsqueeze"),
        helper.make_node("Div", ["rows", "column"], ["embedding"], "divide"),
    ]
    inputs = [
        helper.make_tensor_value_info("sequences", TensorProto.FLOAT, ["batch", "time", 3]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = EncoderSession(model.SerializeToString(), "small")
    sequences = [draw.standard_normal((length, 3)).astype(np.float32) for length in (4, 1)]
    golden = [
        Golden(sequence=Tensor.of(sequence), embedding=Tensor.of(session.run(pad_batch([sequence]))[0]))
        for sequence in sequences
    ]
    shipped = EncoderSession(SHIPPED_MODEL.read_bytes(), "shipped").manifest
    if shipped is None:
        raise ValueError(f"{SHIPPED_MODEL} has no manifest")
    kept = {"name": "small", "dim": 2, "input": Input(kind="features", features=3), "golden": golden}
    model.metadata_props.add(key=METADATA_KEY, value=shipped.model_copy(update=kept).model_dump_json())
    content: bytes = model.SerializeToString()
    return content


def try_artifact(content: bytes, examiner: Examiner) -> str:
    """Examine a file, and load what passes.

    Returns:
        What came of it: served, or the kind of reason it was refused for.

    Raises:
        Exception: whatever it is that should not have come of it.
    """
    try:
        found = examiner.examine(content, "file.onnx")
    except ArtifactError as error:
        if error.reason.startswith(UNFORESEEN):
            raise
        kind = re.sub(r"-?\d[\d.e+]*", "N", re.sub(r"'[^']*'|\[[^\]]*\]", "_", error.reason))
        return f"refused: {kind[:REASON_LENGTH]}"
    session = EncoderSession(content, "file.onnx")
    difference = session.replay_golden()
    if (session.sha256, difference) != (found.sha256, found.difference):
        raise AssertionError(f"golden vectors differ by {difference} here, by {found.difference} when examined")
    return "served, " + ("unverified" if difference is None else "its golden vectors hold")


def fuzz(seeds: list[bytes], numbers: Iterable[int]) -> Tally:
    """Damage and try files, one after another."""
    tally = Tally()
    with closing(Examiner(BOUNDS)) as examiner:
        for number in numbers:
            content = draw_file(number, seeds)
            began = time.perf_counter()
            tally.files += 1
            try:
                outcome = try_artifact(content, examiner)
                tally.outcomes[outcome] += 1
                tally.served += outcome.startswith("served")
            except Exception as error:  # noqa: BLE001 - what no one foresaw is what is looked for
                tally.escapes.setdefault(f"{type(error).__name__}: {str(error)[:200]}", number)
            took = time.perf_counter() - began
            if took > tally.slowest_seconds:
                tally.slowest_seconds, tally.slowest_file = took, number
    return tally


def main() -> None:
    """Fuzz, and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench fuzz-artifacts", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=Path, metavar="ARTIFACT", help="more to damage, with a manifest each")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    options = parser.parse_args()
    seeds = [make_small(), SHIPPED_MODEL.read_bytes(), *(path.read_bytes() for path in options.seeds)]
    began = time.perf_counter()
    tally = fuzz(seeds, range(options.first, options.first + options.files))
    took = time.perf_counter() - began
    for outcome, files in tally.outcomes.most_common():
        print(f"{files:7}  {outcome}")
    deaths = sum(files for outcome, files in tally.outcomes.items() if "ended" in outcome)
    print(f"{tally.files} files in {took:.0f} s; file {tally.slowest_file} took {tally.slowest_seconds:.2f} s")
    for what, number in tally.escapes.items():
        print(f"  file {number}: {what}")
    report = {"files": tally.files, "served": tally.served, "deaths": deaths, "escapes": len(tally.escapes)}
    print(json.dumps(report | {"seconds": round(took, 1), "slowest_seconds": round(tally.slowest_seconds, 2)}))
    sys.exit(int(bool(tally.escapes)))
