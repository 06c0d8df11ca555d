"""Runs batches off the event loop: the seam between asyncio, the scheduler and the session.

Whenever a runner is idle and sequences wait, it is given the scheduler's next batch; nothing ever sleeps to gather one,
and little work needs no thread. All state is touched on the event loop only.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from service.cost import Shape
from service.errors import DeadlinePassed, LengthwiseError, RunFailed, RunLost, Stuck
from service.jobs import Job, Run, Where
from service.runners import Runners
from service.scheduler import Scheduler
from service.sequences import Answer, Embeddings, Output, Sequences, State, Steps, pad_batch
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

_Batch: TypeAlias = tuple[Run, list[Work]]
_Result: TypeAlias = tuple[Embeddings | list[Outcome], float]  # and the seconds it took

EMBEDDING_ONLY: tuple[Output, ...] = ("embedding",)
NOT_FINITE = "what it gave is not finite"

# While all there is to run takes no longer, the event loop does it: to wake a thread, be woken by it and share the
# interpreter with it takes as long, and requests that arrive meanwhile share the next batch.
DIRECT_SECONDS = 0.002
# Work that waits while nothing moves for so many times what a run may take: whoever hung was given up by then, and who
# took its place hangs too.
STUCK_RUNS = 1.5
IDLE_SECONDS = 1.0  # without a request, before a measurement refines what runs are thought to cost


@dataclass(frozen=True, slots=True)
class Encoded:
    """A finished request.

    Attributes:
        answer: in the request's order.
        padded_steps: steps computed for it, padding included.
        queue_seconds: from its arrival to its first run.
        run_seconds: from its first run to its last answer.
    """

    answer: Answer
    padded_steps: int
    queue_seconds: float
    run_seconds: float


@dataclass(slots=True, eq=False)
class _Request:
    """What the engine knows of a job beyond what the scheduler does; `remaining` counts the rows not filled yet."""

    work: Sequence[Work]
    embeddings: Embeddings
    rows: dict[int, Row]
    done: asyncio.Future[None]
    remaining: int
    field: str
    arrived: float
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


class Observer(Protocol):
    """Who is told what became of batches and requests, on the event loop; `Telemetry` is one."""

    def see_batch(self, run: Run, seconds: float, failed: int, nonfinite: int) -> None:
        """Take note of a batch that ended, and of how many of its sequences have no embedding, or none finite."""

    def see_cancelled(self, where: Where) -> None:
        """Take note of a request that nobody waits for any more."""


class Engine:
    """Encodes sequences for many requests at once on one session."""

    def __init__(
        self,
        session: EncoderSession,
        scheduler: Scheduler,
        observers: Sequence[Observer] = (),
        *,
        max_run_seconds: float = 30.0,
    ) -> None:
        """Start the runners, as many as the scheduler keeps busy, on the running loop.

        Args:
            session: runs the batches.
            scheduler: cuts them.
            observers: are told of them.
            max_run_seconds: what a run may take before its runner is given up.
        """
        self.scheduler = scheduler
        self._observers = observers
        self._progressed = 0.0  # when a run last began or ended
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._requests: dict[Job, _Request] = {}
        self._dispatching = False
        self._waiting: list[asyncio.Future[None]] = []  # for any run to end
        self._stuck_seconds = STUCK_RUNS * max_run_seconds
        self._runners: Runners[_Batch, _Result] = Runners(
            scheduler.runners, max_run_seconds, self._time, self._finish, self._lose
        )

    async def encode(
        self,
        sequences: Sequences,
        deadline: float = inf,
        outputs: Collection[Output] = EMBEDDING_ONLY,
        origin: object = None,
        *,
        is_bulk: bool = False,
    ) -> Encoded:
        """Encode one request's sequences, in whatever batches they fit best.

        Args:
            sequences: n >= 1 sequences with the session's own F, checked.
            deadline: when an answer is of no use any more, on the clock of `time.perf_counter`.
            outputs: what is wanted of what the session gives.
            origin: what the observers know the request by.
            is_bulk: whether it gives way to others, however small it is.

        Returns:
            The answer, row i for sequence i, and what it cost.

        Raises:
            QueueFull: there is no room to wait in.
            DeadlineUnreachable: an answer in time cannot be expected.
            DeadlinePassed: it was expected, and was not there in time.
            RunFailed: the model failed on one of them; carries its index.
            RunLost: a run of some of them never ended.
            Stuck: there is no runner left.
        """
        if not self._runners:
            raise Stuck
        now = time.perf_counter()
        job = Job(sequences.lengths.tolist(), deadline, is_bulk, origin)
        self.scheduler.submit(job, now)
        work = _split(sequences, is_whole=set(outputs) != {"embedding"})
        embeddings = np.empty((len(work), self._session.dim), dtype=np.float32)
        request = _Request(work, embeddings, {}, self._loop.create_future(), len(work), sequences.field, now)
        self._requests[job] = request
        timer = None if deadline == inf else self._loop.call_later(deadline - now, request.fail, DeadlinePassed())
        self._schedule_dispatch()
        try:
            await request.done
        except asyncio.CancelledError:
            for observer in self._observers:
                observer.see_cancelled("run" if request.started else "queue")
            raise
        finally:  # where it failed or was cancelled, what is left of it must not cost a run
            if timer:
                timer.cancel()
            if request.remaining:
                self.scheduler.withdraw(job)
            del self._requests[job]
        started = request.started or now
        return Encoded(
            answer=_join(embeddings, request.rows),
            padded_steps=request.padded_steps,
            queue_seconds=started - now,
            run_seconds=time.perf_counter() - started,
        )

    def seconds_since_progress(self, now: float) -> float:
        """Return how long ago a run began or ended, 0 where none is under way."""
        return now - self._progressed if self.scheduler.running else 0.0

    async def wait_for_run(self) -> None:
        """Wait until a run ends, whosever it is: a full queue has more room then, or soon."""
        ended = self._loop.create_future()
        self._waiting.append(ended)
        await ended

    def close(self) -> None:
        """Wait a while for running batches and end the runners."""
        self._runners.close()

    def is_stuck(self, now: float) -> bool:
        """Whether requests wait and no run has begun or ended for too long."""
        oldest = next(iter(self._requests.values()), None)
        return oldest is not None and now - max(oldest.arrived, self._progressed) > self._stuck_seconds

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
            self._progressed = now
            batch = self._gather(run, now)
            if run.expected_end - now + self.scheduler.waiting_seconds <= DIRECT_SECONDS:
                self._finish(batch, self._time(batch))
            else:
                self._runners.hand(batch, now)
        if run := self.scheduler.next_aside(now, DIRECT_SECONDS):
            batch = self._gather(run, now)
            self._loop.call_soon(self._finish, batch, self._time(batch))

    def _gather(self, run: Run, now: float) -> _Batch:
        """Collect what a run needs of its requests."""
        work = []
        for entry in run.entries:
            request = self._requests[entry.job]
            request.started = request.started or now
            work.append(request.work[entry.row])
        return run, work

    def _time(self, batch: _Batch) -> _Result:
        """Encode a batch and return what it gave and the seconds it took."""
        began = time.perf_counter()
        outcomes = self._run(batch[1])
        return outcomes, time.perf_counter() - began

    def _run(self, work: list[Work]) -> Embeddings | list[Outcome]:
        """Encode a batch. Where the run fails, halve it until the culprits stand alone."""
        try:
            encoded = self._encode(work)
        except Exception as error:  # whatever it is, only its own sequence may suffer
            if len(work) == 1:
                logger.exception("The model failed on a sequence of shape %s", work[0].steps.shape)
                return [f"the run failed with {type(error).__name__}"]
            middle = len(work) // 2
            return [*self._run(work[:middle]), *self._run(work[middle:])]
        if isinstance(encoded, np.ndarray) and np.isfinite(encoded).all():
            return encoded
        return [row if _is_finite(row) else NOT_FINITE for row in encoded]

    def _encode(self, work: list[Work]) -> Embeddings | list[Row]:
        """Encode a batch: embeddings only, or a whole row for each sequence where any wants one."""
        states = None
        if any(one.state for one in work):
            zero = self._session.zero_state(1)
            states = {name: np.stack([one.state.get(name, zero[name][0]) for one in work]) for name in zero}
        batch = pad_batch([one.steps for one in work], states)
        if not any(one.is_whole for one in work):
            return self._check(self._session.run(batch), len(work))
        result = self._session.run_all(batch)
        self._check(result.embeddings, len(work))
        return [
            Row(
                result.embeddings[row],
                None if result.steps is None else result.steps[row, :length].copy(),
                {name: part[row] for name, part in result.state.items()},
            )
            for row, length in enumerate(batch.lengths.tolist())
        ]

    def _check(self, embeddings: Embeddings, rows: int) -> Embeddings:
        if embeddings.shape != (rows, self._session.dim):
            raise ValueError(f"{rows} sequences gave embeddings of shape {embeddings.shape}")
        return embeddings

    def _finish(self, batch: _Batch, result: _Result) -> None:
        """Give the runner its next batch, then pass on what the run gave."""
        (run, _), (outcomes, seconds) = batch, result
        is_whole = not isinstance(outcomes, list)
        self._progressed = time.perf_counter()
        self.scheduler.finish(run, seconds if is_whole else None)
        self._tell(run, outcomes, seconds)
        self._dispatch()
        self._wake_waiting()
        for entry, outcome in zip(run.entries, outcomes, strict=True):
            request = self._requests.get(entry.job)
            if request is None or request.done.done():  # cancelled, late, or failed by another row
                continue
            request.padded_steps += run.steps
            if isinstance(outcome, str):
                request.fail(RunFailed(entry.row, outcome, request.field))
                continue
            if isinstance(outcome, Row):
                request.rows[entry.row] = outcome
                outcome = outcome.embedding  # noqa: PLW2901 - the rest is the same for both
            request.embeddings[entry.row] = outcome
            request.remaining -= 1
            if not request.remaining:
                request.done.set_result(None)

    def _lose(self, batch: _Batch, reason: str) -> None:
        """Fail the requests of a run that never ended, and all others where there is no runner left."""
        run, _ = batch
        for entry in run.entries:
            if request := self._requests.get(entry.job):
                request.fail(RunLost(reason))
        if not self._runners:
            for request in self._requests.values():
                request.fail(Stuck())
            return
        self.scheduler.runners = len(self._runners)
        self.scheduler.finish(run, None)
        self._wake_waiting()
        self._schedule_dispatch()

    def _wake_waiting(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():  # cancelled
                waiting.set_result(None)
        self._waiting.clear()

    def _tell(self, run: Run, outcomes: Embeddings | list[Outcome], seconds: float) -> None:
        """Tell the observers of a run; whatever becomes of that, the requests are answered."""
        failed = nonfinite = 0
        if isinstance(outcomes, list):
            failed = sum(isinstance(outcome, str) for outcome in outcomes)
            nonfinite = sum(outcome is NOT_FINITE for outcome in outcomes)
        for observer in self._observers:
            try:
                observer.see_batch(run, seconds, failed, nonfinite)
            except Exception:
                logger.exception("A batch could not be taken note of")


def _split(sequences: Sequences, *, is_whole: bool) -> list[Work]:
    """Cut a request into what runners get."""
    state = sequences.state
    return [
        Work(steps, {name: part[row] for name, part in state.items()}, is_whole)
        for row, steps in enumerate(sequences.split())
    ]


def _is_finite(row: Embeddings | Row) -> bool:
    """Whether every number of a row is finite."""
    parts = [row.embedding, row.steps, *row.state.values()] if isinstance(row, Row) else [row]
    return all(part is None or bool(np.isfinite(part).all()) for part in parts)


def _join(embeddings: Embeddings, rows: dict[int, Row]) -> Answer:
    """Put a request's rows together, in its order; where only embeddings were wanted there may be none."""
    if len(rows) < len(embeddings):
        return Answer(embeddings)
    ordered = [rows[place] for place in range(len(rows))]
    steps = [row.steps for row in ordered if row.steps is not None]
    return Answer(
        embeddings, steps, {name: np.stack([row.state[name] for row in ordered]) for name in ordered[0].state}
    )
