"""Shards read, encoded and written at the same time, until all are done or somebody says stop."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bulk.encoder import Encoded, Encodes
from bulk.mistakes import BadRow, TooManyErrors
from bulk.plan import Plan
from bulk.progress import Meter
from bulk.rows import Rows
from bulk.sinks.sink import Sink
from bulk.sources.files import open_source, require_same
from bulk.sources.wanted import Source, Wanted
from service.api.problems import describe
from service.errors import LengthwiseError

WRITTEN_AT_ONCE = 2

Begun: TypeAlias = tuple[int, Rows, Callable[[], Encoded]]  # a shard's number, its rows, and what waits for their end


@dataclass(frozen=True, slots=True)
class Stages:
    """What a shard goes through.

    Attributes:
        wanted: says what is read of each row.
        encoder: encodes.
        sink: writes.
        sources: the open input, by its number; the next shard may begin where reading it stopped.
    """

    wanted: Wanted
    encoder: Encodes
    sink: Sink
    sources: dict[int, Source] = field(default_factory=dict)


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
    """Waits for shards that were begun, and has them written while the next ones are encoded."""

    def __init__(self, plan: Plan, stages: Stages, meter: Meter, bounds: Bounds) -> None:
        self.count = 0
        self._plan, self._stages, self._meter, self._bounds = plan, stages, meter, bounds
        self._writers = ThreadPoolExecutor(WRITTEN_AT_ONCE, "writer")
        self._written: deque[Future[None]] = deque()

    def end(self, number: int, rows: Rows, wait: Callable[[], Encoded]) -> None:
        """End a shard: have it written, once few others are.

        Raises:
            BulkError: too much is wrong with its rows.
        """
        problems = [tell(self._plan, number, row, error) for row, error in rows.errors.items()]
        if problems and self._plan.options["on_error"] == "fail":
            first = problems[0]
            raise BadRow(first["file"], first["row"], first["problem"]["detail"])
        encoded = wait()
        rows.sequences.clear()  # what is written needs no more of them than their lengths
        self.wait(WRITTEN_AT_ONCE - 1)
        self._written.append(self._writers.submit(self._stages.sink.write, number, rows, encoded, problems))
        self._meter.add(
            self._plan.shards[number].rows, int(encoded.lengths.sum()), encoded.padded_steps, len(rows.errors)
        )
        self.count += 1
        if self._bounds.max_errors is not None and self._meter.done.errors > self._bounds.max_errors:
            self.wait()
            raise TooManyErrors(self._meter.done.errors, self._bounds.max_errors)

    def wait(self, most: int = 0) -> None:
        """Wait until no more than so many shards that were ended are not written."""
        while len(self._written) > most:
            self._written.popleft().result()

    def close(self) -> None:
        """End the threads that write, after the last shard."""
        self._writers.shutdown()


def run(plan: Plan, numbers: list[int], stages: Stages, meter: Meter, bounds: Bounds) -> int:
    """Encode shards that are not done.

    Two are encoded, so that no CPU waits for the last batches of the first. Meanwhile the next is read, and up to two
    that were before are written. So at most five are in memory.

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
    sources = stages.sources

    def read(number: int) -> Rows:
        shard = plan.shards[number]
        one = plan.inputs[shard.input]
        if shard.input not in sources:
            sources.clear()  # inputs are read one after the other
            sources[shard.input] = open_source(one, stages.wanted)
        rows = sources[shard.input].read(shard)
        require_same(one)
        return rows

    begun: deque[Begun] = deque()
    upcoming: deque[Future[Rows]] = deque()
    with closing(Endings(plan, stages, meter, bounds)) as endings, ThreadPoolExecutor(1, "reader") as reader:
        upcoming.extend(reader.submit(read, number) for number in numbers[:1])
        for place, number in enumerate(numbers, 1):
            rows = upcoming.popleft().result()
            upcoming.extend(reader.submit(read, number) for number in numbers[place : place + 1])
            begun.append((number, rows, stages.encoder.begin(rows.sequences, tuple(plan.options["outputs"]))))
            if len(begun) > 1:
                endings.end(*begun.popleft())
            if bounds.stop.is_set():
                break
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
