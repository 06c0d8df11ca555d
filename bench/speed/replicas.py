"""`python -m bench replicas`: how long requests take with many replicas, by how they are routed; simulated.

The service's own queues run under a simulated clock, 1 to 1,000 of them, at a share of what they can do. Requests come
at random or in bursts. Prints a table for each, and ends with one JSON line; with `--plots`, it draws replicas.svg.
"""

import argparse
import json
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bench.speed.plot import draw_lines
from bench.speed.report import align
from bench.speed.simulated import (
    RUNNERS,
    Found,
    Replica,
    Route,
    Simulation,
    draw_arrivals,
    draw_requests,
    make_costs,
    make_replicas,
    weigh,
)
from service.costs.model import CostModel

COUNTS = (1, 3, 10, 30, 100, 300, 1000)
QUICK_COUNTS = (1, 10, 100)
LEAST_REQUESTS, REQUESTS_EACH, MOST_REQUESTS = 20_000, 500, 200_000
SEED = 7

Figures: TypeAlias = dict[str, float]
MakeRoute: TypeAlias = Callable[[list[Replica], CostModel], Route]

KINDS = {"Random arrivals": False, "Bursts": True}
FAR = 5  # times the least p99 of all replicas: what is slower by more is not drawn

_INFLIGHT, _TOLD = attrgetter("inflight"), attrgetter("told")


def route_at_random(replicas: list[Replica], _costs: CostModel) -> Route:
    """Send each request to any replica."""
    pick = _Dice(len(replicas))
    return lambda _now, _lengths: replicas[pick()]


def route_by_two_choices(replicas: list[Replica], _costs: CostModel) -> Route:
    """Send each request to the one of two replicas that has fewer requests in flight."""
    pick = _Dice(len(replicas))
    return lambda _now, _lengths: min(replicas[pick()], replicas[pick()], key=_INFLIGHT)


def route_by_two_drains(replicas: list[Replica], _costs: CostModel) -> Route:
    """Send each request to the one of two replicas whose drain is less at this moment."""
    pick = _Dice(len(replicas))
    return lambda now, _lengths: min(replicas[pick()], replicas[pick()], key=lambda one: one.drain(now))


def route_by_two_told(replicas: list[Replica], _costs: CostModel) -> Route:
    """Send each request to the one of two replicas that told the lesser drain."""
    pick = _Dice(len(replicas))
    return lambda _now, _lengths: min(replicas[pick()], replicas[pick()], key=_TOLD)


def route_by_least_told(replicas: list[Replica], _costs: CostModel) -> Route:
    """Send each request to the replica of all that told the least drain; among equals to any."""
    pick = _Dice(len(replicas))

    def route(_now: float, _lengths: Sequence[int]) -> Replica:
        start = pick()
        return min(replicas[start:] + replicas[:start], key=_TOLD)

    return route


def route_by_length(replicas: list[Replica], costs: CostModel) -> Route:
    """Give each replica requests of its own lengths, so that all have the same work."""
    sample = draw_requests(20_000, SEED + 1)
    longest, weights = zip(*sorted((max(lengths), weigh(lengths, costs)) for lengths in sample), strict=True)
    shares = np.cumsum(weights) / sum(weights)
    bounds = [longest[int(np.searchsorted(shares, place / len(replicas)))] for place in range(1, len(replicas))]
    pick = _Dice(len(replicas))

    def route(_now: float, lengths: Sequence[int]) -> Replica:
        # With many replicas, several have the same length; any of them will do.
        first = bisect_left(bounds, max(lengths))
        last = bisect_left(bounds, max(lengths) + 1)
        return replicas[first + pick() % (last - first + 1)]

    return route


WAYS: dict[str, MakeRoute] = {
    "at random": route_at_random,
    "two choices, in flight": route_by_two_choices,
    "two choices, drain now": route_by_two_drains,
    "two choices, drain told": route_by_two_told,
    "least drain told": route_by_least_told,
    "by length": route_by_length,
}


class _Dice:
    """Draws places, many at a time, which is faster."""

    def __init__(self, most: int) -> None:
        self._most, self._draw = most, np.random.default_rng(SEED)
        self._drawn: list[int] = []

    def __call__(self) -> int:
        if not self._drawn:
            self._drawn = self._draw.integers(0, self._most, 4096).tolist()
        return self._drawn.pop()


def simulate(count: int, way: str, load: float, requests: int, *, is_bursty: bool) -> Figures:
    """Send requests to so many replicas, routed in one way.

    Args:
        count: of replicas.
        way: one of `WAYS`.
        load: the share of the runners' time that requests take if each run is full.
        requests: how many.
        is_bursty: whether they come in bursts.
    """
    costs = make_costs()
    replicas, drawn = make_replicas(count, costs), draw_requests(requests, SEED)
    mean = sum(weigh(lengths, costs) for lengths in drawn) / requests
    rate = load * RUNNERS * count / mean
    arrivals = draw_arrivals(requests, rate, SEED, is_bursty=is_bursty)
    found = Simulation(replicas, WAYS[way](replicas, costs), SEED).run(drawn, arrivals)
    return summarize(found, RUNNERS * count)


def summarize(found: Found, runners: int) -> Figures:
    """Return the figures of a simulation with so many runners."""
    seconds = np.array(found.seconds)
    return {
        "p50_ms": 1000 * float(np.percentile(seconds, 50)),
        "p99_ms": 1000 * float(np.percentile(seconds, 99)),
        "padding": found.padded / found.valid,
        "rows": found.rows / found.runs,
        "busy": found.busy / (found.end * runners),
    }


def count_requests(replicas: int, *, is_quick: bool) -> int:
    """Return how many requests are sent to so many replicas."""
    requests = max(LEAST_REQUESTS, min(MOST_REQUESTS, REQUESTS_EACH * replicas))
    return requests // 10 if is_quick else requests


def render(heading: str, figures: dict[str, dict[int, Figures]]) -> str:
    """Write the table of one kind of arrivals."""
    counts = [*next(iter(figures.values()))]
    rows = [["p50 / p99 in ms, by replicas", *(f"{count:,}" for count in counts), "padding", "rows a run"]]
    for way, found in figures.items():
        last = found[counts[-1]]
        cells = [f"{found[count]['p50_ms']:.1f} / {found[count]['p99_ms']:.0f}" for count in counts]
        rows.append([way, *cells, f"{last['padding']:.2f}", f"{last['rows']:.1f}"])
    return "\n".join([f"{heading}:", *align(rows)])


def draw(kinds: Mapping[str, Mapping[str, Mapping[int, Figures]]], load: float) -> str:
    """Draw p99 by replicas, a panel for each kind of arrivals, without the ways that are off the scale."""
    panels = {}
    for heading, figures in kinds.items():
        lines = {way: {count: one["p99_ms"] for count, one in found.items()} for way, found in figures.items()}
        least = min(line[max(line)] for line in lines.values())
        panels[heading] = {way: line for way, line in lines.items() if line[max(line)] < FAR * least}
    drawn = set.intersection(*map(set, panels.values()))
    panels = {heading: {way: line for way, line in lines.items() if way in drawn} for heading, lines in panels.items()}
    title = f"p99 by replicas at {load:.0%} load, simulated"
    return draw_lines(title, "ms", panels, "two choices, in flight", is_logarithmic=True)


def main(arguments: list[str] | None = None) -> None:
    """Simulate what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench replicas", description=__doc__)
    parser.add_argument("--replicas", nargs="+", type=int, metavar="N", help="1 to 1,000 by default")
    parser.add_argument("--load", type=float, default=0.7, help="share of what the replicas can do; 0.7")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--quick", action="store_true", help="fewer replicas, and a tenth of the requests")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write replicas.svg there")
    options = parser.parse_args(arguments)
    counts = options.replicas or (QUICK_COUNTS if options.quick else COUNTS)
    began = time.monotonic()
    document: dict[str, Any] = {"bench": "replicas", "load": options.load}
    for heading, is_bursty in KINDS.items():
        figures: dict[str, dict[int, Figures]] = {way: {} for way in options.ways}
        for count in counts:
            requests = count_requests(count, is_quick=options.quick)
            for way in options.ways:
                figures[way][count] = simulate(count, way, options.load, requests, is_bursty=is_bursty)
                sys.stderr.write(f"{heading}, {count} replicas, {way}: {time.monotonic() - began:.0f} s\n")
        print(render(heading, figures), end="\n\n", flush=True)
        document[heading] = figures
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        svg = draw({heading: document[heading] for heading in KINDS}, options.load)
        (options.plots / "replicas.svg").write_text(svg, encoding="utf-8")
    print(json.dumps(document))
