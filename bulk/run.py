"""Shards read, encoded and written at the same time, until all are done or somebody says stop."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from bulk.encoder import Encoded, Encodes
from bulk.mistakes import BadRow, TooManyErrors
from bulk.plan import Plan
from bulk.progress import Meter
from bulk.rows import Rows
from bulk.sinks import Sink
from bulk.sources.files import open_source
from bulk.sources.wanted import Source, Wanted
from service.api.problems import describe
from service.errors import LengthwiseError

Begun: TypeAlias = tuple[int, Rows, Callable[[], Encoded]]  # a shard's number, its rows, and what waits for their end


@dataclass(frozen=True, slots=True)
class Stages:
    """What a shard goes through.

    Attributes:
        wanted: says what is read of each row.
        encoder: encodes.
        sink: writes.
    """

    wanted: Wanted
    encoder: Encodes
    sink: Sink


@dataclass(frozen=True, slots=True)
class Bounds:
    """When to end early.

    Attributes:
        max_errors: rows that may fail; None for any number.
        stop: set to end after the shard in hand.
    """

    max_errors: int | None
    stop: threading.Event


class Endings:
    """Waits for shards that were begun, and has them written, one while the next is encoded."""

    def __init__(self, plan: Plan, stages: Stages, meter: Meter, bounds: Bounds) -> None:
        self.count = 0
        self._plan, self._stages, self._meter, self._bounds = plan, stages, meter, bounds
        self._writer = ThreadPoolExecutor(1, "writer")
        self._written: Future[None] | None = None

    def end(self, number: int, rows: Rows, wait: Callable[[], Encoded]) -> None:
        """End a shard, once the one before is written.

        Raises:
            BulkError: too much is wrong with its rows.
        """
        problems = [tell(self._plan, number, row, error) for row, error in rows.errors.items()]
        if problems and self._plan.options["on_error"] == "fail":
            first = problems[0]
            raise BadRow(first["file"], first["row"], first["problem"]["detail"])
        encoded = wait()
        self.wait()
        self._written = self._writer.submit(self._stages.sink.write, number, rows, encoded, problems)
        self._meter.add(self._plan.shards[number].rows, rows.steps, encoded.padded_steps, len(rows.errors))
        self.count += 1
        if self._bounds.max_errors is not None and self._meter.done.errors > self._bounds.max_errors:
            self.wait()
            raise TooManyErrors(self._meter.done.errors, self._bounds.max_errors)

    def wait(self) -> None:
        """Wait until what was ended is written."""
        if self._written:
            self._written.result()

    def close(self) -> None:
        """End the thread that writes, after the last shard."""
        self._writer.shutdown()


def run(plan: Plan, numbers: list[int], stages: Stages, meter: Meter, bounds: Bounds) -> int:
    """Encode shards that are not done.

    While one is encoded, the next is read and the one before is written, so three are in memory at most. The next is
    begun as soon as it is read, so that no CPU waits for the last batches of the one before.

    Args:
        plan: of all shards.
        numbers: of those to encode, ascending.
        stages: what each shard goes through.
        meter: is told of each shard.
        bounds: when to end early.

    Returns:
        How many were encoded.

    Raises:
        BulkError: an input cannot be read, or too much is wrong with its rows.
    """
    sources: dict[int, Source] = {}

    def read(number: int) -> Rows:
        shard = plan.shards[number]
        if shard.input not in sources:
            sources.clear()  # inputs are read one after the other
            sources[shard.input] = open_source(plan.inputs[shard.input], stages.wanted)
        return sources[shard.input].read(shard)

    begun: deque[Begun] = deque()
    with closing(Endings(plan, stages, meter, bounds)) as endings, ThreadPoolExecutor(1, "reader") as reader:
        upcoming = [reader.submit(read, number) for number in numbers[:1]]
        for place, number in enumerate(numbers, 1):
            rows = upcoming.pop().result()
            begun.append((number, rows, stages.encoder.begin(rows.sequences, tuple(plan.options["outputs"]))))
            if len(begun) > 1:
                endings.end(*begun.popleft())
            if bounds.stop.is_set():
                break
            upcoming = [reader.submit(read, number) for number in numbers[place : place + 1]]
        while begun:
            endings.end(*begun.popleft())
        endings.wait()
    return endings.count


def tell(plan: Plan, number: int, row: int, error: LengthwiseError) -> dict[str, Any]:
    """Tell of a row that cannot be encoded, as the service would."""
    shard = plan.shards[number]
    problem = describe(error, "").model_dump(exclude_none=True)
    del problem["request_id"]
    return {"file": plan.inputs[shard.input].path, "row": shard.start + row, "problem": problem}
