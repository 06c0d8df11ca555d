"""Threads that run batches, and what becomes of one that dies or hangs. All state is touched on the event loop only."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Generic, Literal, TypeAlias, TypeVar

logger = logging.getLogger("lengthwise")

Batch = TypeVar("Batch")
Result = TypeVar("Result")
RunnerState: TypeAlias = Literal["busy", "idle", "lost"]

CLOSE_SECONDS = 5.0  # at the end, for runs that nobody waits for any more; the threads are daemons


@dataclass(slots=True, eq=False)
class _Runner(Generic[Batch]):
    """A thread, and what it was given: `batch` is None while it is idle."""

    thread: threading.Thread = field(init=False)
    inbox: SimpleQueue[Batch | None] = field(default_factory=SimpleQueue)
    batch: Batch | None = None
    since: float = 0.0
    is_second_try: bool = False
    is_lost: bool = False


class Runners(Generic[Batch, Result]):
    """Runs batches on threads.

    A thread that dies is replaced, and what it ran is run once more. One that hangs cannot be ended: it is given up and
    replaced, as often as there were runners to begin with; what hangs more often would leave threads without end.

    Attributes:
        number: how many there are still.
    """

    def __init__(
        self,
        number: int,
        max_run_seconds: float,
        perform: Callable[[Batch], Result],
        on_end: Callable[[Batch, Result], None],
        on_loss: Callable[[Batch, str], None],
    ) -> None:
        """Start the threads, on the running loop.

        Args:
            number: how many threads.
            max_run_seconds: what a run may take before its thread is given up.
            perform: runs a batch, on a thread.
            on_end: is told what a batch gave, on the loop, its runner being idle by then.
            on_loss: is told why a batch will give nothing, on the loop, once its runner was replaced if it could be.
        """
        self._max_run_seconds = max_run_seconds
        self._perform, self._on_end, self._on_loss = perform, on_end, on_loss
        self._loop = asyncio.get_running_loop()
        self._names = map("lengthwise-runner-{}".format, count())
        self._spares = self._begun = number
        self._is_watching = self._is_closed = False
        self.number = 0
        self._runners: list[_Runner[Batch]] = []
        self._idle: list[_Runner[Batch]] = []
        for _ in range(number):
            self._idle.append(self._start())

    def hand(self, batch: Batch, now: float) -> None:
        """Give a batch to an idle runner, of which there is one."""
        self._give(self._idle.pop(), batch, now)

    def count(self) -> dict[RunnerState, int]:
        """Count runners by what they do; one that hung and was not replaced is lost."""
        idle = len(self._idle)
        return {"busy": self.number - idle, "idle": idle, "lost": self._begun - self.number}

    def check(self, now: float) -> None:
        """Replace threads that died without a word, and give up those that hang."""
        for runner in list(self._runners):
            if not runner.thread.is_alive():
                self._replace_dead(runner)
            elif runner.batch is not None and now - runner.since >= self._max_run_seconds:
                self._give_up(runner, runner.batch)

    def close(self) -> None:
        """End the threads; wait a while for runs under way."""
        self._is_closed = True
        end = time.monotonic() + CLOSE_SECONDS
        for runner in self._runners:
            runner.inbox.put(None)
        for runner in self._runners:
            runner.thread.join(max(0.0, end - time.monotonic()))

    def _start(self) -> _Runner[Batch]:
        runner: _Runner[Batch] = _Runner()
        runner.thread = threading.Thread(target=self._work, args=(runner,), name=next(self._names), daemon=True)
        self._runners.append(runner)
        self.number += 1
        runner.thread.start()
        return runner

    def _give(self, runner: _Runner[Batch], batch: Batch, now: float, *, is_second_try: bool = False) -> None:
        runner.batch, runner.since, runner.is_second_try = batch, now, is_second_try
        runner.inbox.put(batch)
        if not self._is_watching:
            self._is_watching = True
            self._loop.call_later(self._max_run_seconds, self._watch)

    def _work(self, runner: _Runner[Batch]) -> None:
        """Run batches until there is None."""
        try:
            while (batch := runner.inbox.get()) is not None:
                self._tell(self._end, runner, self._perform(batch))
                del batch  # it may be large, and the next one may be long in coming
        except BaseException:  # whatever it is, the thread ends by it
            logger.exception("%s died", runner.thread.name)
            self._tell(self._replace_dead, runner)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits for the answer
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _end(self, runner: _Runner[Batch], result: Result) -> None:
        batch = runner.batch
        if runner.is_lost or batch is None:  # it was given up, and its requests have their answers
            return
        runner.batch = None
        self._idle.append(runner)
        self._on_end(batch, result)

    def _watch(self) -> None:
        """Check for hung runners while any is at work, each no later than twice its time."""
        self.check(time.perf_counter())
        self._is_watching = not self._is_closed and any(runner.batch is not None for runner in self._runners)
        if self._is_watching:
            self._loop.call_later(self._max_run_seconds, self._watch)

    def _replace_dead(self, runner: _Runner[Batch]) -> None:
        if runner.is_lost or self._is_closed:
            return
        self._drop(runner)
        replacement, batch = self._start(), runner.batch
        if batch is not None and not runner.is_second_try:
            self._give(replacement, batch, time.perf_counter(), is_second_try=True)
            return
        self._idle.append(replacement)
        if batch is not None:
            self._on_loss(batch, "the thread that ran it died, twice")

    def _give_up(self, runner: _Runner[Batch], batch: Batch) -> None:
        logger.error("%s has run for over %g s, and is given up", runner.thread.name, self._max_run_seconds)
        self._drop(runner)
        runner.inbox.put(None)  # should it ever come back
        if self._spares:
            self._spares -= 1
            self._idle.append(self._start())
        self._on_loss(
            batch, f"it was not done within {self._max_run_seconds:g} s, the limit set by LENGTHWISE_MAX_RUN_SECONDS"
        )

    def _drop(self, runner: _Runner[Batch]) -> None:
        runner.is_lost = True
        self._runners.remove(runner)
        self.number -= 1
        if runner in self._idle:
            self._idle.remove(runner)
