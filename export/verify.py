"""The proof: is the exported graph, in the session that will serve it, the encoder that was trained?

Equality with torch and with the numpy oracle is to a tolerance, since each sums in its own order. That batch mates,
order and padding change nothing is exact: the same kernel adds the same numbers in the same order, or it does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from export import oracle
from model.encoder import SequenceEncoder
from service.artifact import ParityCheck
from service.sequences import Batch, Embeddings, Steps, pad_batch
from service.session import EncoderSession

# Embeddings are averages of hidden states in (-1, 1), where one bit of float32 is 6e-8. Sums over some hundred terms,
# ordered differently, differ in the last bits, and sharp gates carry that on: 1e-6 between torch and ONNX Runtime, 2e-6
# between either and float64 were measured. A wrong gate, length or average is off by 1e-2.
TOLERANCE = 5e-6
EXACT = 0.0

GRID_BATCHES = (1, 2, 3, 8, 33)
JUNK = (1e6, np.inf, np.nan)

Pair: TypeAlias = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]  # found and expected, (B, D) each


def verify(encoder: SequenceEncoder, session: EncoderSession, samples: Sequence[Steps]) -> list[ParityCheck]:
    """Prove an exported encoder.

    Args:
        encoder: what was trained, in evaluation mode.
        session: what was exported.
        samples: n >= 1 real sequences `(t_i, F)`.

    Returns:
        One check a claim; the proof holds where all of them do.
    """
    grid = list(_draw_grid(samples))
    everything = [*samples, *(steps for sequences in grid for steps in sequences)]
    alone = np.concatenate([session.run(pad_batch([steps])) for steps in everything])
    mixed = list(_mix(len(everything)))

    def take(rows: npt.NDArray[np.int64]) -> list[Steps]:
        return [everything[row] for row in rows]

    return [
        _compare(
            "equals torch over a grid of lengths and batch sizes",
            TOLERANCE,
            ((session.run(pad_batch(sequences)), run_torch(encoder, sequences)) for sequences in grid),
        ),
        _compare(
            "equals torch on real sequences, alone",
            TOLERANCE,
            ((alone[[row]], run_torch(encoder, [steps])) for row, steps in enumerate(samples)),
        ),
        _compare(
            "equals torch in mixed batches",
            TOLERANCE,
            ((session.run(pad_batch(take(rows))), run_torch(encoder, take(rows))) for rows in mixed),
        ),
        _compare(
            "equals a numpy oracle on each sequence, unpadded",
            TOLERANCE,
            ((alone[[row]], oracle.encode(encoder, steps)[None]) for row, steps in enumerate(everything)),
        ),
        _compare(
            "is the same alone and in any batch",
            EXACT,
            ((session.run(pad_batch(take(rows))), alone[rows]) for rows in mixed),
        ),
        _compare(
            "is the same in reverse order",
            EXACT,
            ((session.run(pad_batch(take(rows[::-1]))), alone[rows[::-1]]) for rows in mixed),
        ),
        _compare(
            "is the same with more padding, and junk in it",
            EXACT,
            (
                (session.run(_pad_with_junk(take(rows), JUNK[place % len(JUNK)])), alone[rows])
                for place, rows in enumerate(mixed)
            ),
        ),
        _compare(
            "is the zero vector for an empty sequence",
            EXACT,
            ((alone[[row]], np.zeros_like(alone[[row]])) for row, steps in enumerate(everything) if not len(steps)),
        ),
    ]


def _compare(claim: str, tolerance: float, pairs: Iterable[Pair]) -> ParityCheck:
    """Check a claim row by row; a NaN anywhere makes the difference NaN, which no tolerance admits."""
    differences = [np.abs(found - expected).max(axis=1) for found, expected in pairs]
    every = np.concatenate(differences)
    return ParityCheck(claim=claim, cases=len(every), max_difference=float(every.max()), tolerance=tolerance)


def draw_sequences(samples: Sequence[Steps], lengths: Iterable[int], seed: int) -> list[Steps]:
    """Draw sequences of the given lengths, with the mean and deviation of the real ones in each feature."""
    draw = np.random.default_rng(seed)
    steps = np.concatenate(samples)
    mean, std = steps.mean(axis=0), steps.std(axis=0)
    return [(mean + std * draw.standard_normal((length, len(mean)))).astype(np.float32) for length in lengths]


def _draw_grid(samples: Sequence[Steps]) -> Iterator[list[Steps]]:
    """Yield batches of made sequences: of one length each, then of mixed lengths."""
    longest = max(3, *map(len, samples))
    for size in GRID_BATCHES:
        for length in (0, 1, 2, longest - 1, longest):
            yield draw_sequences(samples, [length] * size, seed=length)
        mixed = np.random.default_rng(size).integers(0, longest + 1, size)
        yield draw_sequences(samples, mixed.tolist(), seed=size)


def _mix(count: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield batches of rows in random order: every row once for each batch size."""
    draw = np.random.default_rng(1)
    for size in (2, 5, 16, 64):
        rows = draw.permutation(count)
        yield from np.split(rows, range(size, count, size))


def _pad_with_junk(sequences: Sequence[Steps], junk: float) -> Batch:
    """Pad seven steps further than needed, with junk."""
    batch = pad_batch(sequences)
    padded = np.full((batch.steps.shape[0], batch.time + 7, batch.steps.shape[2]), junk, dtype=np.float32)
    for row, steps in zip(padded, sequences, strict=True):
        row[: len(steps)] = steps
    return Batch(padded, batch.lengths)


def run_torch(encoder: SequenceEncoder, sequences: Sequence[Steps]) -> Embeddings:
    """Encode sequences `(t_i, F)` as one padded batch; row i of `(n, D)` is for `sequences[i]`."""
    batch = pad_batch(sequences)
    with torch.inference_mode():
        embeddings: Embeddings = encoder(torch.from_numpy(batch.steps), torch.from_numpy(batch.lengths)).numpy()
    return embeddings
