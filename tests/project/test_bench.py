"""The benchmark's own parts: what it sends, counts and prints; never how long anything takes."""

import ast
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import orjson
import pytest

from bench import __main__ as entry
from bench.load import drive, generator
from bench.load.generator import Outcome, ask, draw_arrivals, run_closed, run_open
from bench.load.servers import (
    ALONE,
    MOSEC,
    OURS,
    OURS_BINARY,
    PEERS,
    Server,
    Unavailable,
    find_family,
    find_port,
    start,
)
from bench.load.watch import Watch, spent_seconds
from bench.load.workloads import (
    JSON,
    KSERVE_BINARY,
    KSERVE_JSON,
    MODELS,
    WORKLOADS,
    Wire,
    Workload,
    draw_lengths,
    draw_requests,
    draw_sequences,
    post,
)
from bench.speed import codecs, gpu, ledger, raw, scale, tune
from bench.speed.bytecodes import count_bytecodes
from bench.speed.measure import DrawnWorkload, Pace, check, draw_workloads, measure_raw, measure_server, padding_ratio
from bench.speed.plot import draw_bars, draw_lines
from bench.speed.report import Results, compare, render, take_medians
from bench.speed.service import SERVERS, parse_arguments, plan_round, summarize
from bench.stress import chaos, fairness, faulty, many, overload, soak
from service.costs.cpus import available_cpus
from service.encoder.sequences import Batch
from service.encoder.session import open_session
from tests.made import make_wide

NEED_TORCH = {"distil", "models", "training"}  # these are run by tests/export
NEEDS_WRK = pytest.mark.skipif(drive.WRK is None, reason="wrk is not installed")


class Answerer:
    """An HTTP server that answers a request's own body; `drop` hangs up on it, and a number answers that status."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:  # it may hang up at any time
            while head := lines.readline():
                length = 0
                while head.strip():
                    if head.lower().startswith(b"content-length:"):
                        length = int(head.split(b":")[1])
                    head = lines.readline()
                body = lines.read(length)
                self.bodies.append(body)
                if body == b"drop":
                    return
                status = body if body.isdigit() else b"200"
                answer = b"HTTP/1.1 %b X\r\nContent-Type: x\r\ncontent-LENGTH: %d\r\n\r\n%b" % (status, length, body)
                connection.sendall(answer[:20])  # in pieces, as a network may deliver it
                connection.sendall(answer[20:])


@pytest.fixture
def answerer() -> Iterator[Answerer]:
    """A running one."""
    running = Answerer()
    yield running
    running.close()


def test_a_request_is_answered_whole(answerer: Answerer) -> None:
    """Status and body come back, also of a body larger than any socket's buffer."""
    assert ask(answerer.port, post("/", b"hello")) == ("200", b"hello")
    large = b"x" * 20_000_000
    assert ask(answerer.port, post("/", large)) == ("200", large)


def test_a_closed_loop_counts_every_request(answerer: Answerer) -> None:
    """Each request the server saw is answered or failed, by its status; each answer is kept under its index."""
    requests = [post("/", body) for body in (b"a", b"503", b"b")]
    outcome = run_closed(answerer.port, requests, connections=3, seconds=0.05)
    assert Counter(outcome.failures) == Counter({"503": answerer.bodies.count(b"503")})  # maybe none
    assert len(outcome.latencies) == len(answerer.bodies) - answerer.bodies.count(b"503")
    assert outcome.answers == {index: body for index, body in ((0, b"a"), (2, b"b")) if body in answerer.bodies}
    assert outcome.rate == len(outcome.latencies) / outcome.seconds


def test_a_dropped_connection_is_a_failure_and_is_made_again(answerer: Answerer) -> None:
    """The request counts as broken; those after it are answered."""
    outcome = run_open(answerer.port, [post("/", b"drop"), post("/", b"fine")], rate=400, seconds=0.05)
    sent = len(draw_arrivals(400, 0.05, 0))
    assert outcome.failures["broken"] == answerer.bodies.count(b"drop") == (sent + 1) // 2
    assert len(outcome.latencies) == sent // 2


def test_what_speaks_no_length_is_broken() -> None:
    """An answer without Content-Length is not guessed at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        assert ask(listening.getsockname()[1], post("/", b"")) == ("broken", b"")


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that get no byte for too long count as stalled, and the load ends."""
    monkeypatch.setattr(generator, "STALL_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        outcome = run_closed(listening.getsockname()[1], [post("/", b"")], connections=2, seconds=0.001)
        assert outcome.failures["stalled"] >= 1
        assert ask(listening.getsockname()[1], post("/", b""), timeout_seconds=0.01) == ("broken", b"")


def test_an_open_loop_follows_its_schedule(answerer: Answerer) -> None:
    """It sends one request for each drawn moment, whatever the answers."""
    outcome = run_open(answerer.port, [post("/", b"a")], rate=1000, seconds=0.1)
    assert len(answerer.bodies) == len(outcome.latencies) == len(draw_arrivals(1000, 0.1, seed=0))


def test_arrivals_are_a_poisson_process() -> None:
    """As many as the rate says, in order, within the time, spread as exponential gaps are, and the same each time."""
    moments = np.array(draw_arrivals(1000, 10, seed=0))
    assert moments.tolist() == draw_arrivals(1000, 10, seed=0)
    assert moments.min() >= 0
    assert moments.max() < 10
    gaps = np.diff(moments)
    assert gaps.min() >= 0
    assert len(moments) == pytest.approx(10_000, abs=400)  # four standard deviations
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_latency_counts_from_when_a_request_was_due(answerer: Answerer) -> None:
    """A request that could not be sent in time has waited: five seconds late are five seconds of latency."""
    now = time.perf_counter()
    outcome = generator._run(answerer.port, iter([now - 5, now - 5]), [post("/", b"a")], 1, now)
    assert len(outcome.latencies) == 2
    assert min(outcome.latencies) > 5


def test_quantiles_are_latencies_that_occurred() -> None:
    """The 99th percentile of 100 latencies is the 99th of them, in ms; of none it is NaN."""
    outcome = Outcome(latencies=[number / 1000 for number in range(100, 0, -1)])
    assert outcome.quantile(0.5) == 50
    assert outcome.quantile(0.99) == 99
    assert np.isnan(Outcome().quantile(0.5))
    assert Outcome().rate == 0


def test_lengths_are_as_the_workload_says() -> None:
    """Log-normal ones have the median 33 and end at 200; a mix reaches from 1 step to its longest."""
    lengths = draw_lengths(10_000, None, seed=0)
    assert np.median(lengths) == pytest.approx(33, abs=2)
    assert (min(lengths), max(lengths)) == (1, 200)
    mix = draw_lengths(10_000, 2000, seed=0)
    assert (min(mix), max(mix)) == (1, 2000)
    assert np.median(mix) == pytest.approx(2000**0.5, rel=0.1)


def test_requests_are_the_same_in_every_run() -> None:
    """Two drawings give equal sequences, as many as the workload holds."""
    workload = Workload(connections=1, sequences=3, bodies=5)
    one, two = draw_requests(workload, 2), draw_requests(workload, 2)
    assert [len(request) for request in one] == [3] * 5
    assert all(np.array_equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))


def body_of(request: bytes) -> bytes:
    """Return what follows the head, which says how long it is."""
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return body


def test_json_carries_the_numbers_exactly() -> None:
    """What a server parses as float32 is what was drawn."""
    sequences = draw_sequences([3, 1], 2, seed=0)
    parsed = orjson.loads(body_of(JSON.write(sequences)))["sequences"]
    assert all(np.array_equal(np.float32(a), b) for a, b in zip(parsed, sequences, strict=True))
    assert JSON.read(b'{"embeddings": [[1.5, 2.0]]}').tolist() == [[1.5, 2.0]]


def test_kserve_tensors_are_padded_and_say_their_shape() -> None:
    """JSON and binary hold the same zero-padded tensor and the same lengths."""
    sequences = draw_sequences([3, 1], 2, seed=0)
    steps, lengths = orjson.loads(body_of(KSERVE_JSON.write(sequences)))["inputs"]
    padded = np.array(steps["data"], dtype=np.float32).reshape(steps["shape"])
    assert padded.shape == (2, 3, 2)
    assert np.array_equal(padded[0], sequences[0])
    assert not padded[1, 1:].any()
    assert lengths["data"] == [3, 1]
    request = KSERVE_BINARY.write(sequences)
    size = int(request.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0])
    body = body_of(request)
    sizes = [tensor["parameters"]["binary_data_size"] for tensor in orjson.loads(body[:size])["inputs"]]
    assert sizes == [padded.nbytes, 16]
    assert body[size:] == padded.tobytes() + np.array([3, 1]).tobytes()


def test_kserve_answers_are_read() -> None:
    """The first output, of its own shape, from JSON and from the bytes behind it."""
    expected = [[1.0, 2.0], [3.0, 4.0]]
    document = {"outputs": [{"name": "embedding", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    assert KSERVE_JSON.read(orjson.dumps(document)).tolist() == expected
    binary = b'{"outputs":[{"shape":[2,2]}]}' + np.array(expected, dtype=np.float32).tobytes()
    assert KSERVE_BINARY.read(binary).tolist() == expected


def test_a_wrong_answer_is_never_measured() -> None:
    """An embedding off by more than the tolerance, one of another shape, NaN, or no answer at all is refused."""
    drawn = DrawnWorkload("L", [], [np.zeros((1, 2), dtype=np.float32)])
    read: Wire = JSON
    check(Outcome(answers={0: b'{"embeddings": [[0, 1e-6]]}'}), drawn, read)
    for wrong in (b'{"embeddings": [[0, 1e-4]]}', b'{"embeddings": [[0]]}', b'{"embeddings": [[0, null]]}'):
        with pytest.raises(Unavailable, match="wrongly"):
            check(Outcome(answers={0: wrong}), drawn, read)
    with pytest.raises(Unavailable, match=r"1 of 1 requests were not answered: \{'503': 9\}"):
        check(Outcome(failures={"503": 9}), drawn, read)


def test_padding_is_what_our_answers_say() -> None:
    """Computed steps over valid ones, over all answers."""
    answers = {0: b'{"usage": {"steps": 10, "padded_steps": 10}}', 1: b'{"usage": {"steps": 10, "padded_steps": 30}}'}
    assert padding_ratio(Outcome(answers=answers)) == 2.0


PACE = Pace(rounds=1, seconds=0.02, warm_seconds=0.01, raw_seconds=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the small one's size."""
    small = MODELS["small"]
    return make_wide(tmp_path_factory.mktemp("bench") / "small.onnx", small.features, small.hidden)


def test_our_service_is_measured_on_every_workload(model: Path) -> None:
    """Started, checked and loaded, it has every figure of the table, none failed, and no process of it is left."""
    workloads = draw_workloads(model)
    figures = measure_server(OURS, OURS.prepare(model.parent), model, workloads, PACE, is_open=True)
    for name in WORKLOADS:
        assert figures[f"{name}.rate"] > 0
        assert figures[f"{name}.failed"] == 0
        assert figures[f"{name}.padding"] >= 1
    assert {"open50.p99_ms", "open80.p50_ms", "resident_mb", "ready_seconds"} <= set(figures)
    limit, arrangements = measure_raw(model, workloads, PACE)
    assert limit["S.rate"] == limit["B.rate"] > 0
    assert set(arrangements) == {"B", "mix"}


def test_a_server_that_ends_is_reported_with_its_last_word(tmp_path: Path) -> None:
    """A model that is not there ends our service, and the reason names it."""
    server = OURS
    with (
        pytest.raises(Unavailable, match=r"ended with 1: .*missing\.onnx"),
        start(server, server.prepare(tmp_path), tmp_path / "missing.onnx", b"", tmp_path / "log"),
    ):
        raise AssertionError


def test_a_peer_that_cannot_be_installed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says so; a peer installed before from the same pins is taken as it is."""
    monkeypatch.setattr("bench.load.servers.sys.executable", "/bin/false")
    server = Server("x", "naive", workers=1)
    with pytest.raises(Unavailable, match="cannot be installed"):
        server.prepare(tmp_path)
    monkeypatch.setattr("bench.load.servers.sys.executable", "/bin/true")
    monkeypatch.setattr("bench.load.servers.subprocess.run", lambda command, **_: Ran(tmp_path, command))
    assert server.prepare(tmp_path) == tmp_path / "naive" / "bin" / "python"
    monkeypatch.undo()
    assert server.prepare(tmp_path) == tmp_path / "naive" / "bin" / "python"


class Ran:
    """A command that did as it was told."""

    returncode = 0

    def __init__(self, folder: Path, _command: list[str]) -> None:
        (folder / "naive").mkdir(exist_ok=True)


def test_a_free_port_is_given_once_and_not_by_the_kernel() -> None:
    """It is below those that Linux gives to whoever asks for any, so nobody takes it before the server it is for."""
    found = [find_port() for _ in range(5)]
    assert len(set(found)) == 5
    assert all(1024 < port < 32_768 for port in found)
    with socket.create_server(("127.0.0.1", found[-1])):
        assert find_port() not in found


def test_every_peer_pins_what_it_needs() -> None:
    """Each has a module and requirements with versions throughout, ONNX Runtime's the same in all, and no address."""
    runtimes = set()
    for server in PEERS:
        assert Path(f"bench/load/peers/{server.peer}.py").exists()
        lines = Path(f"bench/load/peers/{server.peer}.txt").read_text(encoding="utf-8").split()
        assert all("==" in line and "/" not in line for line in lines)
        runtimes |= {line for line in lines if line.startswith("onnxruntime==")}
        told = server.environment(Path("small.onnx"), 80)
        assert int(told["BENCH_THREADS"]) * int(told["BENCH_WORKERS"]) <= available_cpus()
        assert told["ORT_DISABLE_TELEMETRY"] == "1"
    assert len(runtimes) == 1


def test_a_family_holds_its_children() -> None:
    """What this process started is of its family; a process without children is alone in its own."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(find_family(os.getpid()))
        assert find_family(child.pid) == [child.pid]
        child.communicate(b"\n")
    assert spent_seconds(2**30) == 0.0
    assert spent_seconds(os.getpid()) > 0.0


def test_what_others_took_is_what_is_left_of_the_busy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 busy seconds 4 were this process's and 1 a server's: the rest is a share of all the CPUs had."""
    monkeypatch.setattr("bench.load.watch._busy_seconds", iter([100.0, 108.0]).__next__)
    monkeypatch.setattr("bench.load.watch.spent_seconds", {7: 0.25, 8: 0.75}.__getitem__)
    monkeypatch.setattr("bench.load.watch._own_seconds", iter([1.0, 5.0]).__next__)
    monkeypatch.setattr("bench.load.watch.time.perf_counter", iter([0.0, 10.0]).__next__)
    monkeypatch.setattr("bench.load.watch.os.cpu_count", lambda: 2)
    assert Watch().others_share([7, 8]) == pytest.approx(3 / 20)


def test_raw_batches_hold_every_sequence_once(model: Path) -> None:
    """Cut by rows, nothing is lost; alone and in a batch a session gives the same."""
    sequences = draw_sequences([5, 3, 9], MODELS["small"].features, seed=0)
    assert [len(part) for part in raw._cut(sequences, 2)] == [2, 1]
    session = raw.open_raw(model, 1)
    (together,) = session.run(["embedding"], raw.feed(sequences))
    assert np.array_equal(raw.encode_alone(session, sequences), together)


def canned() -> Results:
    """Figures made up for two servers and the raw limit."""

    def figures(rate: float) -> dict[str, float]:
        made = {f"{name}.{what}": rate for name in WORKLOADS for what in ("rate", "p50_ms", "p99_ms")}
        return {**made, **{f"{name}.failed": 0.0 for name in WORKLOADS}, "resident_mb": 100.0, "ready_seconds": 0.5}

    ours = [figures(rate) | {"open80.p50_ms": 2.0, "open80.p99_ms": 5.0, "S.padding": 1.25} for rate in (30.0, 10, 20)]
    rounds = {OURS.name: ours, "mosec, orjson": [figures(5.0)], "Triton, binary": [figures(1000.0)]}
    rounds["mosec, orjson"][0]["S.failed"] = 3.0
    return Results("small", rounds, [{"S.rate": 40.0, "B.rate": 40.0}], {"B": "two"}, {"LitServe": "it ended"})


def test_medians_are_over_the_rounds_that_have_the_figure() -> None:
    """Of three rounds the middle one; failures add up."""
    assert take_medians([{"a": 1.0}, {"a": 9.0}, {"a": 2.0, "b": 4.0}]) == {"a": 2.0, "b": 4.0}
    assert take_medians([{"S.failed": 1.0}, {"S.failed": 2.0}]) == {"S.failed": 3.0}


def test_ratios_are_to_the_best_that_speaks_json() -> None:
    """Binary Triton is faster here and is not compared with; the raw limit is, if it has a figure."""
    ratios, refused = compare(canned().medians())
    assert ratios == {
        "S.to_best_peer": 4.0,
        "S.to_raw": 0.5,
        "B.to_best_peer": 4.0,
        "B.to_raw": 0.5,
        "mix.to_best_peer": 4.0,
    }
    assert refused == {}
    assert compare({"mosec, orjson": {"S.rate": 1.0}}) == ({}, {})
    tuned = compare({OURS.name: {"S.rate": 6.0}, "mosec, orjson, workers 2, batch 8, wait 0 ms": {"S.rate": 8.0}})
    assert tuned == ({"S.to_best_peer": 0.75}, {})
    binary = compare({OURS_BINARY.name: {"B.rate": 6.0}, "raw": {"B.rate": 8.0}})
    assert binary == ({"B.npz_to_raw": 0.75}, {})


def test_a_ratio_that_the_load_generator_made_is_refused() -> None:
    """Over a fifth of the CPU time, or busy nearly all of its own, it is named in place of the ratio."""
    results = canned()
    for share, busy, reason in (
        (0.21, 0.1, "took 21% of the CPU time with mosec"),
        (0.1, 0.9, "worked 90% of its time"),
    ):
        results.rounds["mosec, orjson"][0] |= {"S.generator": share, "S.generator_busy": busy}
        ratios, refused = compare(results.medians())
        assert "S.to_best_peer" not in ratios
        assert reason in refused["S.to_best_peer"]
        assert "B.to_best_peer" in ratios
        text = render(results)
        assert "S to best peer 4.00" not in text
        assert f"ratio S to best peer: refused: {refused['S.to_best_peer']}" in text
    results.rounds["mosec, orjson"][0] |= {"S.generator": 0.2, "S.generator_busy": 0.8}
    assert compare(results.medians())[1] == {}


def test_the_table_says_everything() -> None:
    """A row a server, aligned; what failed, what is missing and why; the ratios and the open loop."""
    lines = render(canned()).splitlines()
    header, *rows = lines[1:6]
    assert len({len(row) for row in (header, *rows)}) == 1
    assert [row.split("  ")[0] for row in rows[1:]] == ["lengthwise", "mosec, orjson", "Triton, binary"]
    text = "\n".join(lines)
    assert "LitServe: not measured: it ended" in text
    assert "mosec, orjson: 3 requests of S failed" in text
    assert "S to best peer 4.00, S to raw 0.50" in text
    assert "computed over valid steps: S 1.25" in text
    assert "open loop at 80 % of its S: p50 2.00 ms, p99 5.00 ms, 2.5 times" in text


def test_the_json_holds_the_table() -> None:
    """Medians, ratios and reasons can be read back."""
    document = orjson.loads(orjson.dumps(summarize(canned())))
    assert document["servers"]["lengthwise"]["S.rate"] == 20
    assert document["ratios"]["S.to_raw"] == 0.5
    assert document["missing"] == {"LitServe": "it ended"}
    assert document["refused"] == {}


def test_rounds_put_our_service_before_each_peer() -> None:
    """Interleaved; once only if it is quick or alone."""
    one, two = PEERS[:2]
    assert plan_round([OURS, one, two], is_quick=False) == [OURS, one, OURS, two]
    assert plan_round([OURS, one, two], is_quick=True) == [OURS, one, two]
    assert plan_round([one, two], is_quick=False) == [one, two]
    assert plan_round([OURS], is_quick=False) == [OURS]
    several = replace(OURS, processes="2")
    assert plan_round([several, one, two], is_quick=False) == [several, one, several, two]


def test_only_chooses_models_and_servers(capsys: pytest.CaptureFixture[str]) -> None:
    """By words of their names; nothing chosen of one kind is all of it, and an unknown word is refused."""
    options = parse_arguments(["--only", "small", "mosec", "Lengthwise"])
    assert options.models == ["small"]
    assert options.servers == [OURS, OURS_BINARY, ALONE, MOSEC]
    processes = [server.processes for server in parse_arguments(["--processes", "auto"]).servers]
    assert processes == ["auto", "auto", "1", *([""] * len(PEERS))]
    everything = parse_arguments([])
    assert (everything.models, everything.servers) == (list(MODELS), SERVERS)
    with pytest.raises(SystemExit):
        parse_arguments(["--only", "nginx"])
    assert "--only knows none of: nginx" in capsys.readouterr().err


def test_plots_are_the_same_bytes_for_the_same_figures() -> None:
    """Well-formed, with each name, escaped, and bars in proportion."""
    panels = {"A & B": {"ours": 200.0, "peer <1>": 0.5}}
    svg = draw_bars("title", "sequences/s", panels, "ours")
    assert svg == draw_bars("title", "sequences/s", panels, "ours")
    tree = ET.fromstring(svg)  # noqa: S314 - written by the line above
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["title", "A & B, sequences/s", "ours", "200", "peer <1>", "0.50"]
    widths = [float(element.attrib["width"]) for element in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(widths[0] / 400, abs=0.1)
    assert "peer &lt;1&gt;" in draw_bars("t", "u", {"none": {}, **panels}, "ours")


def test_the_codecs_benchmark_times_every_format(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For both models it gives the run, each format's stages, and a last line of JSON."""

    def make_models(folder: Path) -> None:
        for name, size in MODELS.items():
            make_wide(folder / f"{name}.onnx", size.features, size.hidden)

    monkeypatch.setattr(codecs, "make_models", make_models)
    codecs.main(["--rounds", "1"])
    found = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["models"]) == set(MODELS)
    decoded, encoded = {"json", "ndjson", "npz", "npy", "arrow"}, {"json, base64", "ndjson, base64", "npy", "arrow"}
    for costs in found["models"].values():
        assert costs["the model"]["run"] > 0
        assert all(costs[form]["decode"] > 0 for form in decoded)
        assert all(costs[form]["encode"] > 0 for form in encoded)


def test_lines_end_where_their_figures_are() -> None:
    """A line is straight if figures grow with places, a name keeps its colour, and none stands on another."""
    panels = {"A": {"ours": {1: 10.0, 2: 20.0}, "peer": {1: 10.0, 2: 19.9}}, "B": {"peer": {1: 5.0}}}
    svg = draw_lines("t", "u", panels, "ours")
    tree = ET.fromstring(svg)  # noqa: S314 - written by the line above
    drawn = tree.findall("{http://www.w3.org/2000/svg}polyline")
    points = [[float(part) for part in point.split(",")] for point in drawn[0].attrib["points"].split()]
    assert points == [[280.0, 166.0], [490.0, 56.0]]
    assert drawn[0].attrib["stroke"] != drawn[1].attrib["stroke"] == drawn[2].attrib["stroke"]
    heights = [float(text.attrib["y"]) for text in tree.iter() if text.text in ("ours", "peer")]
    assert heights[1] - heights[0] >= 15
    assert svg == draw_lines("t", "u", panels, "ours")


@pytest.mark.parametrize("wrk", [pytest.param(drive.WRK, marks=NEEDS_WRK), None], ids=["wrk", "python"])
def test_a_driven_load_counts_answers_and_failures(
    wrk: str | None, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bodies are sent in turn; another status is a failure and no answer; the generator tells its CPU time."""
    monkeypatch.setattr(drive, "WRK", wrk)
    bodies = [b"a", b"503", b"x" * 100_000, b"\r\n\r\n\0"]
    load = drive.drive(answerer.port, [post("/", body) for body in bodies], connections=3, seconds=0.5)
    seen = Counter(answerer.bodies)
    assert set(seen) == {*bodies}
    assert max(seen.values()) - min(seen.values()) <= 4
    failed = sum(load.failures.values())
    assert 0 <= seen[b"503"] - failed <= 3  # what is under way at the end is not counted
    answered = len(answerer.bodies) - failed
    # Processes end at moments of their own, and each lasts what was asked for at least.
    assert (answered - 4) / load.seconds <= load.rate <= 1.01 * (answered + 4) / (1.0 if wrk else 0.5)
    assert load.cpu_seconds > 0
    assert load.busy_share == load.cpu_seconds / (load.seconds * load.threads)
    assert load.p50_ms <= load.p99_ms


@NEEDS_WRK
def test_wrk_without_figures_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that nobody listens on gives no figures, and the sentence is wrk's own."""
    monkeypatch.setattr(drive, "WRK", shutil.which("wrk"))
    with pytest.raises(RuntimeError, match="without figures: unable to connect"):
        drive.drive(find_port(), [post("/", b"a")], 1, 1.0)


def test_the_fastest_settings_of_a_peer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two workloads has its best, with waits tried for those two alone; one that fails is left out."""
    tried = []

    def measure(
        servers: list[Server], _python: Path, _model: Path, _judges: list[DrawnWorkload], found: dict[Server, Any]
    ) -> None:
        for server in servers:
            tried.append(server)
            single = 100 * (server.batch == 16) + (server.workers or 0) - server.wait_ms
            found[server] = {"S.rate": single, "B.rate": 50 * (server.batch == 8) - server.wait_ms}
            if server.batch == 32:
                found[server] = {}

    monkeypatch.setattr(tune, "_try", measure)
    monkeypatch.setattr(tune, "available_cpus", lambda: 4)
    workloads = [DrawnWorkload(name, [], []) for name in ("L", "S", "B")]
    best = tune.find_fastest(MOSEC, Path("python"), Path("small.onnx"), workloads)
    assert [(one.workers, one.batch, one.wait_ms) for one in best] == [(4, 16, 0), (1, 8, 0)]
    assert best[0].name == "mosec, orjson, workers 4, batch 16, wait 0 ms"
    assert {server.workers for server in tried} == {1, 2, 4}
    assert len(tried) == 9 + 6
    monkeypatch.setattr(tune, "_try", lambda *_: None)
    assert tune.find_fastest(MOSEC, Path("python"), Path("small.onnx"), workloads) == []


def test_numbers_of_cpus_double_up_to_all() -> None:
    """The last one is all of them, whether or not it is a power of two."""
    assert [scale.list_counts(number) for number in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_what_is_measured_on_one_cpu_stays_there() -> None:
    """This process, and what it starts, may use the first CPU only, and all of them afterwards."""
    before = os.sched_getaffinity(0)
    with scale.hold_to(1):
        told = subprocess.check_output([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], text=True)
        assert available_cpus() == 1
    assert told.strip() == str({min(before)})
    assert os.sched_getaffinity(0) == before


def test_the_scaling_table_names_the_generators_share() -> None:
    """Behind each throughput; a peer's settings are in the table, and its line in the plot is of the best."""
    two = {
        "raw": {"S.rate": 100.0},
        "lengthwise": {"S.rate": 50.0, "S.generator": 0.1},
        "mosec, orjson, workers 2, batch 8, wait 0 ms": {"S.rate": 20.0},
        "mosec, orjson, workers 2, batch 16, wait 0 ms": {"S.rate": 25.0, "S.generator": 0.5},
    }
    scaling: scale.Scaling = {1: {"lengthwise": {"S.rate": 30.0}}, 2: two}
    text = scale.render("small", scaling, {"LitServe on 1 CPUs": "it ended"})
    assert "50  10%" in text
    assert "2 CPUs: ratio S to raw 0.50" in text
    assert "2 CPUs: ratio S to best peer: refused: the load generator took 50%" in text
    assert "LitServe on 1 CPUs: not measured: it ended" in text
    assert scale.gather(scaling, "S") == {"lengthwise": {1: 30, 2: 50}, "raw": {2: 100}, "mosec, orjson": {2: 25}}


DUMP = """desc: Trigger: dump engine:{number}
ob=(1) /lib/libpython3.11.so
fn=(1) one
5 {python}
+1 3
cob=(2) /site-packages/onnxruntime.so
cfn=(2) two
calls=1 9
7 {number}000
ob=(2)
fn=(2)
9 {runtime}
totals: 999
"""


def test_the_ledger_counts_a_call_by_its_library(tmp_path: Path) -> None:
    """What a called function takes is counted where it is, once, and what is not of the calls falls out."""
    for place, (number, python, runtime) in enumerate([(64, 9999, 9999), (64, 700, 64), (192, 700 + 128 * 5, 192)]):
        dump = DUMP.format(number=number, python=python, runtime=runtime)
        (tmp_path / f"count.{place}").write_text(dump, encoding="utf-8")
    counts = ledger.read_counts(tmp_path)
    assert counts == {"engine": {"libpython3.11.so": 5, "onnxruntime.so": 1}}


def test_the_ledger_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers are what is left of one once those below it are taken off; together they are the whole."""
    totals = {"socket": 100, "application": 80, "engine": 40, "decode": 10, "write": 5, "run": 25}
    found = ledger.print_layers({name: Counter({"libpython": total}) for name, total in totals.items()})
    assert [*found.values()] == [20, 25, 10, 5, 15, 25]
    assert sum(found.values()) == totals["socket"]
    assert "100.0%" in capsys.readouterr().out


def test_bytecodes_are_counted_alike_each_time(model: Path) -> None:
    """Two counts of one request agree, and name the rooms that it passes."""
    counts = []
    for _ in range(6):
        found = asyncio.run(count_bytecodes(model))
        packages = {package for package, _ in found}
        assert {"service.api", "service.batching", "service.codecs", "service.encoder"} <= packages
        counts.append(sum(found.values()))
        least = sorted(counts)[:2]  # timers that go off meanwhile, more of them on a busy machine, only add to a count
        if len(counts) > 1 and least[1] <= 1.05 * least[0]:  # ids of requests grow
            return
    pytest.fail(f"no two are alike: {counts}")


def test_counting_bytecodes_leaves_the_trace_as_it_was(model: Path) -> None:
    """Whoever traces this process, a debugger or coverage, goes on doing so afterwards."""
    before = sys.gettrace()

    def idle(*_: object) -> None:
        pass

    sys.settrace(idle)
    try:
        asyncio.run(count_bytecodes(model))
        found = sys.gettrace()
    finally:
        sys.settrace(before)
    assert found is idle


def test_encoders_are_compared_and_a_wrong_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The same session differs in nothing; one whose answers are off by a little too much ends the program."""
    files = [Path(f"tests/artifacts/{kind}.onnx") for kind in ("triples", "triples-anew")]
    found = gpu.check_parity(files[:1], "cpu")
    assert max(found["triples"][name] for name in ("embeddings", "steps", "state", "alone")) == 0.0
    assert "largest difference" in capsys.readouterr().out
    one, other = (open_session(file) for file in files)
    assert gpu.compare(one, other)["embeddings"] > gpu.TOLERANCE


def test_a_machine_without_a_gpu_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence says why nothing is measured, and what would have to be there."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match=r"no encoder runs on cuda here: .*onnxruntime-gpu"):
        gpu.main([])
    assert capsys.readouterr().out == ""


def test_runs_are_timed_by_shape(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each shape has its time, that of a thread of the CPU if it is not too much, and torch's if it has a GPU."""
    monkeypatch.setattr(gpu, "SHAPES", ((1, 3), (2, 4)))
    monkeypatch.setattr(gpu, "RUN_SECONDS", 0.0)
    lines = [*gpu.time_runs(model, "cpu")]
    assert [(line["rows"], line["steps"]) for line in lines] == [(1, 3), (2, 4)]
    assert all(line["ms"] > 0 and line["cpu_ms"] > 0 for line in lines)
    gpu.print_runs("small", lines)
    assert "2 x 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (chaos, "Subject"),
        (fairness, "measure_fairness"),
        (overload, "measure_overload"),
        (soak, "measure_soak"),
        (many, "measure_swaps"),
    ],
)
def test_measures_of_faults_serve_by_as_many_workers_as_they_are_told(
    measure: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--processes` reaches the command that starts the service."""
    met: list[Server] = []

    def stop(server: Server, *_: object) -> None:
        met.append(server)
        raise InterruptedError

    monkeypatch.setattr(measure, "make_models", lambda _: None, raising=False)
    monkeypatch.setattr(measure, name, stop)
    monkeypatch.setattr(raw, "open_raw", lambda *_, **__: None)
    monkeypatch.setenv("LENGTHWISE_ADMIN_KEY", "")
    monkeypatch.setenv("LENGTHWISE_MAX_RUN_SECONDS", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterruptedError):
        measure.main(["--processes", "3"])
    command = met[0].command(Path("python"), Path("model.onnx"), 80)
    assert command[command.index("--processes") + 1] == "3"


def test_run_seconds_are_added_up_over_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever labels stand beside the model's."""
    body = (
        b'lengthwise_run_seconds_total{model="a"} 1.5\n'
        b'lengthwise_run_seconds_total{process="1",model="b"} 2\n'
        b'lengthwise_run_seconds_total{model="b",process="2"} 0.25\n'
        b'lengthwise_other{model="a"} 9\n'
    )
    monkeypatch.setattr(many, "ask", lambda *_: ("200", body))
    assert many.read_run_seconds(80) == {"a": 1.5, "b": 2.25}


class Answered:
    """A connection with an answer."""

    def __init__(self, due: float, head: bytes) -> None:
        self.due, self.head, self.answer = due, head, b""


def test_a_retry_is_judged_by_the_next_that_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to wait 1.5 s while the next accepted request waited 1.25 s is an error of 0.25 s."""
    witness = overload.Witness()
    monkeypatch.setattr("bench.stress.overload.time.perf_counter", lambda: 10.0)
    queued = b"HTTP/1.1 200 OK\r\nserver-timing: decode;dur=0.1, queue;dur=%d, run;dur=2.0"
    for due, milliseconds in ((9.0, 100), (11.0, 1250), (12.0, 300)):
        witness.note(Answered(due, queued % milliseconds), "200")  # type: ignore[arg-type]
    witness.note(Answered(9.5, b"HTTP/1.1 503\r\nRetry-After: 2\r\nretry-after-ms: 1500"), "503")  # type: ignore[arg-type]
    assert witness.retry_errors() == [0.25]
    late = Answered(8.0, b"HTTP/1.1 504")
    late.answer = b'{"type": "urn:lengthwise:problem:deadline-passed"}'
    witness.note(late, "504")  # type: ignore[arg-type]
    assert witness.refused == [(10.0, 0.5)]  # what expires is not refused
    assert witness.expired == 1


def test_marked_sequences_fail_once() -> None:
    """A batch with a mark fails when it is first met, and runs when it is run again."""
    made = faulty.Faults()
    steps = np.zeros((2, 3, 4), dtype=np.float32)
    steps[1, 0, 0] = faulty.DIES
    batch = Batch(steps, np.array([3, 3]))
    assert [made._meets(batch, faulty.DIES) for _ in range(4)] == [True, False, True, False]
    assert not made._meets(batch, faulty.HANGS)


def test_chaos_tells_right_from_wrong_and_marked(model: Path) -> None:
    """Each answer is compared with the encoder alone; the marked request is counted apart."""
    session = raw.open_raw(model, threads=1)
    judge = chaos.Judge.__new__(chaos.Judge)
    sequences = draw_sequences([3] * chaos.BODIES, 12, seed=1)
    judge._expected = [raw.encode_alone(session, [steps]) for steps in sequences]
    judge.counts = Counter()
    connection = generator.Connection.__new__(generator.Connection)
    for index, off, status in ((0, 0.0, "200"), (chaos.MARKED, 0.0, "500"), (1, 0.01, "200")):
        connection.index = index
        connection.answer = orjson.dumps({"embeddings": (judge._expected[index] + off).tolist()})
        judge.note(connection, status)
    assert judge.counts == {"right": 1, "marked 500": 1, "wrong": 1}


def test_bench_lists_what_it_measures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a known name, `python -m bench` lists each measure with what it is, and ends with code 1."""
    monkeypatch.setattr("sys.argv", ["bench", "nothing"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    listed = [line.split()[0] for line in str(ended.value).splitlines()[2:]]
    assert listed == [*entry.EVERY]
    assert {"service", "path", "overload", "fuzz-artifacts", "models"} <= {*listed}
    assert capsys.readouterr().out == ""


def test_bench_tells_which_measures_need_torch() -> None:
    """The others import it only when they run, if at all, and so explain themselves on a Python without it."""
    found = set()
    for name, module in entry.EVERY.items():
        tree = ast.parse(Path(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        if any(isinstance(one, ast.Import) and one.names[0].name == "torch" for one in tree.body):
            found.add(name)
    assert found == NEED_TORCH


@pytest.mark.parametrize("name", sorted(entry.EVERY.keys() - NEED_TORCH))
def test_bench_runs_the_measure_that_is_named(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name leads to a program that explains itself and carries that name."""
    monkeypatch.setattr("sys.argv", ["bench", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    assert f"usage: python -m bench {name}" in capsys.readouterr().out
