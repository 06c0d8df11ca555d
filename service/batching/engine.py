"""Runs batches off the event loop: the seam between asyncio, the schedulers and the sessions of all models.

Whenever a runner is idle and sequences wait, it is given the next batch; nothing ever sleeps to gather one,
and little work needs no thread. All state is touched on the event loop only.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeAlias

import numpy as np

from service.batching.batches import NOT_FINITE, Outcome, Row, Work, join_rows, run_rows, split_request
from service.batching.jobs import Job, Run, Where
from service.batching.queue import Scheduler
from service.batching.runners import Runners
from service.batching.sharing import LITTLE_SECONDS, Slots
from service.costs.cpus import choose_slice
from service.costs.model import CostModel, Shape
from service.errors import DeadlinePassed, LengthwiseError, RunFailed, RunLost, Stuck
from service.sequences import Answer, Embeddings, Output, Sequences
from service.session import EncoderSession

logger = logging.getLogger("lengthwise")


class Target(Protocol):
    """What encodes a request, and what its sequences wait in; `ServedModel` is one."""

    @property
    def name(self) -> str:
        """The name it is served under."""

    @property
    def version(self) -> str:
        """The version it is served as."""

    @property
    def session(self) -> EncoderSession:
        """Runs its batches."""

    @property
    def scheduler(self) -> Scheduler:
        """Cuts them."""


_Batch: TypeAlias = tuple[Run, Target, list[Work]]
_Result: TypeAlias = tuple[Embeddings | list[Outcome], float]  # and the seconds it took

EMBEDDING_ONLY: tuple[Output, ...] = ("embedding",)
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

    target: Target
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

    def see_batch(self, model: Target, run: Run, seconds: float, failed: int, nonfinite: int) -> None:
        """Take note of a batch that ended, and of how many of its sequences have no embedding, or none finite."""

    def see_cancelled(self, model: str, where: Where) -> None:
        """Take note of a request that nobody waits for any more."""


class Engine:
    """Encodes sequences for many requests at once.

    Attributes:
        slots: shares the runners out among the models.
        requests: taken so far.
    """

    def __init__(
        self,
        slots: Slots,
        observers: Sequence[Observer] = (),
        *,
        max_run_seconds: float = 30.0,
    ) -> None:
        """Start the runners, as many as there are slots, on the running loop.

        Args:
            slots: empty.
            observers: are told of them.
            max_run_seconds: what a run may take before its runner is given up.
        """
        self.slots = slots
        self.requests = 0
        self._observers = observers
        self._progressed = 0.0  # when a run last began or ended
        self._loop = asyncio.get_running_loop()
        self._requests: dict[Job, _Request] = {}
        self._dispatching = False
        self._waiting: list[asyncio.Future[None]] = []  # for any run to end
        self._stuck_seconds = STUCK_RUNS * max_run_seconds
        self._runners: Runners[_Batch, _Result] = Runners(
            slots.number, max_run_seconds, self._time, self._finish, self._lose
        )

    async def encode(
        self,
        target: Target,
        sequences: Sequences,
        deadline: float = inf,
        outputs: Collection[Output] = EMBEDDING_ONLY,
        origin: object = None,
        *,
        is_bulk: bool = False,
    ) -> Encoded:
        """Encode one request's sequences, in whatever batches they fit best.

        Args:
            target: what encodes them.
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
        target.scheduler.submit(job, now)
        self.requests += 1
        work = split_request(sequences, is_whole=set(outputs) != {"embedding"})
        embeddings = np.empty((len(work), target.session.dim), dtype=np.float32)
        request = _Request(target, work, embeddings, {}, self._loop.create_future(), len(work), sequences.field, now)
        self._requests[job] = request
        timer = None if deadline == inf else self._loop.call_later(deadline - now, request.fail, DeadlinePassed())
        self._schedule_dispatch()
        try:
            await request.done
        except asyncio.CancelledError:
            for observer in self._observers:
                observer.see_cancelled(target.name, "run" if request.started else "queue")
            raise
        finally:  # where it failed or was cancelled, what is left of it must not cost a run
            if timer:
                timer.cancel()
            if request.remaining:
                target.scheduler.withdraw(job)
            del self._requests[job]
        started = request.started or now
        return Encoded(
            answer=join_rows(embeddings, request.rows),
            padded_steps=request.padded_steps,
            queue_seconds=started - now,
            run_seconds=time.perf_counter() - started,
        )

    def seconds_since_progress(self, now: float) -> float:
        """Return how long ago a run began or ended, 0 where none is under way."""
        return now - self._progressed if self.slots.running else 0.0

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

    async def refine(self, refinement: Refinement, costs: CostModel) -> None:
        """Measure in idle time what the calibration left out, until nothing is left, and keep it.

        A request that comes meanwhile shares the CPUs with one measurement, which is then not used.
        """
        while shape := refinement.choose_shape():
            taken = self.requests
            await asyncio.sleep(IDLE_SECONDS)
            if self._requests or self.requests != taken:
                continue
            seconds = await asyncio.to_thread(refinement.measure, shape)
            if self.requests == taken:
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
        while run := self.slots.next_run(now):
            self._progressed = now
            batch = self._gather(run, now)
            # The event loop does little work itself: to wake a thread, be woken by it and share the interpreter with it
            # takes as long, and requests that arrive meanwhile share the next batch.
            if not run.is_bulk and run.expected_seconds + self.slots.small_seconds <= LITTLE_SECONDS:
                result = self._time(batch)
                self._take_back(batch, result)
                self._pass_on(batch, result)
            else:
                self._runners.hand(batch, now)
        if run := self.slots.next_aside(now, LITTLE_SECONDS):
            batch = self._gather(run, now)
            self._loop.call_soon(self._finish, batch, self._time(batch))

    def _gather(self, run: Run, now: float) -> _Batch:
        """Collect what a run needs of its requests."""
        work = []
        for entry in run.entries:
            request = self._requests[entry.job]
            request.started = request.started or now
            work.append(request.work[entry.row])
        return run, request.target, work

    def _time(self, batch: _Batch) -> _Result:
        """Encode a batch and return what it gave and the seconds it took."""
        run, target, work = batch
        choose_slice(is_long=run.is_bulk)
        began = time.perf_counter()
        outcomes = run_rows(target.session, work)
        return outcomes, time.perf_counter() - began

    def _finish(self, batch: _Batch, result: _Result) -> None:
        """Give the runner its next batch, then pass on what the run gave."""
        self._take_back(batch, result)
        self._dispatch()
        self._pass_on(batch, result)

    def _take_back(self, batch: _Batch, result: _Result) -> None:
        """Take note of a run that ended."""
        (run, target, _), (outcomes, seconds) = batch, result
        self._progressed = time.perf_counter()
        self.slots.finish(run, None if isinstance(outcomes, list) else seconds)
        self._tell(target, run, outcomes, seconds)

    def _pass_on(self, batch: _Batch, result: _Result) -> None:
        """Hand each request what a run gave for it."""
        (run, *_), (outcomes, _) = batch, result
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
        run, *_ = batch
        for entry in run.entries:
            if request := self._requests.get(entry.job):
                request.fail(RunLost(reason))
        if not self._runners:
            for request in self._requests.values():
                request.fail(Stuck())
            return
        self.slots.number = len(self._runners)
        self.slots.finish(run, None)
        self._wake_waiting()
        self._schedule_dispatch()

    def _wake_waiting(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():  # cancelled
                waiting.set_result(None)
        self._waiting.clear()

    def _tell(self, model: Target, run: Run, outcomes: Embeddings | list[Outcome], seconds: float) -> None:
        """Tell the observers of a run; whatever becomes of that, the requests are answered."""
        failed = nonfinite = 0
        if isinstance(outcomes, list):
            failed = sum(isinstance(outcome, str) for outcome in outcomes)
            nonfinite = sum(outcome is NOT_FINITE for outcome in outcomes)
        for observer in self._observers:
            try:
                observer.see_batch(model, run, seconds, failed, nonfinite)
            except Exception:
                logger.exception("A batch could not be taken note of")
