"""Joins asyncio, the queues and the sessions of all models. All state is touched on the event loop only.

An idle runner gets the next batch as soon as sequences wait: nothing ever sleeps to gather one. Little work is done on
the event loop itself.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from math import inf
from typing import Protocol, TypeAlias

from service.batching.batches import NOT_FINITE, Delivery, Outcome, Target, run_parts
from service.batching.jobs import HangUpStage, Job, Run
from service.batching.runners import Runners, RunnerState
from service.batching.sharing import Queues
from service.costs.cpus import choose_slice
from service.encoder.sequences import Embeddings, Output, Sequences
from service.errors import DeadlinePassed, RunLost, Stuck

logger = logging.getLogger("lengthwise")

# A run, and its rows by request: each request's rows are together in the batch.
_Batch: TypeAlias = tuple[Run, dict[Delivery, list[int]]]
_Result: TypeAlias = tuple[Embeddings | list[Outcome], float]  # the outcomes of a run, and the seconds it took

EMBEDDING_ONLY: tuple[Output, ...] = ("embedding",)
# If work waits and no run begins or ends for so many times what a run may take, the engine is stuck: a runner that hung
# was given up by then, and the one that took its place hangs too.
STUCK_RUNS = 1.5


class Observer(Protocol):
    """Is told of batches and of requests that were given up, on the event loop; `Telemetry` is one."""

    def see_batch(self, model: Target, run: Run, seconds: float, failed: int, nonfinite: int) -> None:
        """Note a batch that ended, and how many of its sequences have no embedding, or one that is not finite."""

    def see_cancelled(self, model: str, where: HangUpStage) -> None:
        """Note a request that nobody waits for any more."""


class Engine:
    """Encodes sequences for many requests at once.

    Attributes:
        queues: all that waits and all that runs.
        requests: how many were taken so far.
    """

    def __init__(self, queues: Queues, observers: Sequence[Observer] = (), *, max_run_seconds: float = 30.0) -> None:
        """Start the runners, as many as the queues count on, on the running loop.

        Args:
            queues: empty queues.
            observers: those to tell of batches and requests.
            max_run_seconds: how long a run may take before its runner is given up.
        """
        self.queues = queues
        self.requests = 0
        self._observers = observers
        self._progressed = 0.0  # when a run last began or ended
        self._loop = asyncio.get_running_loop()
        self._deliveries: dict[Delivery, None] = {}  # under way, the oldest first
        self._is_dispatching = False
        self._waiting: list[asyncio.Future[None]] = []  # until any run ends
        self._stuck_seconds = STUCK_RUNS * max_run_seconds
        self._runners: Runners[_Batch, _Result] = Runners(
            queues.runners, max_run_seconds, self._run_on_thread, self._finish, self._lose
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
    ) -> Delivery:
        """Encode one request's sequences, in the batches that suit them best.

        Args:
            target: the model that encodes them.
            sequences: n >= 1 sequences with the session's own F, checked.
            deadline: when the answer is of no use any more, on the clock of `time.perf_counter`.
            outputs: the outputs of the session that are wanted.
            origin: the mark by which observers know the request.
            is_bulk: whether it gives way to others, however small it is.

        Returns:
            The complete delivery: the answer, row i for sequence i, and its cost.

        Raises:
            QueueFull: the queue has no room for them.
            DeadlineUnreachable: the answer cannot be expected in time.
            DeadlinePassed: the answer was expected in time, and did not come.
            RunFailed: the model failed on one of them; carries its index.
            RunLost: a run of some of them never ended.
            Stuck: no runner is left.
        """
        if not self._runners.number:
            raise Stuck
        now = time.perf_counter()
        job = Job(sequences.lengths.tolist(), deadline, is_bulk, origin)
        self.queues.submit(target.queue, job, now)
        self.requests += 1
        is_whole = outputs != EMBEDDING_ONLY and set(outputs) != {"embedding"}
        delivery = job.delivery = Delivery(
            target, sequences, self._loop.create_future(), now, is_whole=is_whole, deadline=deadline
        )
        self._deliveries[delivery] = None
        timer = None if deadline == inf else self._loop.call_later(deadline - now, delivery.fail, DeadlinePassed())
        self._schedule_dispatch()
        try:
            await delivery.done
        except asyncio.CancelledError:
            for observer in self._observers:
                observer.see_cancelled(target.name, "run" if delivery.started else "queue")
            raise
        finally:  # if the request failed or was cancelled, the rest of it must not cost a run
            if timer:
                timer.cancel()
            if not delivery.is_filled:
                self.queues.withdraw(target.queue, job)
            job.delivery = None  # the job may be remembered for longer than its arrays should be
            del self._deliveries[delivery]
        delivery.complete(job.lengths, time.perf_counter())
        return delivery

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, here or in another worker."""
        return not self._deliveries and self.queues.is_alone(time.perf_counter())

    def count_runners(self) -> dict[RunnerState, int]:
        """Count runners by what they do. Little runs are done on the event loop, and put none to work."""
        return self._runners.count()

    def seconds_since_progress(self, now: float) -> float:
        """Return how long ago a run last began or ended; 0 if none is under way."""
        return now - self._progressed if self.queues.running else 0.0

    async def wait_for_run(self) -> None:
        """Wait until any run ends: a full queue then has more room, or will soon."""
        ended = self._loop.create_future()
        self._waiting.append(ended)
        await ended

    def close(self) -> None:
        """Wait a while for running batches, then end the runners."""
        self._runners.close()

    def is_stuck(self, now: float) -> bool:
        """Whether no runner is left, or requests wait and no run has begun or ended for too long."""
        oldest = next(iter(self._deliveries), None)
        return not self._runners.number or (
            oldest is not None and now - max(oldest.arrived, self._progressed) > self._stuck_seconds
        )

    def _schedule_dispatch(self) -> None:
        """Dispatch in the next turn of the loop, so that requests read in this turn share batches."""
        if not self._is_dispatching:
            self._is_dispatching = True
            self._loop.call_soon(self._wait_for_company, self.requests)

    def _wait_for_company(self, first: int) -> None:
        """Dispatch; if others followed the first request at once, so that more may have, not before these are read.

        They wait for no runner then, but for the loop, and larger batches take less of its time.
        """
        if self.requests > first and self.queues.are_little:
            self._loop.call_soon(self._dispatch)
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        """Start all runs that may start: here if they are little, else on idle runners."""
        self._is_dispatching = False
        now = time.perf_counter()
        for run in self.queues.schedule(now):
            self._progressed = now
            shares: dict[Delivery, list[int]] = {}
            for entry in run.entries:
                shares.setdefault(entry.job.delivery, []).append(entry.row)
            for delivery in shares:
                delivery.begin(now)
            batch = run, shares
            if self.queues.is_little(run):
                self._run_here(batch)
            else:
                self._runners.hand(batch, now)

    def _run_here(self, batch: _Batch) -> None:
        """Run a batch on the event loop itself.

        Waking a thread, being woken by it and sharing the interpreter with it would take as long as a little run.
        Requests that arrive meanwhile share the next batch. After a run beside the runners, the loop does other work
        before it starts another.
        """
        result = self._execute(batch)
        self._take_back(batch, result)
        self._pass_on(batch, result)
        if batch[0].is_aside:
            self._schedule_dispatch()

    def _run_on_thread(self, batch: _Batch) -> _Result:
        """Run a batch on a runner's thread; for a long run the thread gets long turns on a CPU."""
        run, _ = batch
        choose_slice(is_long=run.is_bulk)
        return self._execute(batch)

    def _execute(self, batch: _Batch) -> _Result:
        """Encode a batch, and measure how long that takes."""
        _, shares = batch
        session = next(iter(shares)).target.session
        began = time.perf_counter()
        outcomes = run_parts(session, [(delivery, row) for delivery, rows in shares.items() for row in rows])
        return outcomes, time.perf_counter() - began

    def _finish(self, batch: _Batch, result: _Result) -> None:
        """Give the runner its next batch, then pass on what the run gave."""
        self._take_back(batch, result)
        self._dispatch()
        self._pass_on(batch, result)

    def _take_back(self, batch: _Batch, result: _Result) -> None:
        """Count a run as ended, and tell the observers."""
        (run, shares), (outcomes, seconds) = batch, result
        self._progressed = time.perf_counter()
        self.queues.update(run, None if isinstance(outcomes, list) else seconds)
        self._tell(next(iter(shares)).target, run, outcomes, seconds)

    def _pass_on(self, batch: _Batch, result: _Result) -> None:
        """Give each request its rows of a run."""
        (run, shares), (outcomes, _) = batch, result
        self._wake_waiting()
        start = 0
        for delivery, rows in shares.items():
            stop = start + len(rows)
            delivery.fill(rows, outcomes[start:stop], run.steps)
            start = stop

    def _lose(self, batch: _Batch, reason: str) -> None:
        """Fail the requests of a run that never ended, and all others if no runner is left."""
        run, shares = batch
        for delivery in shares:
            delivery.fail(RunLost(reason))
        if not self._runners.number:
            self._wake_waiting()  # when they try again, they are told that nothing runs any more
            for delivery in self._deliveries:
                delivery.fail(Stuck())
            return
        self.queues.resize(self._runners.number)
        self.queues.update(run, None)
        self._wake_waiting()
        self._schedule_dispatch()

    def _wake_waiting(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():  # cancelled
                waiting.set_result(None)
        self._waiting.clear()

    def _tell(self, model: Target, run: Run, outcomes: Embeddings | list[Outcome], seconds: float) -> None:
        """Tell the observers of a run; the requests are answered even if an observer fails."""
        failed = nonfinite = 0
        if isinstance(outcomes, list):
            failed = sum(isinstance(outcome, str) for outcome in outcomes)
            nonfinite = sum(outcome is NOT_FINITE for outcome in outcomes)
        for observer in self._observers:
            try:
                observer.see_batch(model, run, seconds, failed, nonfinite)
            except Exception:
                logger.exception("An observer failed on a batch")
