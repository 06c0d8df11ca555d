"""The benchmark's own parts: what it sends, counts and prints; never how long anything takes."""

import os
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from bench import __main__ as entry
from bench.load import generator
from bench.load.generator import Outcome, ask, draw_arrivals, run_closed, run_open
from bench.load.servers import OURS, OURS_BINARY, PEERS, SPREAD, SPREAD_BINARY, Server, Unavailable, find_family, start
from bench.load.watch import Watch, _spent_seconds
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
from bench.speed import codecs, raw
from bench.speed.measure import Pace, Task, check, measure_raw, measure_server, padding_ratio, plan_tasks
from bench.speed.plot import draw_bars
from bench.speed.report import Results, compare, render, take_medians
from bench.speed.service import SERVERS, parse_arguments, plan_round, summarize
from bench.stress import chaos, faulty, overload
from service.costs.cpus import available_cpus
from service.encoder.sequences import Batch
from tests.made import make_wide


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
        with connection, connection.makefile("rb") as lines:
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
    assert outcome.failures == {"503": answerer.bodies.count(b"503")}
    assert len(outcome.latencies) == len(answerer.bodies) - answerer.bodies.count(b"503")
    assert outcome.answers == {0: b"a", 2: b"b"}
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
    task = Task("L", [], [np.zeros((1, 2), dtype=np.float32)])
    read: Wire = JSON
    check(Outcome(answers={0: b'{"embeddings": [[0, 1e-6]]}'}), task, read)
    for wrong in (b'{"embeddings": [[0, 1e-4]]}', b'{"embeddings": [[0]]}', b'{"embeddings": [[0, null]]}'):
        with pytest.raises(Unavailable, match="wrongly"):
            check(Outcome(answers={0: wrong}), task, read)
    with pytest.raises(Unavailable, match="no request was answered"):
        check(Outcome(), task, read)


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
    tasks = plan_tasks(model)
    figures = measure_server(OURS, OURS.prepare(model.parent), model, tasks, PACE, is_open=True)
    for name in WORKLOADS:
        assert figures[f"{name}.rate"] > 0
        assert figures[f"{name}.failed"] == 0
        assert figures[f"{name}.padding"] >= 1
    assert {"open50.p99_ms", "open80.p50_ms", "resident_mb", "ready_seconds"} <= set(figures)
    limit, arrangements = measure_raw(model, tasks, PACE)
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


def test_every_peer_pins_what_it_needs() -> None:
    """Each has a module and requirements with versions throughout, ONNX Runtime's the same in all, and no address."""
    runtimes = set()
    for server in PEERS:
        assert Path(f"bench/load/peers/{server.peer}.py").exists()
        lines = Path(f"bench/load/peers/{server.peer}.txt").read_text(encoding="utf-8").split()
        assert all("==" in line and "/" not in line for line in lines)
        runtimes |= {line for line in lines if line.startswith("onnxruntime==")}
        told = server.environment(Path("small.onnx"), 80)
        assert int(told["BENCH_THREADS"]) * server.workers <= available_cpus()
        assert told["ORT_DISABLE_TELEMETRY"] == "1"
    assert len(runtimes) == 1


def test_a_family_holds_its_children() -> None:
    """What this process started is of its family; a process without children is alone in its own."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(find_family(os.getpid()))
        assert find_family(child.pid) == [child.pid]
        child.communicate(b"\n")
    assert _spent_seconds(2**30) == 0.0
    assert _spent_seconds(os.getpid()) > 0.0


def test_what_others_took_is_what_is_left_of_the_busy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 busy seconds 4 were this process's and 1 a server's: the rest is a share of all the CPUs had."""
    monkeypatch.setattr("bench.load.watch._busy_seconds", iter([100.0, 108.0]).__next__)
    monkeypatch.setattr("bench.load.watch._spent_seconds", {7: 0.25, 8: 0.75}.__getitem__)
    monkeypatch.setattr("bench.load.watch.time.process_time", iter([1.0, 5.0]).__next__)
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
    """Binary Triton is faster here and is not compared with; the raw limit is, where it has a figure."""
    ratios = compare(canned().medians())
    assert ratios == {
        "S.to_best_peer": 4.0,
        "S.to_raw": 0.5,
        "B.to_best_peer": 4.0,
        "B.to_raw": 0.5,
        "mix.to_best_peer": 4.0,
    }
    assert compare({"mosec, orjson": {"S.rate": 1.0}}) == {}
    spread = compare({SPREAD.name: dict.fromkeys((f"{name}.rate" for name in WORKLOADS), 6.0), "raw": {"B.rate": 8.0}})
    assert spread == {"spread.B.to_raw": 0.75}


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


def test_rounds_put_our_service_before_each_peer() -> None:
    """Interleaved; once only where it is quick or alone."""
    one, two = PEERS[:2]
    assert plan_round([OURS, one, two], is_quick=False) == [OURS, one, OURS, two]
    assert plan_round([OURS, one, two], is_quick=True) == [OURS, one, two]
    assert plan_round([one, two], is_quick=False) == [one, two]
    assert plan_round([OURS], is_quick=False) == [OURS]


def test_only_chooses_models_and_servers(capsys: pytest.CaptureFixture[str]) -> None:
    """By words of their names; nothing chosen of one kind is all of it, and an unknown word is refused."""
    options = parse_arguments(["--only", "small", "mosec", "Lengthwise"])
    assert options.models == ["small"]
    assert options.servers == [OURS, OURS_BINARY, SPREAD, SPREAD_BINARY, PEERS[3]]
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


class Answered:
    """A connection with an answer."""

    def __init__(self, due: float, head: bytes) -> None:
        self.due, self.head, self.answer = due, head, b""


def test_a_retry_is_judged_by_the_next_that_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to wait 1.5 s where the next accepted request waited 1.25 s is an error of 0.25 s."""
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


@pytest.mark.parametrize("name", sorted(entry.EVERY.keys() - {"models", "training"}))  # those: tests/export
def test_bench_runs_the_measure_that_is_named(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name leads to a program that explains itself and carries that name."""
    monkeypatch.setattr("sys.argv", ["bench", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    assert f"usage: python -m bench {name}" in capsys.readouterr().out
