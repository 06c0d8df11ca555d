"""Counts what happens to requests and batches; `service.observing.prometheus` writes the counts for Prometheus.

All of it is counted on the event loop, so plain numbers do: the counters of a metrics library would take a lock and
walk over the buckets ten times a request. Requests and batches that end are noted first, and counted several at a time:
after a run the CPU's caches hold none of this code, and counting each request alone takes several times as long.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from service.batching.batches import Target
from service.batching.jobs import CutReason, HangUpStage, Run
from service.observing.statistics import Statistics

# What became of an artifact.
Change: TypeAlias = Literal["loaded", "refused", "unloaded"]

SECONDS = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
ROWS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0)
STEPS = tuple(4.0**power for power in range(10))  # 1 to 262,144

KEPT_BATCHES = 100
MOST_NOTED = 64  # requests, or batches, that are noted before all are counted
NOTED_SECONDS = 0.1  # after which fewer are counted, too
TICK_SECONDS = 1.0  # between two looks at how late the event loop is
UNANSWERED = 499  # the status if nobody was left to answer; nginx has it, too
HUNG_UP = "hung-up"  # the problem of a request whose client hung up
FIRST_ERROR = 400  # the least status that is an error
OTHER = "other"  # the route of all paths that are not in the document, of which there is no end


Closed: TypeAlias = Literal["idle", "unread"]  # why a connection made room for others
Fate: TypeAlias = tuple[str, str, str, str, int, str | None]  # a model, its version, method, route, status, problem
Spent: TypeAlias = Sequence[Sequence[float]]  # seconds of some requests: of the whole, and of each stage; or empty


_FATE_OF: Callable[["Exchange"], Fate] = attrgetter("model", "version", "method", "route", "status", "problem")


class Stages(NamedTuple):
    """How much was encoded for a request, and the seconds each stage took.

    Attributes:
        sequences: n, the number of sequences.
        steps: their valid steps, all together.
        decode: seconds from bytes to sequences.
        queue: seconds from arrival to the first run.
        run: seconds from the first run to the last embedding.
        encode: seconds from embeddings to bytes.
    """

    sequences: int
    steps: int
    decode: float
    queue: float
    run: float
    encode: float


@dataclass(slots=True)
class Exchange:
    """A request and what became of it, filled in on its way.

    Attributes:
        request_id: the client's own id, or a new one.
        model: the name of the model it asked for; empty if it named none, or none that is served.
        version: that model's version; empty likewise.
        method: its HTTP method.
        route: its path, as the document has it.
        is_probe: whether monitors ask it again and again: it is not traced, and logged at the level debug only.
        status: the status that was sent.
        problem: the name of the problem that it was answered with; None if there was none.
        stages: how much was encoded, and when; None if nothing was.
        seconds: the time from its arrival to the end of its answer.
        ended: when its answer ended, in seconds since 1970.
        trace_id: the id of its trace; None if it is not traced.
        span: its span; None if it is not traced.
        origin: the mark by which batches are linked to its span; None if it is not traced.
        key: the hash of the key it brought, if it needed one; never shown to others.
    """

    request_id: str
    method: str
    route: str = OTHER
    model: str = ""
    status: int = UNANSWERED
    problem: str | None = None
    stages: Stages | None = None
    seconds: float = 0.0
    ended: float = 0.0
    version: str = ""
    trace_id: str | None = None
    span: object = None
    origin: object = None
    key: bytes = b""
    is_probe: bool = False

    @property
    def outcome(self) -> str:
        """What became of the request, in a word or two."""
        if self.problem:
            return self.problem
        if self.status == UNANSWERED:
            return "unanswered"
        return "answered" if self.status < FIRST_ERROR else "refused"


class EndedBatch(NamedTuple):
    """A batch that ended, without anything that its requests brought.

    Attributes:
        model: the name of the model that ran it.
        ended: when it ended, in seconds since 1970.
        lengths: the lengths of its sequences, shortest first, an empty one counting as 1.
        steps: T, the length that each was padded to.
        why: what kept it from being larger.
        expected_seconds: the time it should have taken.
        seconds: the time it took.
        failed: the number of sequences that the model gave no embedding for.
        version: the model's.
        places: how many sequences its queue had taken before each of its own: their order of arrival.
    """

    model: str
    ended: float
    lengths: list[int]
    steps: int
    why: CutReason
    expected_seconds: float
    seconds: float
    failed: int
    version: str
    places: list[int]


class Histogram:
    """For each bound, how many values were at most that; and the sum of all values."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Set the bounds, ascending."""
        self._bounds = np.array(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self.sum = 0.0

    def observe(self, *values: float) -> None:
        """Count some values."""
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self.sum += sum(values)

    @property
    def count(self) -> int:
        """The number of values."""
        return int(self._counts.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound, the last of which is infinity, with the number of values that are at most that."""
        return [*zip([*map(str, self._bounds.tolist()), "+Inf"], accumulate(self._counts.tolist()), strict=True)]


class Counts:
    """The counts of one model since the start, all its versions together.

    Attributes:
        rejected: requests that were answered with a problem, by its name.
        cancelled: requests whose client hung up, by how far they had come.
        changes: artifacts that were loaded, refused or unloaded.
        request_seconds: the time from arrival to the end of the answer, of requests that were encoded.
        stage_seconds: the time of each stage, of the same requests.
        batch_sequences: the rows of each batch.
        batch_steps: the padded steps of each batch.
        valid_steps, padded_steps: the steps of all batches together.
        run_seconds: the time of all batches together.
        nonfinite: sequences whose embedding was not finite.
        known_tokens, unknown_tokens: tokens of texts, by whether the tokenizer knew them.
        is_told: whether a warning about too many unknown tokens was logged.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        """Count from zero."""
        self.rejected = dict.fromkeys(problems, 0)
        self.cancelled: dict[HangUpStage, int] = {"body": 0, "queue": 0, "run": 0, "answer": 0}
        self.changes: dict[Change, int] = {"loaded": 0, "refused": 0, "unloaded": 0}
        self.request_seconds = Histogram(SECONDS)
        self.stage_seconds = {stage: Histogram(SECONDS) for stage in ("decode", "queue", "run", "encode")}
        self.batch_sequences = Histogram(ROWS)
        self.batch_steps = Histogram(STEPS)
        self.valid_steps = self.padded_steps = 0
        self.run_seconds = 0.0
        self.nonfinite = 0
        self.known_tokens = self.unknown_tokens = 0
        self.is_told = False

    def count(self, exchanges: Sequence[Exchange], problem: str | None, spent: Spent) -> None:
        """Count requests that had the same problem or none, and the time of those that were encoded."""
        if problem in self.rejected:
            self.rejected[problem] += len(exchanges)
        for histogram, seconds in zip((self.request_seconds, *self.stage_seconds.values()), spent, strict=False):
            histogram.observe(*seconds)

    def count_batches(self, batches: Sequence[EndedBatch], sequences: int, seconds: float) -> None:
        """Count batches of so many sequences each, which took so long together."""
        padded = [sequences * batch.steps for batch in batches]
        self.batch_sequences.observe(*[sequences] * len(batches))
        self.batch_steps.observe(*padded)
        self.valid_steps += sum([sum(batch.lengths) for batch in batches])
        self.padded_steps += sum(padded)
        self.run_seconds += seconds


class Telemetry:
    """All counts since the start, and the last batches.

    Attributes:
        models: the counts of each model, by name; under the empty name, those of requests for no model that is served.
        requests: requests that ended, by model, route and status.
        inflight: requests under way.
        loop_lag: the seconds that the event loop was late for a timer.
        batches: the last batches, oldest first.
        closed: connections that were closed to make room: `idle` ones, and those with too much `unread`.
        statistics: the figures of each version of each model, by name and version.
        witnesses: functions that are given the requests that ended.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        """Count from zero.

        Args:
            problems: the names of all problems, so that each has a count of 0 before it happens.
        """
        self.witnesses: list[Callable[[Sequence[Exchange]], None]] = []
        self._problems = tuple(problems)
        self._exchanges: list[Exchange] = []  # ended, and not counted yet
        # Batches likewise: model, version, when it ended, the run, the seconds it took, failed rows.
        self._runs: list[tuple[str, str, float, Run, float, int]] = []
        self.models: dict[str, Counts] = {"": Counts(self._problems)}
        self.statistics: defaultdict[tuple[str, str], Statistics] = defaultdict(Statistics)
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.inflight = 0
        self.closed: dict[Closed, int] = {"idle": 0, "unread": 0}
        self.loop_lag = Histogram(SECONDS)
        self.batches: deque[EndedBatch] = deque(maxlen=KEPT_BATCHES)

    def of(self, model: str) -> Counts:
        """Return the counts of a model."""
        if (counts := self.models.get(model)) is None:
            counts = self.models[model] = Counts(self._problems)
        return counts

    def see_exchange(self, exchange: Exchange, seconds: float) -> None:
        """Note a request that ended, and how long it took."""
        exchange.seconds = seconds
        exchange.ended = time.time()
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            asyncio.get_running_loop().call_later(NOTED_SECONDS, self.settle)
        elif len(self._exchanges) >= MOST_NOTED:
            self.settle()

    def see_batch(self, model: Target, run: Run, seconds: float, failed: int, nonfinite: int) -> None:
        """Note a batch that ended, how long it took, and how many of its sequences have no embedding."""
        self._runs.append((model.name, model.version, time.time(), run, seconds, failed))
        if nonfinite:
            self.of(model.name).nonfinite += nonfinite
        if len(self._runs) >= MOST_NOTED:
            self.settle()

    def settle(self) -> None:
        """Count what was noted, and give the requests to the witnesses."""
        self._settle_batches()
        exchanges, self._exchanges = self._exchanges, []
        alike: defaultdict[Fate, list[Exchange]] = defaultdict(list)
        for exchange in exchanges:
            alike[_FATE_OF(exchange)].append(exchange)
        for (model, version, method, route, status, problem), some in alike.items():
            self.requests[model, route, status] += len(some)
            encoded = [(exchange.seconds, *exchange.stages[2:]) for exchange in some if exchange.stages]
            spent = [*zip(*encoded, strict=True)]
            self.of(model).count(some, problem, spent)
            if version and method == "POST":  # other methods ask about a model, and do not use it
                if problem:
                    seconds = sum([exchange.seconds for exchange in some])
                    self.statistics[model, version].count_failures(len(some), seconds)
                elif encoded:
                    self.statistics[model, version].count_answers(len(encoded), *map(sum, spent))
        for show in self.witnesses:
            show(exchanges)

    def _settle_batches(self) -> None:
        runs, self._runs = self._runs, []
        alike: defaultdict[tuple[str, str, int], list[EndedBatch]] = defaultdict(list)
        for model, version, ended, run, seconds, failed in runs:
            lengths = [entry.steps for entry in run.entries]
            places = [entry.job.first + entry.row for entry in run.entries]
            batch = EndedBatch(
                model, ended, lengths, run.steps, run.why, run.expected_seconds, seconds, failed, version, places
            )
            self.batches.append(batch)
            alike[model, version, len(lengths)].append(batch)
        for (model, version, sequences), batches in alike.items():
            seconds, failed = sum([one.seconds for one in batches]), sum([one.failed for one in batches])
            self.of(model).count_batches(batches, sequences, seconds)
            self.statistics[model, version].count_batches(len(batches), sequences, failed, seconds, batches[-1].ended)

    def see_cancelled(self, model: str, where: HangUpStage) -> None:
        """Count a request that nobody waits for any more."""
        self.of(model).cancelled[where] += 1

    def see_closed(self, why: Closed) -> None:
        """Count a connection that was closed to make room."""
        self.closed[why] += 1

    def see_hang_up(self, exchange: Exchange) -> None:
        """Note that a request's client hung up, and count it unless the engine has."""
        if exchange.problem is None:
            self.see_cancelled(exchange.model, "body" if exchange.status == UNANSWERED else "answer")
        exchange.problem = HUNG_UP

    def see_change(self, model: str, change: Change) -> None:
        """Count an artifact that was loaded, unloaded or refused."""
        self.of(model).changes[change] += 1

    async def time_loop(self) -> None:
        """Measure how late the event loop is, again and again until this is cancelled."""
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.loop_lag.observe(max(0.0, time.perf_counter() - due))
