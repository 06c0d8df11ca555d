"""`python -m bench fuzz`: valid bodies of every format, damaged at random, must give sequences or an error on purpose.

Each case is drawn from its own number, so that `--targets NAME --first NUMBER --cases 1` repeats it. Prints what got
out that should not have, and ends with one JSON line; exits with 1 if anything did.
"""

import argparse
import gzip
import io
import itertools
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.stress.damage import mutate
from service.codecs.binary import arrow, npy, npz
from service.codecs.compression import decompress
from service.codecs.json import ndjson, openai, ragged
from service.codecs.json.plain import Bounds
from service.codecs.kserve import inference
from service.codecs.options import read_query
from service.encoder.sequences import Features, InputSpec, Sequences, Tokens, join
from service.encoder.tokenizer import Texts
from service.errors import LengthwiseError
from service.settings import Limits

FLOATS = InputSpec(Features(3), state_names=("h", "c"), state_shape=(1, 2, 2))
TOKENS = InputSpec(Tokens(50), tokenize=lambda texts: [np.arange(1, 1 + len(text)) % 50 for text in texts])
SPECS = (FLOATS, TOKENS)
LIMITS = Limits(max_sequence_steps=1000, max_request_steps=5000, empty_allowed=True)
BODY_BYTES = 2**20
SLOW_SECONDS = 1.0  # for a body of at most some hundred kB

Decode = Callable[[bytes, InputSpec], list[Sequences]]


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: valid bodies for each of `SPECS`, and how they are read."""

    seeds: tuple[list[bytes], list[bytes]]
    decode: Decode


@dataclass(slots=True)
class Tally:
    """What came of a target's cases, by outcome; `escapes` holds the first case of each unforeseen error."""

    cases: int = 0
    read: int = 0
    slowest_seconds: float = 0.0
    escapes: dict[str, int] = field(default_factory=dict)


def _signature(spec: InputSpec) -> inference.Signature:
    return inference.Signature(spec, {"embedding": "embedding"}, "made", "1", LIMITS)


def _tokenize(found: Sequences | Texts, spec: InputSpec) -> Sequences:
    """Tokenise what is a request's texts."""
    if isinstance(found, Sequences):
        return found
    found.check(LIMITS)
    assert spec.tokenize is not None, "only a model with a tokenizer reads texts"
    return join(spec.tokenize(found.texts), spec.kind, found.field)


def _read_json(body: bytes, spec: InputSpec) -> list[Sequences]:
    _, read = ragged.parse(body, None, LIMITS, Bounds.of([spec]))
    return [_tokenize(read(spec), spec)]


def _read_v2_raw(body: bytes, spec: InputSpec) -> list[Sequences]:
    """Read a body whose first two bytes say how long its JSON is, as a header would."""
    question = inference.parse(body[2:], int.from_bytes(body[:2], "little"), _signature(spec))
    return [_tokenize(question.read(spec), spec)]


def _read_lines(body: bytes, spec: InputSpec) -> list[Sequences]:
    splitter = ndjson.LineSplitter(BODY_BYTES)
    lines = [*splitter.feed(body), *splitter.finish()]
    found = ndjson.decode(lines, spec, LIMITS, BODY_BYTES) if lines else []
    rows = [one for one in found if not isinstance(one, str | LengthwiseError)]
    return [Sequences(row, np.array([len(row)])) for row in rows]


def _read_gzip(body: bytes, spec: InputSpec) -> list[Sequences]:
    return _read_json(decompress(body, "gzip", BODY_BYTES), spec)


def _read_query(body: bytes, _spec: InputSpec) -> list[Sequences]:
    read_query(body)
    return []


def _write_npz(spec: InputSpec, write: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    write(file, values=_steps(spec), lengths=np.array([2, 1]))
    return file.getvalue()


def _write_npy(array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _write_arrow(spec: InputSpec) -> bytes:
    kind = pa.list_(pa.float32(), spec.kind.features) if isinstance(spec.kind, Features) else pa.int64()
    steps = _steps(spec).tolist()
    batch = pa.record_batch([pa.array([steps[:2], steps[2:]], pa.list_(kind))], ["sequence"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _steps(spec: InputSpec) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    """Return three steps, of a sequence of two and one of one."""
    if isinstance(spec.kind, Tokens):
        return np.array([3, 7, 49], np.int64)
    return np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)


def _write_json(spec: InputSpec) -> list[bytes]:
    steps = _steps(spec).tolist()
    plain = {"sequences": [steps[:2], steps[2:]]}
    padded = {"sequences": [steps[:2], steps[1:]], "lengths": [2, 1], "normalize": True, "outputs": ["embedding"]}
    rows = [[[[0.5, 1], [2, 3]]]] * 2
    more: dict[str, object] = (
        {"texts": ["ab", "c"]} if isinstance(spec.kind, Tokens) else {**plain, "state": {"h": rows, "c": rows}}
    )
    return [json.dumps(body).encode() for body in (plain, padded, more)]


def _write_openai(spec: InputSpec) -> list[bytes]:
    steps = _steps(spec).tolist()
    inputs: list[object] = [[steps[:2], steps[2:]], steps] + (
        [["ab", "c"], "ab"] if isinstance(spec.kind, Tokens) else []
    )
    return [json.dumps({"model": "m", "input": one, "encoding_format": "float"}).encode() for one in inputs]


def _write_v2(spec: InputSpec, *, is_raw: bool) -> list[bytes]:
    """Write tensors padded and ragged, in JSON or behind it."""
    steps, bodies = _steps(spec), []
    datatype = inference.DATATYPES[spec.kind.dtype]
    states = np.zeros((2, 1, 2, 2), np.float32)
    for is_ragged, array in ((True, steps), (False, np.stack([steps[:2], steps[1:]]))):
        tensors = {"sequences": (datatype, array), "lengths": ("INT64", np.array([2, 1]))}
        tensors |= {f"initial_{name}": ("FP32", states) for name in spec.state_names}
        inputs = [
            {"name": name, "shape": part.shape, "datatype": kind}
            | ({"parameters": {"binary_data_size": part.nbytes}} if is_raw else {"data": part.ravel().tolist()})
            for name, (kind, part) in tensors.items()
        ]
        text = json.dumps({"id": "1", "inputs": inputs, "parameters": {"ragged": is_ragged, "timeout": 9}}).encode()
        raw = b"".join(part.tobytes() for _, part in tensors.values())
        bodies.append(len(text).to_bytes(2, "little") + text + raw if is_raw else text)
    return bodies


def _make(write: Callable[[InputSpec], list[bytes]], decode: Decode) -> Target:
    return Target((write(FLOATS), write(TOKENS)), decode)


def make_targets() -> dict[str, Target]:
    """Return what is fuzzed, by name."""
    arrow.FORMAT.load()
    return {
        "json": _make(_write_json, _read_json),
        "openai": _make(
            _write_openai,
            lambda body, spec: [_tokenize(openai.parse(body, LIMITS, Bounds.of([spec])).read(spec), spec)],
        ),
        "v2": _make(
            partial(_write_v2, is_raw=False),
            lambda body, spec: [_tokenize(inference.parse(body, None, _signature(spec)).read(spec), spec)],
        ),
        "v2-raw": _make(partial(_write_v2, is_raw=True), _read_v2_raw),
        "npy": _make(lambda spec: [_write_npy(_steps(spec))], lambda body, spec: [npy.read(body, spec, BODY_BYTES)]),
        "npz": _make(
            lambda spec: [_write_npz(spec, np.savez), _write_npz(spec, np.savez_compressed)],
            lambda body, spec: [npz.read(body, spec, BODY_BYTES)],
        ),
        "arrow": _make(lambda spec: [_write_arrow(spec)], lambda body, spec: [arrow.read(body, spec, BODY_BYTES)]),
        "ndjson": _make(
            lambda spec: [b"%a\n\n%a\n" % (_steps(spec)[:2].tolist(), _steps(spec)[2:].tolist()), b'"ab"\n"c"'],
            _read_lines,
        ),
        "gzip": _make(lambda spec: [gzip.compress(body, mtime=0) for body in _write_json(spec)], _read_gzip),
        "query": _make(
            lambda _: [b"model=m&outputs=embedding,steps&normalize=true&encoding_format=base64"], _read_query
        ),
    }


def draw_case(target: Target, number: int) -> tuple[bytes, InputSpec]:
    """Return the body of a case, and what the model that it is for reads."""
    draw = random.Random(number)  # noqa: S311 - cases are to be drawn again
    kind = number % len(SPECS)
    seeds = target.seeds[kind]
    return mutate(draw.choice(seeds), seeds, draw), SPECS[kind]


def try_body(target: Target, body: bytes, spec: InputSpec) -> bool:
    """Read a body as a route would, and check what a session relies on.

    Returns:
        Whether sequences came of it.

    Raises:
        Exception: whatever is not a `LengthwiseError`; `AssertionError` if what came of it cannot be encoded.
    """
    try:
        read = target.decode(body, spec)
        for sequences in read:
            sequences.check(LIMITS, spec.kind.vocabulary)
    except LengthwiseError as error:
        str(error).encode()  # it goes into an answer
        return False
    for sequences in read:
        shape = (sequences.steps, *spec.kind.shape)
        if sequences.values.shape != shape or int(sequences.lengths.sum()) != sequences.steps:
            raise AssertionError(f"{sequences.values.shape} for {sequences.lengths.tolist()}")
        if sequences.values.dtype not in (np.float32, np.int64) or not np.isfinite(sequences.values).all():
            raise AssertionError(f"{sequences.values.dtype}, or not finite")
    return True


def fuzz(target: Target, numbers: Iterator[int], until: float) -> Tally:
    """Run cases until a time, on the clock of `time.perf_counter`, or until there are none."""
    tally = Tally()
    for number in numbers:
        began = time.perf_counter()
        if began > until:
            break
        tally.cases += 1
        try:
            tally.read += try_body(target, *draw_case(target, number))
        except Exception as error:  # noqa: BLE001 - what no one foresaw is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {str(error)[:100]} ({frame.filename}:{frame.lineno})"
            tally.escapes.setdefault(what, number)
        tally.slowest_seconds = max(tally.slowest_seconds, time.perf_counter() - began)
    return tally


def main() -> None:
    """Fuzz every target in turn."""
    parser = argparse.ArgumentParser(prog="python -m bench fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together")
    parser.add_argument("--targets", nargs="*", choices=[*make_targets()], default=[*make_targets()])
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--cases", type=int, help="of each target; any number by default")
    options = parser.parse_args()
    targets, report, is_bad = make_targets(), {}, False
    for name in options.targets:
        stop = None if options.cases is None else options.first + options.cases
        numbers = iter(range(options.first, stop)) if stop is not None else itertools.count(options.first)
        tally = fuzz(targets[name], numbers, time.perf_counter() + options.seconds / len(options.targets))
        print(
            f"{name:8} {tally.cases:9} cases, {tally.read:9} read, slowest {1000 * tally.slowest_seconds:.0f} ms",
            flush=True,
        )
        for what, number in tally.escapes.items():
            print(f"  case {number}: {what}\n    {draw_case(targets[name], number)[0][:300]!r}")
        is_bad |= bool(tally.escapes) or tally.slowest_seconds > SLOW_SECONDS
        report[name] = {"cases": tally.cases, "read": tally.read, "escapes": len(tally.escapes)}
    print(json.dumps(report))
    sys.exit(int(is_bad))
