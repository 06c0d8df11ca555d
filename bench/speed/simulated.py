"""Replicas of the service under a simulated clock: the real queues decide what runs, and nothing runs.

What a run takes is what the costs say, with noise. What Python takes to read and write a request is left out.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeAlias

import numpy as np

from service.batching.jobs import Job, Run
from service.batching.queue import Bounds, Queue
from service.batching.sharing import Queues
from service.costs.model import CostModel

RUNNERS = 2  # of a replica, one for each of its CPUs
NOISE = 0.1  # standard deviation of the logarithm of what a run takes, over what it should
LARGE_SHARE, LARGE_ROWS = 0.1, 8  # requests that hold several sequences, and how many
BURST_SHARE, BURST_RATE, BURST_SECONDS = 0.2, 2.5, 0.05  # of the time, of the usual rate, of a burst on average
WARM_SHARE = 0.2  # of the requests, which are not counted
TOLD_SECONDS = 0.1  # how often replicas tell their drain


@dataclass(slots=True)
class Sent:
    """A request under way: its arrival, its replica, and how many of its sequences still wait for an embedding."""

    arrived: float
    replica: "Replica"
    left: int
    is_counted: bool


@dataclass(slots=True)
class Replica:
    """One service.

    Attributes:
        queues: its queues, as the service has them.
        queue: the queue of its one model.
        inflight: requests that have no answer yet.
        told: its drain in seconds when it last told it.
    """

    queues: Queues
    queue: Queue
    inflight: int = 0
    told: float = 0.0

    def drain(self, now: float) -> float:
        """Return in how many seconds all that waits has a runner."""
        return self.queues.forecast(self.queue, now).seconds


Route: TypeAlias = Callable[[float, Sequence[int]], Replica]  # from now and a request's lengths to its replica


@dataclass(slots=True)
class Found:
    """What came of a simulation.

    Attributes:
        seconds: from arrival to answer, of each request that counts.
        padded, valid: steps of all runs.
        rows, runs: sequences in all runs, and the runs.
        busy: runner-seconds of all runs.
        end: when the last run was over.
    """

    seconds: list[float] = field(default_factory=list)
    padded: int = 0
    valid: int = 0
    rows: int = 0
    runs: int = 0
    busy: float = 0.0
    end: float = 0.0


def make_costs() -> CostModel:
    """Return the costs of one CPU for an LSTM of 128 features and 256 units in each direction.

    It does 840 sequences of 50 steps a second alone, and 1,700 in batches of 32, as was measured.
    """
    shapes = [(rows, steps) for rows in (1, 2, 4, 8, 16, 32) for steps in (1, 32, 256, 2048)]
    return CostModel({(rows, steps): 2e-5 + steps * (1.2e-5 + 1.15e-5 * rows) for rows, steps in shapes}, 32)


def make_replicas(number: int, costs: CostModel) -> list[Replica]:
    """Return so many idle replicas, on machines whose runs cost the same."""
    bounds = Bounds(max_batch_steps=16_384, max_queue_steps=10_000_000)
    every = [Queues(RUNNERS) for _ in range(number)]
    return [Replica(queues, queues.open(costs, bounds)) for queues in every]


def draw_requests(number: int, seed: int) -> list[list[int]]:
    """Draw the lengths of the sequences of each request: log-normal, median 100, at most 2,000."""
    draw = np.random.default_rng(seed)
    rows = np.where(draw.random(number) < LARGE_SHARE, LARGE_ROWS, 1)
    lengths = draw.lognormal(math.log(100), 1.0, int(rows.sum())).clip(1, 2000).astype(int)
    return [part.tolist() for part in np.split(lengths, rows.cumsum()[:-1])]


def weigh(lengths: Sequence[int], costs: CostModel) -> float:
    """Return the runner-seconds of a request among requests of its lengths."""
    return sum(map(costs.share, lengths))


def draw_arrivals(number: int, rate: float, seed: int, *, is_bursty: bool) -> Iterator[float]:
    """Yield when requests come: at random at this rate; or in bursts, with the same rate on average."""
    draw = np.random.default_rng(seed)
    now = change = 0.0
    is_burst, calm_rate = True, (1 - BURST_SHARE * BURST_RATE) / (1 - BURST_SHARE)
    for _ in range(number):
        left = draw.exponential(1 / rate)
        while is_bursty:
            speed = BURST_RATE if is_burst else calm_rate
            if now + left / speed <= change:
                left /= speed
                break
            left -= max(0.0, change - now) * speed
            now = max(now, change)
            is_burst = not is_burst
            change = now + draw.exponential(BURST_SECONDS * (1 if is_burst else 1 / BURST_SHARE - 1))
        now += left
        yield now


class Simulation:
    """Requests that come to replicas, and runs that end."""

    def __init__(self, replicas: list[Replica], route: Route, seed: int) -> None:
        """Begin at time 0."""
        self.found = Found()
        self._replicas, self._route = replicas, route
        self._ends: list[tuple[float, int, Replica, Run, float]] = []
        self._started = 0
        self._told_at = 0.0
        self._draw = np.random.default_rng(seed)

    def run(self, requests: Sequence[list[int]], arrivals: Iterator[float]) -> Found:
        """Send each request when it comes, until all have their answers."""
        warm = WARM_SHARE * len(requests)
        for place, (lengths, now) in enumerate(zip(requests, arrivals, strict=True)):
            self._advance(now)
            replica = self._route(now, lengths)
            sent = Sent(now, replica, len(lengths), place >= warm)
            replica.inflight += 1
            replica.queues.submit(replica.queue, Job(lengths, origin=sent), now)
            self._start(replica, now)
        self._advance(math.inf)
        return self.found

    def _advance(self, now: float) -> None:
        """End the runs that are over by now, and let the replicas tell their drain when it is time."""
        while self._ends and self._ends[0][0] <= now:
            end, _, replica, run, seconds = heappop(self._ends)
            self._tell(end)
            self.found.end = end
            replica.queues.update(run, seconds)
            self._answer(replica, run, end)
            self._start(replica, end)
        self._tell(now)

    def _tell(self, now: float) -> None:
        if self._told_at + TOLD_SECONDS <= now < math.inf:
            self._told_at = now
            for replica in self._replicas:
                replica.told = replica.drain(now)

    def _start(self, replica: Replica, now: float) -> None:
        for run in replica.queues.schedule(now):
            rows = len(run.entries)
            seconds = run.measured_seconds * self._draw.lognormal(0.0, NOISE)
            self._started += 1
            heappush(self._ends, (now + seconds, self._started, replica, run, seconds))
            self.found.padded += rows * run.steps
            self.found.valid += sum(entry.steps for entry in run.entries)
            self.found.rows += rows
            self.found.runs += 1
            self.found.busy += seconds

    def _answer(self, replica: Replica, run: Run, now: float) -> None:
        """Count the requests of which nothing is left."""
        for entry in run.entries:
            sent: Sent = entry.job.origin  # type: ignore[assignment]
            sent.left -= 1
            if not sent.left:
                replica.inflight -= 1
                if sent.is_counted:
                    self.found.seconds.append(now - sent.arrived)
