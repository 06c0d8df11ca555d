"""Runs batches off the event loop: the seam between asyncio, the scheduler and the session.

A runner is a thread. Whenever one is idle and sequences wait, it is given the scheduler's next batch; nothing ever
sleeps to gather one, and a short run that is alone needs no thread. All state is touched on the event loop only.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import numpy as np

from service.cost import Shape
from service.errors import DeadlinePassed, LengthwiseError, RunFailed
from service.jobs import Job, Run
from service.scheduler import Scheduler
from service.sequences import Embeddings, Sequences, Steps, pad_batch
from service.session import EncoderSession

logger = logging.getLogger("lengthwise")

Outcome: TypeAlias = Embeddings | str  # a row's embedding `(D,)`, or why it has none

# A run this short is done on the event loop while there is nothing else to do: to wake a thread and be woken by it
# takes about as long, and requests that arrive meanwhile share the next batch.
DIRECT_RUN_SECONDS = 0.001
IDLE_SECONDS = 1.0  # without a request, before a measurement refines what runs are thought to cost


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
class _Request:
    """What the engine knows of a job beyond what the scheduler does; `remaining` counts the rows not filled yet."""

    sequences: Sequence[Steps]
    embeddings: Embeddings
    done: asyncio.Future[None]
    remaining: int
    padded_steps: int = 0
    started: float | None = None

    def fail(self, error: LengthwiseError) -> None:
        """Give the request an error for an answer, unless it has one."""
        if not self.done.done():
            self.done.set_exception(error)


class Refinement(Protocol):
    """What would make predictions better; `Calibrator` is one."""

    def choose_shape(self) -> Shape | None:
        """Return a shape worth measuring, None where there is none any more."""

    def measure(self, shape: Shape) -> float:
        """Return the seconds a run over it takes."""

    def save(self) -> None:
        """Keep what was learnt."""


class Engine:
    """Encodes sequences for many requests at once on one session."""

    def __init__(self, session: EncoderSession, scheduler: Scheduler) -> None:
        """Start the runners, as many as the scheduler keeps busy, on the running loop.

        Args:
            session: runs the batches.
            scheduler: cuts them.
        """
        self.scheduler = scheduler
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._requests: dict[Job, _Request] = {}
        self._dispatching = False
        self._batches: SimpleQueue[tuple[Run, list[Steps]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"lengthwise-runner-{number}", daemon=True)
            for number in range(scheduler.runners)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(self, sequences: Sequences, deadline: float = inf) -> Encoded:
        """Encode one request's sequences, in whatever batches they fit best.

        Args:
            sequences: n >= 1 sequences with the session's own F, checked.
            deadline: when an answer is of no use any more, on the clock of `time.perf_counter`.

        Returns:
            The embeddings, row i for sequence i, and what they cost.

        Raises:
            QueueFull: there is no room to wait in.
            DeadlineUnreachable: an answer in time cannot be expected.
            DeadlinePassed: it was expected, and was not there in time.
            RunFailed: the model failed on one of them; carries its index.
        """
        now = time.perf_counter()
        job = Job(sequences.lengths.tolist(), deadline)
        self.scheduler.submit(job, now)
        split = sequences.split()
        embeddings = np.empty((len(split), self._session.dim), dtype=np.float32)
        request = _Request(split, embeddings, self._loop.create_future(), len(split))
        self._requests[job] = request
        timer = None if deadline == inf else self._loop.call_later(deadline - now, request.fail, DeadlinePassed())
        self._schedule_dispatch()
        try:
            await request.done
        finally:  # where it failed or was cancelled, what is left of it must not cost a run
            if timer:
                timer.cancel()
            if request.remaining:
                self.scheduler.withdraw(job)
            del self._requests[job]
        started = request.started or now
        return Encoded(
            embeddings=embeddings,
            padded_steps=request.padded_steps,
            queue_seconds=started - now,
            run_seconds=time.perf_counter() - started,
        )

    def close(self) -> None:
        """Wait for running batches and end the runners."""
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join()

    async def refine(self, refinement: Refinement) -> None:
        """Measure in idle time what the calibration left out, until nothing is left, and keep it.

        A request that comes meanwhile shares the CPUs with one measurement, which is then not used.
        """
        costs = self.scheduler.costs
        while shape := refinement.choose_shape():
            served = self.scheduler.submitted
            await asyncio.sleep(IDLE_SECONDS)
            if self._requests or self.scheduler.submitted != served:
                continue
            seconds = await asyncio.to_thread(refinement.measure, shape)
            if self.scheduler.submitted == served:
                costs.learn(shape, seconds)
        await asyncio.to_thread(refinement.save)

    def _schedule_dispatch(self) -> None:
        """Dispatch one turn of the loop later, so that requests read in this turn share the batches."""
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hand batches to idle runners while there are both."""
        self._dispatching = False
        now = time.perf_counter()
        while run := self.scheduler.next_run(now):
            sequences = []
            for entry in run.entries:
                request = self._requests[entry.job]
                request.started = request.started or now
                sequences.append(request.sequences[entry.row])
            is_alone = self.scheduler.running == 1 and not self.scheduler.waiting
            if is_alone and run.expected_end - now <= DIRECT_RUN_SECONDS:
                self._finish(run, *self._time(sequences))
            else:
                self._batches.put((run, sequences))

    def _work(self) -> None:
        """Run batches on a runner until there is None."""
        while batch := self._batches.get():
            run, sequences = batch
            answer = self._time(sequences)
            with suppress(RuntimeError):  # the loop is closed, and nobody waits for the answer
                self._loop.call_soon_threadsafe(self._finish, run, *answer)

    def _time(self, sequences: list[Steps]) -> tuple[Embeddings | list[Outcome], float]:
        """Encode a batch and return what it gave and the seconds it took."""
        began = time.perf_counter()
        outcomes = self._run(sequences)
        return outcomes, time.perf_counter() - began

    def _run(self, sequences: list[Steps]) -> Embeddings | list[Outcome]:
        """Encode a batch. Where the run fails, halve it until the culprits stand alone."""
        try:
            embeddings = self._encode(sequences)
        except Exception as error:  # whatever it is, only its own sequence may suffer
            if len(sequences) == 1:
                logger.exception("The model failed on a sequence of shape %s", sequences[0].shape)
                return [f"the run failed with {type(error).__name__}"]
            middle = len(sequences) // 2
            return [*self._run(sequences[:middle]), *self._run(sequences[middle:])]
        if np.isfinite(embeddings).all():
            return embeddings
        return [row if np.isfinite(row).all() else "its embedding is not finite" for row in embeddings]

    def _encode(self, sequences: list[Steps]) -> Embeddings:
        embeddings = self._session.run(pad_batch(sequences))
        if embeddings.shape != (len(sequences), self._session.dim):
            raise ValueError(f"{len(sequences)} sequences gave embeddings of shape {embeddings.shape}")
        return embeddings

    def _finish(self, run: Run, outcomes: Embeddings | list[Outcome], seconds: float) -> None:
        """Give the runner its next batch, then pass on what the run gave."""
        is_whole = not isinstance(outcomes, list)
        self.scheduler.finish(run, seconds if is_whole else None)
        self._dispatch()
        for entry, outcome in zip(run.entries, outcomes, strict=True):
            request = self._requests.get(entry.job)
            if request is None or request.done.done():  # cancelled, late, or failed by another row
                continue
            request.padded_steps += run.steps
            if isinstance(outcome, str):
                request.fail(RunFailed(entry.row, outcome))
                continue
            request.embeddings[entry.row] = outcome
            request.remaining -= 1
            if not request.remaining:
                request.done.set_result(None)
