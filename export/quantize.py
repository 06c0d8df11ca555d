"""Dynamic int8: LSTM weights as bytes, inputs and states turned to bytes as they come; and what that costs.

ONNX Runtime takes the range of what it turns to bytes over the whole padded batch, so an embedding of a quantised
encoder depends, a little, on what it is batched with. Nothing about it is exact; everything about it is measured, here,
on the held-out sequences of the run, and written into the manifest.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from export.graph import hash_weights
from service.encoder.manifest import Golden, Manifest, Quantization, Tensor
from service.encoder.sequences import Embeddings, Steps, pad_batch
from service.encoder.session import EncoderSession

Judge: TypeAlias = Callable[[Embeddings], float]  # the share of sequences a head gets right

OPERATOR = "DynamicQuantizeLSTM"

# Two encoders that agree have cosines of 0.999 and more; below this, what was written down is another encoder.
MIN_COSINE = 0.95

BATCHES = (2, 5, 16, 64)
TIMED_ROWS = 16  # sequences in a timed batch, near the best for every size tried
TIMED_PASSES = 7

# Golden vectors must replay within so many times what batch size and threads, which split a batch, were seen to move
# them by. On another CPU a last bit may tip a rounding to the next byte: 3e-3, with inputs off by 1e-5.
GOLDEN_MARGIN = 2.0
MIN_GOLDEN_TOLERANCE = 5e-3
REPLAY_THREADS = (1, 2)


class CannotQuantize(Exception):
    """The graph holds nothing that can be quantised, or is another encoder when it is; nothing was written."""


def quantize_artifact(
    graph: onnx.ModelProto, manifest: Manifest, samples: Sequence[Steps], judge: Judge | None = None
) -> tuple[onnx.ModelProto, Manifest]:
    """Quantise a proven graph, and measure what that cost.

    Args:
        graph: proven, float32.
        manifest: of that graph.
        samples: n >= 1 sequences to measure on, held out of training if there was one.
        judge: what the task makes of their embeddings; None if there is no such thing.

    Returns:
        The quantised graph, and its manifest: no proof, which was of another graph, but what quantising cost, and
        golden vectors as the quantised session gives them.

    Raises:
        CannotQuantize: see there.
    """
    quantized = quantize_graph(graph)
    exact, rounded = (_open(model, threads=1) for model in (graph, quantized))
    goldens = [golden.sequence.array() for golden in manifest.golden]
    embeddings = _encode_alone(rounded, goldens)
    tolerance = max(MIN_GOLDEN_TOLERANCE, GOLDEN_MARGIN * _measure_replay(quantized, goldens, embeddings))
    cost = measure_cost(exact, rounded, samples, judge, tolerance)
    if not cost.cosine_p1 >= MIN_COSINE:
        raise CannotQuantize(
            f"one in a hundred embeddings of the quantised encoder has a cosine of {cost.cosine_p1:.3f} or less to its "
            f"float32 one, and {MIN_COSINE} is the least: nothing was written"
        )
    golden = [
        Golden(sequence=Tensor.of(steps), embedding=Tensor.of(embedding))
        for steps, embedding in zip(goldens, embeddings, strict=True)
    ]
    changes = {"quantization": cost, "parity": [], "golden": golden, "weights_sha256": hash_weights(quantized)}
    return quantized, manifest.model_copy(update=changes)


def quantize_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Turn the weights of every LSTM to int8, with a scale for each row of them.

    Raises:
        CannotQuantize: there is no LSTM.
    """
    operators = sorted({node.op_type for node in graph.graph.node})
    if "LSTM" not in operators:
        cells = " and ".join(name for name in operators if name in {"GRU", "RNN"}) or "no recurrent layer at all"
        raise CannotQuantize(f"only an LSTM can be quantised, and the graph holds {cells}: nothing was written")
    # Imported here: it takes a second that a float32 export need not spend.
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantized.onnx"
        logging.disable(logging.WARNING)  # it recommends a preparation for graphs that were not written by hand
        try:
            # Unsigned weights: if a CPU has no int8 dot product, signed ones would overflow its 16-bit sums.
            quantize_dynamic(graph, file, op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QUInt8)
        finally:
            logging.disable(logging.NOTSET)
        quantized = onnx.load(file)
    del quantized.metadata_props[:]
    if OPERATOR not in {node.op_type for node in quantized.graph.node}:
        raise CannotQuantize("ONNX Runtime left every LSTM as it was: nothing was written")
    return quantized


def measure_cost(
    exact: EncoderSession,
    rounded: EncoderSession,
    sequences: Sequence[Steps],
    judge: Judge | None,
    golden_tolerance: float,
) -> Quantization:
    """Compare a quantised encoder with its float32 one.

    Args:
        exact: the float32 encoder, with one thread.
        rounded: the quantised one, with one thread.
        sequences: n >= 1, `(t_i, F)` or `(t_i,)`.
        judge: what the task makes of their embeddings.
        golden_tolerance: to be recorded with what is measured here.
    """
    expected, found = _encode_alone(exact, sequences), _encode_alone(rounded, sequences)
    errors, cosines = np.abs(found - expected), _cosines(found, expected)
    return Quantization(
        operator=OPERATOR,
        sequences=len(sequences),
        max_error=float(errors.max()),
        mean_error=float(errors.mean()),
        cosine_p1=float(np.quantile(cosines, 0.01)),
        cosine_median=float(np.median(cosines)),
        accuracy_before=None if judge is None else judge(expected),
        accuracy_after=None if judge is None else judge(found),
        speed_up=_time(exact, sequences) / _time(rounded, sequences),
        cpu=_cpu_name(),
        batch_difference=_measure_batching(rounded, found, sequences),
        golden_tolerance=golden_tolerance,
    )


def describe(cost: Quantization, kind: str) -> str:
    """Say what quantising cost, a line a figure, on sequences of which kind."""
    rows = {
        "largest and mean difference to float32": f"{cost.max_error:.2g}, {cost.mean_error:.2g}",
        "cosine to float32, 1st percentile and median": f"{cost.cosine_p1:.5f}, {cost.cosine_median:.5f}",
        "largest difference between alone and batched": f"{cost.batch_difference:.2g}; float32 has 0",
        "golden vectors replay within": f"{cost.golden_tolerance:.2g}",
        "speed-up, one thread, sorted batches": f"{cost.speed_up:.2f} on {cost.cpu}",
    }
    if cost.accuracy_before is not None:
        rows["accuracy of the head"] = f"{cost.accuracy_before:.4f} before, {cost.accuracy_after:.4f} after"
    width = max(map(len, rows))
    lines = [f"quantised from a float32 graph whose proof holds; on {cost.sequences} {kind} sequences"]
    return "\n".join([*lines, *(f"{name:{width}}  {value}" for name, value in rows.items())])


def _open(model: onnx.ModelProto, threads: int) -> EncoderSession:
    return EncoderSession(model.SerializeToString(), "the exported graph", threads=threads)


def _encode_alone(session: EncoderSession, sequences: Sequence[Steps]) -> Embeddings:
    return np.concatenate([session.run(pad_batch([steps])) for steps in sequences])


def _cosines(found: Embeddings, expected: Embeddings) -> npt.NDArray[np.float64]:
    """Return the cosine of each row with its expected one; two zero vectors agree."""
    one, two = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    agree = (one == two).all(axis=1)
    return np.where(agree, 1.0, (one * two).sum(axis=1) / np.where(norms > 0, norms, 1.0))


def _measure_batching(session: EncoderSession, alone: Embeddings, sequences: Sequence[Steps]) -> float:
    """Return the largest difference between a sequence alone and in mixed batches of several sizes."""
    draw, largest = np.random.default_rng(0), 0.0
    for size in BATCHES:
        rows = draw.permutation(len(sequences))
        for part in np.split(rows, range(size, len(rows), size)):
            together = session.run(pad_batch([sequences[row] for row in part]))
            largest = max(largest, float(np.abs(together - alone[part]).max()))
    return largest


def _measure_replay(model: onnx.ModelProto, sequences: Sequence[Steps], expected: Embeddings) -> float:
    """Return the largest difference to `expected` over numbers of threads, alone and in batches of every size."""
    largest = 0.0
    for session in (_open(model, threads) for threads in REPLAY_THREADS):
        for size in range(1, len(sequences) + 1):
            for first in range(0, len(sequences), size):
                part = slice(first, first + size)
                found = session.run(pad_batch(sequences[part]))
                largest = max(largest, float(np.abs(found - expected[part]).max()))
    return largest


def _time(session: EncoderSession, sequences: Sequence[Steps]) -> float:
    """Return the CPU seconds of encoding all sequences in length-sorted batches; the least of several passes.

    A session with one thread runs in this one, whose own CPU time says little of what else the machine does.
    """
    batches = [pad_batch(part) for part in _cut(sorted(sequences, key=len))]

    def run_all() -> float:
        start = time.thread_time()
        for batch in batches:
            session.run(batch)
        return time.thread_time() - start

    return min(run_all() for _ in range(TIMED_PASSES))


def _cut(ordered: Sequence[Steps]) -> Iterator[Sequence[Steps]]:
    for first in range(0, len(ordered), TIMED_ROWS):
        yield ordered[first : first + TIMED_ROWS]


def _cpu_name() -> str:
    """Name this machine's processor, as Linux does."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
