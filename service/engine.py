"""Runs batches off the event loop: the seam between asyncio, the scheduler and the session.

A runner is a thread of a bounded pool. Whenever one is idle and sequences wait, it is given the scheduler's next
batch; nothing ever sleeps to gather one. All state is touched on the event loop only.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np

from service.errors import RunFailed
from service.scheduler import Entry, Job, Scheduler, count_steps
from service.sequences import Embeddings, Sequences, Steps, pad_batch
from service.session import EncoderSession

logger = logging.getLogger("lengthwise")

Outcome: TypeAlias = Embeddings | str  # a row's embedding `(D,)`, or why it has none


@dataclass(frozen=True, slots=True)
class Encoded:
    """A finished request.

    Attributes:
        embeddings: `(n, D)`, in the request's order.
        padded_steps: steps computed for it, padding included.
        queue_seconds: from its arrival to its first run.
        run_seconds: from its first run to its last answer.
    """

    embeddings: Embeddings
    padded_steps: int
    queue_seconds: float
    run_seconds: float


@dataclass(slots=True, eq=False)
class _Pending:
    """What the engine knows of a job beyond what the scheduler does."""

    done: asyncio.Future[None]
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None


class Engine:
    """Encodes sequences for many requests at once on one session."""

    def __init__(self, session: EncoderSession, scheduler: Scheduler, runners: int) -> None:
        self._session = session
        self._scheduler = scheduler
        self._idle = self._runners = runners
        self._executor = ThreadPoolExecutor(runners, thread_name_prefix="lengthwise-runner")
        self._pending: dict[Job, _Pending] = {}
        self._dispatching = False
        self._steps_per_second = 10_000.0  # until the first run says better; only Retry-After depends on it

    async def encode(self, sequences: Sequences) -> Encoded:
        """Encode one request's sequences, in whatever batches they fit best.

        Args:
            sequences: n >= 1 sequences with the session's own F, checked.

        Returns:
            The embeddings, row i for sequence i, and what they cost.

        Raises:
            QueueFull: there is no room to wait in.
            RunFailed: the model failed on one of them; carries its index.
        """
        job = Job(sequences.split(), self._session.dim)
        self._scheduler.submit(job, self._steps_per_second)
        pending = self._pending[job] = _Pending(asyncio.get_running_loop().create_future())
        self._schedule_dispatch()
        try:
            await pending.done
        finally:  # where it failed or was cancelled, what is left of it must not cost a run
            if job.remaining:
                self._scheduler.withdraw(job)
            del self._pending[job]
        started = pending.started or pending.submitted
        return Encoded(
            embeddings=job.embeddings,
            padded_steps=job.padded_steps,
            queue_seconds=started - pending.submitted,
            run_seconds=time.perf_counter() - started,
        )

    def close(self) -> None:
        """Wait for running batches and end the runners."""
        self._executor.shutdown(wait=True)

    def _schedule_dispatch(self) -> None:
        """Dispatch one turn of the loop later, so that requests read in this turn share the batches."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        loop = asyncio.get_running_loop()
        while self._idle and (batch := self._scheduler.next_batch(self._idle)):
            self._idle -= 1
            started = time.perf_counter()
            for entry in batch:
                pending = self._pending[entry.job]
                pending.started = pending.started or started
            sequences = [entry.steps for entry in batch]
            try:
                run = loop.run_in_executor(self._executor, self._run, sequences)
            except RuntimeError as error:  # no thread can be started
                logger.exception("A runner could not be started")
                self._resolve(batch, [f"no runner could be started: {error}"] * len(batch))
                self._idle += 1
                continue
            run.add_done_callback(partial(self._finish, batch, started))

    def _run(self, sequences: Sequence[Steps]) -> list[Outcome]:
        """Encode a batch on a runner. Where the run fails, halve it until the culprits stand alone."""
        try:
            embeddings = self._encode(sequences)
        except Exception as error:  # whatever it is, only its own sequence may suffer
            if len(sequences) == 1:
                logger.exception("The model failed on a sequence of shape %s", sequences[0].shape)
                return [f"the run failed with {type(error).__name__}"]
            middle = len(sequences) // 2
            return self._run(sequences[:middle]) + self._run(sequences[middle:])
        return [row if np.isfinite(row).all() else "its embedding is not finite" for row in embeddings]

    def _encode(self, sequences: Sequence[Steps]) -> Embeddings:
        embeddings = self._session.run(pad_batch(sequences))
        if embeddings.shape != (len(sequences), self._session.dim):
            raise ValueError(f"{len(sequences)} sequences gave embeddings of shape {embeddings.shape}")
        return embeddings

    def _finish(self, batch: list[Entry], started: float, run: asyncio.Future[list[Outcome]]) -> None:
        """Pass on what a run gave, and give its runner the next batch."""
        self._idle += 1
        self._learn_speed(sum(count_steps(entry.steps) for entry in batch), time.perf_counter() - started)
        self._resolve(batch, run.result())
        self._dispatch()

    def _resolve(self, batch: list[Entry], outcomes: list[Outcome]) -> None:
        """Hand a batch's rows to their jobs, and wake the requests that are complete or have failed."""
        longest = max(count_steps(entry.steps) for entry in batch)
        for entry, outcome in zip(batch, outcomes, strict=True):
            job, pending = entry.job, self._pending.get(entry.job)
            if pending is None or pending.done.done():  # cancelled, or failed by an earlier row
                continue
            job.padded_steps += longest
            if isinstance(outcome, str):
                pending.done.set_exception(RunFailed(entry.row, outcome))
                continue
            job.embeddings[entry.row] = outcome
            job.remaining -= 1
            if not job.remaining:
                pending.done.set_result(None)

    def _learn_speed(self, steps: int, seconds: float) -> None:
        """Follow the steps a second that all runners get through together."""
        speed = self._runners * steps / seconds
        self._steps_per_second += 0.1 * (speed - self._steps_per_second)
