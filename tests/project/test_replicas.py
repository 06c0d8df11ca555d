"""The simulation of many replicas: nothing is lost in it, and it is the same each time."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.speed import replicas, simulated
from bench.speed.plot import draw_lines
from bench.speed.replicas import WAYS, simulate


@pytest.mark.parametrize("way", WAYS)
def test_every_request_is_answered_once_whatever_the_way(way: str) -> None:
    """With three replicas, each request that counts has one time, and no step is lost."""
    costs = simulated.make_costs()
    some = simulated.make_replicas(3, costs)
    requests = simulated.draw_requests(200, 1)
    arrivals = [*simulated.draw_arrivals(200, 900.0, 1, is_bursty=True)]
    found = simulated.Simulation(some, WAYS[way](some, costs), 1).run(requests, iter(arrivals))
    assert len(found.seconds) == 200 * (1 - simulated.WARM_SHARE)
    assert min(found.seconds) > 0
    assert found.valid == sum(map(sum, requests))
    assert found.rows == sum(map(len, requests))
    assert [one.inflight for one in some] == [0, 0, 0]
    assert found.end >= arrivals[-1]


def test_a_simulation_is_the_same_each_time() -> None:
    """Nothing in it depends on this machine's clock."""
    first, second = (simulate(2, "two choices, in flight", 0.5, 100, is_bursty=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("is_bursty", [False, True])
def test_arrivals_keep_their_rate(is_bursty: bool) -> None:  # noqa: FBT001 - what is told apart
    """Bursts change when requests come, and not how many come in the long run; they come more unevenly."""
    arrivals = np.array([*simulated.draw_arrivals(60_000, 1000.0, 3, is_bursty=is_bursty)])
    assert arrivals[-1] == pytest.approx(60.0, rel=0.1)  # 240 bursts
    assert (np.diff(arrivals) >= 0).all()
    counts = np.histogram(arrivals, bins=np.arange(0, 60, 0.05))[0]
    assert (counts.var() / counts.mean() > 5) == is_bursty  # 1 if arrivals know nothing of each other


def test_two_choices_beat_chance() -> None:
    """The simulation finds what has long been proven: the slow tail is shorter if the less busy of two is taken."""
    chance, choices = (simulate(10, way, 0.6, 800, is_bursty=False) for way in ("at random", "two choices, in flight"))
    assert choices["p99_ms"] < chance["p99_ms"]


def test_requests_of_one_length_stay_together() -> None:
    """Routed by length, no replica gets both the shortest and the longest, and each gets about the same work."""
    costs = simulated.make_costs()
    some = simulated.make_replicas(4, costs)
    route, work = WAYS["by length"](some, costs), dict.fromkeys(range(4), 0.0)
    longest: dict[int, list[int]] = {place: [] for place in range(4)}
    for lengths in simulated.draw_requests(2000, 5):
        place = some.index(route(0.0, lengths))
        longest[place].append(max(lengths))
        work[place] += simulated.weigh(lengths, costs)
    ranges = [(min(found), max(found)) for found in longest.values()]
    assert ranges == sorted(ranges)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))
    assert max(work.values()) < 1.6 * min(work.values())


def test_the_report_has_a_table_a_plot_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line is JSON; the plot has each way's name."""
    monkeypatch.setattr(replicas, "LEAST_REQUESTS", 1000)
    monkeypatch.setattr(replicas, "REQUESTS_EACH", 1)
    replicas.main(["--quick", "--replicas", "1", "2", "--ways", "at random", "by length", "--plots", str(tmp_path)])
    printed = capsys.readouterr().out
    document = json.loads(printed.splitlines()[-1])
    assert document["Bursts"]["by length"]["2"]["p99_ms"] > 0
    assert "Random arrivals:" in printed
    assert ">by length<" in (tmp_path / "replicas.svg").read_text(encoding="utf-8")


def test_places_can_be_laid_out_by_their_logarithms() -> None:
    """10 is half way to 100, and 1 stands at the axis."""
    svg = draw_lines("t", "ms", {"p": {"a": {1: 1.0, 10: 1.0, 100: 1.0}}}, "a", is_logarithmic=True)
    assert 'points="70.0,' in svg
    assert " 280.0," in svg
    assert " 490.0," in svg
