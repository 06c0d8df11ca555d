"""The proof: is the exported graph, in the session that will serve it, the encoder that was trained?

Equality with torch and with the numpy oracle is to a tolerance, since each sums in its own order. That batch mates,
order and padding change nothing is exact: the same kernel adds the same numbers in the same order, or it does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from export import oracle
from export.compare import TOLERANCE, Units, measure_difference
from export.oracle import Case, OracleOutput
from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import RecurrentState
from model.tasks.task import Task
from service.encoder.manifest import ParityCheck
from service.encoder.sequences import Batch, Output, State, Steps, pad_batch
from service.encoder.session import EncoderSession

EXACT = 0.0
# ONNX Runtime runs a lone row of a plain RNN on another kernel than several: 5e-7 was measured.
RNN_TOLERANCE = 2e-6

LEAST = float(np.finfo(np.float32).min)  # what scores a token that can never be next, in place of infinity

GRID_BATCHES = (1, 2, 3, 8, 33)
JUNK = (1e6, np.inf, np.nan)

SampleKind: TypeAlias = Literal["real", "made"]  # of a data set, or drawn at random
Pair: TypeAlias = tuple[OracleOutput, OracleOutput]  # found and expected


def verify(
    encoder: SequenceEncoder,
    session: EncoderSession,
    samples: Sequence[Steps],
    kind: SampleKind = "made",
    task: Task | None = None,
) -> list[ParityCheck]:
    """Prove an exported encoder.

    Args:
        encoder: what was trained, in evaluation mode.
        session: what was exported.
        samples: n >= 1 sequences, `(t_i, F)` or `(t_i,)`.
        kind: of the samples; claims about them say it.
        task: the task whose predictions were exported too, in evaluation mode.

    Returns:
        One check a claim; the proof holds if all of them do.
    """
    proof = _Proof(encoder, session, samples, kind, task)
    parts: list[Output] = [part for part in session.outputs if part != "prediction"]
    parts += [] if task is None else ["prediction"]
    return [check for part in parts for check in proof.check(part)]


class _Proof:
    """The cases of one proof, each run once in every way that claims are about."""

    def __init__(
        self,
        encoder: SequenceEncoder,
        session: EncoderSession,
        samples: Sequence[Steps],
        kind: SampleKind,
        task: Task | None,
    ) -> None:
        self._encoder, self._session, self._kind, self._task = encoder, session, kind, task
        self._same = RNN_TOLERANCE if encoder.config.cell == "rnn" else EXACT
        self._grid = [_with_states(sequences, session, seed) for seed, sequences in enumerate(_draw_grid(samples))]
        self._samples = _with_states(samples, session, len(self._grid))
        everything = [*self._samples, *(case for cases in self._grid for case in cases)]
        mixed = [[everything[row] for row in rows] for rows in _mix(len(everything))]
        alone = {id(case): run_session(session, [case])[0] for case in everything}

        def expected(cases: Sequence[Case]) -> list[OracleOutput]:
            return [alone[id(case)] for case in cases]

        self._on_grid = _pair(self._grid, lambda cases: run_session(session, cases), self._torch)
        self._on_samples = _pair([[case] for case in self._samples], expected, self._torch)
        self._on_mixed = _pair(mixed, lambda cases: run_session(session, cases), self._torch)
        self._on_oracle = [(alone[id(case)], oracle.encode(encoder, case, task)) for case in everything]
        self._units = Units.of(encoder, [answer for _, answer in self._on_oracle], task)
        self._batched = [(found, alone[id(case)]) for (found, _), case in _zip(self._on_mixed, mixed)]
        turned = [cases[::-1] for cases in mixed]
        self._turned = _pair(turned, lambda cases: run_session(session, cases), expected)
        junk = (_junk(place) for place in range(len(mixed)))
        self._padded = _pair(mixed, lambda cases: run_session(session, cases, next(junk)), expected)
        self._empty = [(alone[id(case)], self._nothing(case)) for case in everything if not len(case.sequence)]

    def check(self, part: Output) -> Iterator[ParityCheck]:
        """Yield the claims about one part of an answer."""
        yield self._compare(part, "equals torch over a grid of lengths and batch sizes", TOLERANCE, self._on_grid)
        yield self._compare(part, f"equals torch on {self._kind} sequences, alone", TOLERANCE, self._on_samples)
        yield self._compare(part, "equals torch in mixed batches", TOLERANCE, self._on_mixed)
        yield self._compare(part, "equals a numpy oracle on each sequence, unpadded", TOLERANCE, self._on_oracle)
        yield self._compare(part, "is the same alone and in any batch", self._same, self._batched)
        yield self._compare(part, "is the same in reverse order", self._same, self._turned)
        yield self._compare(part, "is the same with more padding, and junk in it", self._same, self._padded)
        if part == "prediction":  # of an empty sequence it is the head's own, which the grid has compared
            return
        nothing = "is the initial one" if part == "state" else "is zero"
        yield self._compare(part, f"{nothing} for an empty sequence", EXACT, self._empty)

    def _compare(self, part: Output, claim: str, tolerance: float, pairs: Sequence[Pair]) -> ParityCheck:
        """Check a claim case by case; a NaN anywhere makes the difference NaN, which no tolerance admits."""
        worst = np.array([measure_difference(part, found, expected, self._units) for found, expected in pairs])
        subject = "final state" if part == "state" else part
        verb = claim if part != "steps" else claim.replace("is ", "are ", 1).replace("equals", "equal", 1)
        return ParityCheck(
            claim=f"{subject} {verb}", cases=len(worst), max_difference=float(worst.max()), tolerance=tolerance
        )

    def _torch(self, cases: Sequence[Case]) -> list[OracleOutput]:
        is_plain = self._session.outputs == ("embedding",)
        return run_torch(self._encoder, cases, embedding_only=is_plain, task=self._task)

    def _nothing(self, case: Case) -> OracleOutput:
        """Return what an empty sequence must give."""
        session = self._session
        initial = case.initial or {name: state[0] for name, state in session.zero_state(1).items()}
        return OracleOutput(np.zeros(session.dim), np.zeros((0, session.width or 0)), initial)


def run_session(session: EncoderSession, cases: Sequence[Case], junk: float | None = None) -> list[OracleOutput]:
    """Run cases as one batch.

    Args:
        session: what was exported.
        cases: n >= 1.
        junk: if it is not None, rows are padded seven steps further than needed, with this in the padding.
    """
    batch = pad_batch([case.sequence for case in cases], _stack_states(cases))
    if junk is not None:
        batch = _pad_with_junk(batch, junk)
    result = session.run_all(batch)
    return _split(batch.lengths, result.embeddings, result.steps, result.state, result.logits)


def run_torch(
    encoder: SequenceEncoder, cases: Sequence[Case], *, embedding_only: bool = True, task: Task | None = None
) -> list[OracleOutput]:
    """Run cases as one padded batch.

    Args:
        encoder: what was trained.
        cases: n >= 1.
        embedding_only: leave out the outputs of each step and the state.
        task: the task to predict by as well.
    """
    batch = pad_batch([case.sequence for case in cases])
    initial = {name: torch.from_numpy(state) for name, state in _stack_states(cases).items()}
    inputs = (
        torch.from_numpy(batch.steps),
        torch.from_numpy(batch.lengths),
        RecurrentState(**initial) if initial else None,
    )
    with torch.inference_mode():
        if embedding_only and task is None:
            return _split(batch.lengths, encoder(*inputs).numpy(), None, {})
        encoded = encoder.run(*inputs)
        logits = None if task is None else task.predict(encoded).clamp(min=LEAST).numpy()
    state = {"h": encoded.state.h.numpy()}
    if encoded.state.c is not None:
        state["c"] = encoded.state.c.numpy()
    return _split(batch.lengths, encoded.embedding.numpy(), encoded.steps.numpy(), state, logits)


def draw_sequences(samples: Sequence[Steps], lengths: Iterable[int], seed: int) -> list[Steps]:
    """Draw sequences of the given lengths, with the mean and deviation of the samples' features, or of their tokens."""
    draw = np.random.default_rng(seed)
    steps = np.concatenate(samples)
    if steps.ndim == 1:
        return [draw.choice(steps, length) for length in lengths]
    mean, std = steps.mean(axis=0), steps.std(axis=0)
    return [(mean + std * draw.standard_normal((length, len(mean)))).astype(np.float32) for length in lengths]


def _with_states(sequences: Sequence[Steps], session: EncoderSession, seed: int) -> list[Case]:
    """Draw an initial state for each sequence, if the graph takes one."""
    draw = np.random.default_rng(seed)
    names = session.state_names if session.takes_state else []
    shape = session.state_shape
    return [Case(steps, {name: draw.uniform(-1, 1, shape).astype(np.float32) for name in names}) for steps in sequences]


def _stack_states(cases: Sequence[Case]) -> State:
    return {name: np.stack([case.initial[name] for case in cases]) for name in cases[0].initial}


def _split(
    lengths: npt.NDArray[np.int64], embeddings: Any, steps: Any, state: Any, logits: Any = None
) -> list[OracleOutput]:
    """Split a batch's results into rows; steps past the length must be zero, and stay in if they are not."""
    answers = []
    for row, length in enumerate(lengths):
        outputs = np.zeros((length, 0)) if steps is None else steps[row]
        if not outputs[length:].any():
            outputs = outputs[:length]
        scores = np.zeros(0) if logits is None else logits[row]
        answers.append(
            OracleOutput(embeddings[row], outputs, {name: part[row] for name, part in state.items()}, scores)
        )
    return answers


def _pair(batches: Iterable[Sequence[Case]], find: Any, expect: Any) -> list[Pair]:
    return [pair for cases in batches for pair in zip(find(cases), expect(cases), strict=True)]


def _zip(pairs: list[Pair], batches: Sequence[Sequence[Case]]) -> Iterator[tuple[Pair, Case]]:
    return zip(pairs, (case for cases in batches for case in cases), strict=True)


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


def _junk(place: int) -> float:
    return JUNK[place % len(JUNK)]


def _pad_with_junk(batch: Batch, junk: float) -> Batch:
    """Pad seven steps further, and put junk into all padding: into token ids a number no vocabulary has."""
    steps: Any = np.pad(batch.steps, [(0, 0), (0, 7), *[(0, 0)] * (batch.steps.ndim - 2)])
    for row, length in zip(steps, batch.lengths, strict=True):
        row[length:] = junk if steps.dtype == np.float32 else 2**40
    return Batch(steps, batch.lengths, batch.state)
