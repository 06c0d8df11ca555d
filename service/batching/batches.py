"""What a runner does with a batch, and how requests come apart into rows and together again. Nothing here waits."""

import logging
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from service.sequences import Answer, Embeddings, Sequences, State, Steps, are_finite, pad_batch
from service.session import EncoderSession

logger = logging.getLogger("lengthwise")


class Work(NamedTuple):
    """One sequence, as a runner gets it.

    Attributes:
        steps: `(t, F)`, or `(t,)` token ids.
        state: of `(layers, directions, H)`, to start from; empty where it starts from zero.
        is_whole: whether more than its embedding is wanted.
    """

    steps: Steps
    state: State
    is_whole: bool


class Row(NamedTuple):
    """All that a run gave for one sequence: `(D,)`, `(t, W)` where the graph gives steps, and its state."""

    embedding: Embeddings
    steps: npt.NDArray[np.float32] | None
    state: State


Outcome: TypeAlias = Embeddings | Row | str  # a row's embedding `(D,)`, all of it, or why there is none


NOT_FINITE = "what it gave is not finite"


def split_request(sequences: Sequences, *, is_whole: bool) -> list[Work]:
    """Cut a request into what runners get."""
    state = sequences.state
    return [
        Work(steps, {name: part[row] for name, part in state.items()}, is_whole)
        for row, steps in enumerate(sequences.split())
    ]


def run_rows(session: EncoderSession, work: list[Work]) -> Embeddings | list[Outcome]:
    """Encode a batch. Where the run fails, halve it until the culprits stand alone.

    Returns:
        `(B, D)` where all is well and nothing more was wanted, else an outcome for each row.
    """
    try:
        encoded = _encode(session, work)
    except Exception as error:  # whatever it is, only its own sequence may suffer
        if len(work) == 1:
            logger.exception("The model failed on a sequence of shape %s", work[0].steps.shape)
            return [f"the run failed with {type(error).__name__}"]
        middle = len(work) // 2
        return [*run_rows(session, work[:middle]), *run_rows(session, work[middle:])]
    if isinstance(encoded, np.ndarray) and are_finite(encoded):
        return encoded
    return [row if _is_finite(row) else NOT_FINITE for row in encoded]


def _encode(session: EncoderSession, work: list[Work]) -> Embeddings | list[Row]:
    """Encode a batch: embeddings only, or a whole row for each sequence where any wants one."""
    states = None
    if any(one.state for one in work):
        zero = session.zero_state(1)
        states = {name: np.stack([one.state.get(name, zero[name][0]) for one in work]) for name in zero}
    batch = pad_batch([one.steps for one in work], states)
    if not any(one.is_whole for one in work):
        return _check(session, session.run(batch), len(work))
    result = session.run_all(batch)
    _check(session, result.embeddings, len(work))
    return [
        Row(
            result.embeddings[row],
            None if result.steps is None else result.steps[row, :length].copy(),
            {name: part[row] for name, part in result.state.items()},
        )
        for row, length in enumerate(batch.lengths.tolist())
    ]


def _check(session: EncoderSession, embeddings: Embeddings, rows: int) -> Embeddings:
    if embeddings.shape != (rows, session.dim):
        raise ValueError(f"{rows} sequences gave embeddings of shape {embeddings.shape}")
    return embeddings


def _is_finite(row: Embeddings | Row) -> bool:
    """Whether every number of a row is finite."""
    parts = [row.embedding, row.steps, *row.state.values()] if isinstance(row, Row) else [row]
    return all(part is None or are_finite(part) for part in parts)


def join_rows(embeddings: Embeddings, rows: dict[int, Row]) -> Answer:
    """Put a request's rows together, in its order; where only embeddings were wanted there may be none."""
    if len(rows) < len(embeddings):
        return Answer(embeddings)
    ordered = [rows[place] for place in range(len(rows))]
    steps = [row.steps for row in ordered if row.steps is not None]
    return Answer(
        embeddings, steps, {name: np.stack([row.state[name] for row in ordered]) for name in ordered[0].state}
    )
