"""The two threads that run what waits, in turns: while the batch of one is on the device, the other lays out the next.

A batch is laid out as late as it can be without leaving the device idle, for what comes until then still joins it.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from math import inf

import numpy as np
import numpy.typing as npt

from service.encoder.region import Region
from service.encoder.remote import read_board
from service.encoder.runtime import Device, Feed
from service.server.owner.blocks import Block, Channel, Staging, hand_back, lay_out
from service.server.owner.choosing import choose

logger = logging.getLogger("lengthwise")

HANDS = 2
LEAD_SECONDS = 0.0003  # before a run should end, the next is laid out, and earlier by what that should take
FOLLOW = 0.2  # how far one batch moves what laying out a byte is expected to take


class Merger:
    """Runs blocks that wait, as many together as are worth it.

    Attributes:
        device: is held while anything runs.
        runs: how many there were.
        rows: of all of them.
    """

    def __init__(self, provider: Device, board: Region, owners: int, number: int) -> None:
        """Start the threads.

        Args:
            provider: what runs are done on.
            board: where it says when it should be through.
            owners: how many have a number there.
            number: its place among them.
        """
        self.device = threading.Lock()
        self.runs = self.rows = 0
        self._changed = threading.Condition()
        self._waiting: list[Block] = []
        self._is_laying_out = False
        self._began = self._ends = inf  # of the run under way
        self._byte_seconds = 1e-10  # to lay out
        self._board, self._number = read_board(board, owners), number
        self._tell()
        for hand in range(HANDS):
            staging = Staging(for_cuda=provider == "cuda")
            threading.Thread(target=self._work, args=(staging,), name=f"lengthwise-hand-{hand}", daemon=True).start()

    def add(self, block: Block) -> None:
        """Take in rows that wait."""
        with self._changed:
            self._waiting.append(block)
            self._tell()
            self._changed.notify()

    def drop(self, channel: Channel) -> None:
        """Forget what waits of a channel whose process has ended."""
        with self._changed:
            self._waiting = [block for block in self._waiting if block.channel is not channel]

    def seconds_since_start(self, now: float) -> float:
        """Return how long the run under way has taken so far; 0 if there is none."""
        return max(0.0, now - self._began)

    def _work(self, staging: Staging) -> None:
        """Run one batch after another; if that cannot go on, end the process, which is started anew."""
        try:
            while True:
                if blocks := self._take():
                    self._serve(blocks, staging)
                del blocks  # the next may be long in coming
        except BaseException:
            logger.exception("The process that owns the device ended by what nobody foresaw")
            os._exit(1)

    def _serve(self, blocks: list[Block], staging: Staging) -> None:
        """Lay blocks out, run them and hand back what that gives."""
        began = time.perf_counter()
        try:
            feed = lay_out(blocks, staging)
        except MemoryError as error:
            self._stop_laying_out()
            for block in blocks:
                block.fail(error)
            return
        if len(blocks) > 1:
            each = (time.perf_counter() - began) / feed["sequences"].nbytes
            self._byte_seconds += FOLLOW * (each - self._byte_seconds)
        outcome = self._run(blocks, feed)
        if isinstance(outcome, Exception):
            self._run_apart(blocks, staging, outcome)
        else:
            hand_back(blocks, outcome)

    def _take(self) -> list[Block]:
        """Wait until it is time to lay out the next batch, and take it.

        Returns:
            Its blocks; none if all that were taken are too late, which is answered then.
        """
        with self._changed:
            while True:
                if not self._waiting or self._is_laying_out:
                    self._changed.wait()
                    continue
                now = time.perf_counter()
                waiting = sum(block.inputs["sequences"].nbytes for block in self._waiting)
                left = self._ends - now - LEAD_SECONDS - self._byte_seconds * waiting
                if self._ends == inf or left <= 0:
                    break
                self._changed.wait(left)
            urgent = min(self._waiting, key=lambda block: block.due).graph
            blocks = choose(self._waiting, urgent.predict, urgent.budget)
            taken = set(map(id, blocks))
            self._waiting = [block for block in self._waiting if id(block) not in taken]
            late = [block for block in blocks if not block.drop_late(now)]
            blocks = [block for block in blocks if block not in late]
            self._is_laying_out = bool(blocks)
            self._tell()
        hand_back(late, [np.zeros(shape, np.float32) for shape in _empty(late)])
        return blocks

    def _run(self, blocks: Sequence[Block], feed: Feed) -> list[npt.NDArray[np.float32]] | Exception:
        """Run a batch once the device is free, and return what it gave, or why it did not."""
        graph, outputs = blocks[0].graph, blocks[0].outputs
        rows, steps = feed["sequences"].shape[:2]
        with self.device:
            expected = graph.predict(rows, steps)
            began = time.perf_counter()
            with self._changed:
                self._began, self._ends, self._is_laying_out = began, began + expected, False
                self._tell()
                self._changed.notify()
            try:
                found: list[npt.NDArray[np.float32]] | Exception = graph.run(outputs, feed)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who asked are told
                found = error
            seconds = time.perf_counter() - began
            if isinstance(found, list):
                graph.costs.follow(expected / graph.costs.factors[False], seconds)
            with self._changed:
                self._began = self._ends = inf
                self.runs += 1
                self.rows += rows
                self._tell()
                self._changed.notify()
        return found

    def _run_apart(self, blocks: Sequence[Block], staging: Staging, error: Exception) -> None:
        """Run blocks one by one whose common run failed; who asked for one that fails alone looks for the culprit."""
        graph, steps = blocks[0].graph, sum(block.rows for block in blocks) * blocks[-1].steps
        if len(blocks) == 1:
            blocks[0].fail(error)
            return
        failed = 0
        for block in blocks:
            outcome = self._run([block], lay_out([block], staging))
            if isinstance(outcome, Exception):
                failed += 1
                block.fail(outcome)
            else:
                hand_back([block], outcome)
        if not failed:  # it was the size
            graph.budget = max(1, min(graph.budget, steps) // 2)
            logger.warning(
                "A run of %d padded steps failed (%s); from now on none has over %d", steps, error, graph.budget
            )

    def _stop_laying_out(self) -> None:
        with self._changed:
            self._is_laying_out = False
            self._changed.notify()

    def _tell(self) -> None:
        """Say when all should be through that was asked for."""
        now = time.perf_counter()
        ends = now if self._ends == inf else max(now, self._ends)
        self._board[self._number] = ends + sum(block.graph.predict(block.rows, block.steps) for block in self._waiting)


def _empty(blocks: Sequence[Block]) -> list[tuple[int, ...]]:
    """Return the shapes of nothing at all, as a run over no row of some blocks would give it."""
    if not blocks:
        return []
    steps = max(block.steps for block in blocks)
    return blocks[0].graph.shapes(blocks[0].outputs, 0, steps)
