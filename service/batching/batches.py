"""Takes requests apart into rows and puts them together again; runs a batch of such rows."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from service.batching.queue import Queue
from service.encoder.sequences import Answer, Embeddings, Sequences, State, are_finite, pad_batch
from service.encoder.session import EncoderSession
from service.errors import LengthwiseError, RunFailed, RunLost

logger = logging.getLogger("lengthwise")

NOT_FINITE = "what it gave is not finite"


class Target(Protocol):
    """A model that encodes requests, and the queue they wait in; `ServedModel` is one."""

    @property
    def name(self) -> str:
        """The name the model is served under."""

    @property
    def version(self) -> str:
        """The version the model is served as."""

    @property
    def session(self) -> EncoderSession:
        """The session that runs its batches."""

    @property
    def queue(self) -> Queue:
        """The queue of the sequences that wait for it."""


class RowOutputs(NamedTuple):
    """All that a run gave for one sequence.

    Attributes:
        embedding: `(D,)`.
        steps: `(t, W)`, if the graph gives them.
        state: the state after its end, if the graph gives it.
        logits: `(K,)`, if the model predicts.
    """

    embedding: Embeddings
    steps: npt.NDArray[np.float32] | None
    state: State
    logits: npt.NDArray[np.float32] | None = None


class Lost(str):
    """Why a run gave nothing, if none of its sequences is to blame."""

    __slots__ = ()


Outcome: TypeAlias = Embeddings | RowOutputs | str  # a row's embedding `(D,)`, all its outputs, or why there are none


class Delivery:
    """A request on its way through the runs. Each run fills in its rows of it; the last one completes its answer.

    It changes on the event loop only; runners only read what is asked.

    Attributes:
        target: the model that encodes it.
        steps: its n sequences, `(t_i, F)`, or `(t_i,)` token ids.
        state: the state each starts from, `(n, layers, directions, H)`; empty if they start from zero.
        is_whole: whether more than the embeddings is wanted.
        deadline: when that is of no use any more.
        is_plain: whether its sequences are all that a run needs to know of it.
        done: set once there is an answer, or an error in its place.
        arrived: when the request came.
        started: when its first run began; None if none has begun.
        padded_steps: steps computed for it so far, padding included.
        answer: its rows in its own order; set by `complete`.
        queue_seconds: seconds from its arrival to its first run; set by `complete`.
        run_seconds: seconds from its first run to its last row; set by `complete`.
    """

    __slots__ = (
        *("_embeddings", "_field", "_left", "_rows"),
        *("answer", "arrived", "deadline", "done", "is_plain", "is_whole", "padded_steps", "queue_seconds"),
        *("run_seconds", "started", "state", "steps", "target"),
    )

    def __init__(
        self,
        target: Target,
        sequences: Sequences,
        done: asyncio.Future[None],
        now: float,
        *,
        is_whole: bool,
        deadline: float = inf,
    ) -> None:
        """Begin with no row filled in.

        Args:
            target: the model that encodes the request.
            sequences: n >= 1 sequences with the session's own F, checked.
            done: a new future.
            now: the time.
            is_whole: whether more than the embeddings is wanted.
            deadline: when an answer is of no use any more.
        """
        self.target = target
        self.steps = sequences.split()
        self.state = sequences.state
        self.is_whole = is_whole
        self.deadline = deadline
        self.is_plain = not (is_whole or self.state or deadline < inf)
        self.done = done
        self.arrived = now
        self.started: float | None = None
        self.padded_steps = 0
        self.answer: Answer
        self.queue_seconds: float
        self.run_seconds: float
        self._field = sequences.field
        self._left = rows = len(self.steps)
        self._embeddings: Embeddings
        if rows > 1:
            self._embeddings = np.empty((rows, target.session.dim), dtype=np.float32)
        self._rows: dict[int, RowOutputs] = {}

    @property
    def is_filled(self) -> bool:
        """Whether every row is filled in."""
        return not self._left

    def begin(self, now: float) -> None:
        """Note that a run of some of its rows begins."""
        self.started = self.started or now

    def fill(self, rows: list[int], outcomes: Embeddings | list[Outcome], padded_steps: int) -> None:
        """Take in what a run gave for some rows that it padded to `padded_steps`, if anybody still waits for them."""
        if self.done.done():  # cancelled, late, or failed by another row
            return
        self.padded_steps += padded_steps * len(rows)
        if isinstance(outcomes, list):
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, str):
                    is_lost = isinstance(outcome, Lost)
                    self.fail(RunLost(outcome) if is_lost else RunFailed(row, outcome, self._field))
                    return
                if isinstance(outcome, RowOutputs):
                    self._rows[row] = outcome
            outcomes = np.stack([one.embedding if isinstance(one, RowOutputs) else one for one in outcomes])
        if len(self.steps) == 1:
            self._embeddings = outcomes
        else:
            self._embeddings[rows] = outcomes
        self._left -= len(rows)
        if not self._left:
            self.done.set_result(None)

    def fail(self, error: LengthwiseError) -> None:
        """Answer the request with an error, unless it has its answer."""
        if not self.done.done():
            self.done.set_exception(error)

    def complete(self, lengths: Sequence[int], now: float) -> None:
        """Put the rows of sequences of these lengths together, and set how long they took."""
        started = self.started or now
        self.queue_seconds, self.run_seconds = started - self.arrived, now - started
        # If only embeddings were wanted, there may be no whole rows.
        rows, padded = self._rows if len(self._rows) == len(lengths) else {}, self.padded_steps
        steps, state, logits = _join_rows(rows) if rows else ((), {}, None)
        predictor = self.target.session.predictor if rows else None
        self.answer = Answer(self._embeddings, steps, state, lengths, self.target.name, padded, logits, predictor)


Part: TypeAlias = tuple[Delivery, int]  # a request, and the index of one of its sequences


def run_parts(session: EncoderSession, parts: Sequence[Part]) -> Embeddings | list[Outcome]:
    """Encode a batch. If the run fails, halve it until the culprits stand alone.

    Returns:
        `(B, D)` if every row is well and only embeddings are wanted, else an outcome for each row.
    """
    try:
        encoded = _encode(session, parts)
    except RunLost as lost:  # no sequence is to blame
        return [Lost(lost.reason)] * len(parts)
    except Exception as error:  # whatever it is, only its own sequence may suffer
        if len(parts) == 1:
            ((delivery, row),) = parts
            logger.exception("The model failed on a sequence of shape %s", delivery.steps[row].shape)
            return [f"the run failed with {type(error).__name__}"]
        middle = len(parts) // 2
        return [*run_parts(session, parts[:middle]), *run_parts(session, parts[middle:])]
    if isinstance(encoded, np.ndarray) and are_finite(encoded):
        return encoded
    return [row if _is_finite(row) else NOT_FINITE for row in encoded]


def _encode(session: EncoderSession, parts: Sequence[Part]) -> Embeddings | list[RowOutputs]:
    """Encode a batch: embeddings only, or all outputs of each row if any request wants more."""
    steps = [delivery.steps[row] for delivery, row in parts]
    if all(delivery.is_plain for delivery, _ in parts):
        return _check(session, session.run(pad_batch(steps)), len(parts))
    batch = pad_batch(steps, _stack_states(session, parts) if any(delivery.state for delivery, _ in parts) else None)
    if session.keeps_deadlines and any(delivery.deadline < inf for delivery, _ in parts):
        batch = replace(batch, deadlines=np.array([delivery.deadline for delivery, _ in parts]))
    if not any(delivery.is_whole for delivery, _ in parts):
        return _check(session, session.run(batch), len(parts))
    result = session.run_all(batch)
    _check(session, result.embeddings, len(parts))
    logits = None if session.predictor is None else result.logits
    return [
        RowOutputs(
            result.embeddings[row],
            None if result.steps is None else result.steps[row, :length].copy(),
            {name: part[row] for name, part in result.state.items()},
            None if logits is None else logits[row],
        )
        for row, length in enumerate(batch.lengths.tolist())
    ]


def _stack_states(session: EncoderSession, parts: Sequence[Part]) -> State:
    """Return the state each row starts from; zero if its request does not say."""
    return {
        name: np.stack([delivery.state[name][row] if name in delivery.state else zero[0] for delivery, row in parts])
        for name, zero in session.zero_state(1).items()
    }


def _check(session: EncoderSession, embeddings: Embeddings, rows: int) -> Embeddings:
    if embeddings.shape != (rows, session.dim):
        raise ValueError(f"{rows} sequences gave embeddings of shape {embeddings.shape}")
    return embeddings


def _is_finite(row: Embeddings | RowOutputs) -> bool:
    """Whether every number of a row is finite."""
    if not isinstance(row, RowOutputs):
        return are_finite(row)
    parts = (row.embedding, row.steps, row.logits, *row.state.values())
    return all(part is None or are_finite(part) for part in parts)


def _join_rows(
    rows: dict[int, RowOutputs],
) -> tuple[Sequence[npt.NDArray[np.float32]], State, npt.NDArray[np.float32] | None]:
    """Return the steps, the states and the logits of all rows of a request, in its order."""
    ordered = [rows[place] for place in range(len(rows))]
    steps = [row.steps for row in ordered if row.steps is not None]
    state = {name: np.stack([row.state[name] for row in ordered]) for name in ordered[0].state}
    logits = [row.logits for row in ordered if row.logits is not None]
    return steps, state, np.stack(logits) if logits else None
