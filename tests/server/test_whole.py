"""Several workers are one service: what is counted, bounded or changed in one of them holds for all."""

import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from bench.load.servers import find_port
from service.api import fellows
from service.api import meter as metering
from service.api.endpoints import repository
from service.api.meter import SLOTS, Rates, StepMeter
from service.api.worker import Shared, Staff
from service.observing import prometheus
from tests.conftest import draw_sequences
from tests.encoder.test_session import edit_manifest
from tests.server.test_processes import children_of
from tests.several import start_two
from tests.waiting import wait_until

BODY = orjson.dumps({"sequences": [steps.tolist() for steps in draw_sequences([3, 1])]})
KEY, ADMIN = "k" * 16, "a" * 16
HEADERS = {"Authorization": f"Bearer {KEY}"}
ADMINS = {"Authorization": f"Bearer {ADMIN}"}


class Caller:
    """A connection that stays with one worker."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        self._headers = headers or {}
        self.close = self._connection.close

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of an answer."""
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        is_json = "json" in response.headers.get("Content-Type", "")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, orjson.loads(content) if is_json else content.decode(), headers


@contextmanager
def serve_both(*flags: str, headers: dict[str, str] | None = None) -> Iterator[tuple[Any, str, list[Caller]]]:
    """Start two workers; yield the service, its address, and two callers, one of each worker."""
    with start_two(*flags) as (process, url), ExitStack() as opened:
        first, second = (opened.enter_context(closing(Caller(url, headers))) for _ in range(2))
        wait_until(lambda: sorted(count_connections(first).values()) == [0, 1])  # both are there
        wait_until(lambda: is_apart(second))
        yield process, url, [first, second]


def is_apart(second: Caller) -> bool:
    """Whether a second caller has the other worker, which has fewer connections; if not, it connects anew.

    A worker tells of its counts somewhat before it takes connections, and until then the first one gets them all.
    """
    if [*count_connections(second).values()] == [1, 1]:
        return True
    second.close()
    return False


def count_connections(caller: Caller) -> dict[str, int]:
    """Return how many connections each worker has."""
    samples = read_samples(caller, "/metrics?by=process")
    return {labels["process"]: int(value) for name, labels, value in samples if name == "lengthwise_connections"}


def read_samples(caller: Caller, path: str = "/metrics") -> list[tuple[str, dict[str, str], float]]:
    """Return what a scrape tells."""
    _, text, _ = caller.ask("GET", path)
    families = text_string_to_metric_families(text)
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def count_answers(caller: Caller) -> list[float]:
    """Return the samples of the requests for embeddings."""
    samples = read_samples(caller)
    return [
        value for name, labels, value in samples if name == "lengthwise_requests_total" and labels["route"] == "/encode"
    ]


def test_one_scrape_tells_of_all_workers(artifact: Path) -> None:
    """Every sample is there once, without a number of its worker, whichever worker is scraped."""
    with serve_both("--model", str(artifact)) as (_, _, callers):
        for caller in callers * 3:
            assert caller.ask("POST", "/encode", BODY)[0] == 200
        for caller in callers:
            assert count_answers(caller) == [6]
            samples = read_samples(caller)
            assert len({(name, *labels.items()) for name, labels, _ in samples}) == len(samples)
            assert not any("process" in labels for _, labels, _ in samples)
            values = {name: value for name, labels, value in samples if not labels}
            assert (values["lengthwise_connections"], values["lengthwise_inflight_requests"]) == (2, 0)


def test_no_counter_falls_if_a_worker_is_killed(artifact: Path) -> None:
    """The one in its place goes on from what it had told, so that rates are not taken for a restart."""
    with serve_both("--model", str(artifact)) as (process, url, callers):
        for caller in callers * 3:
            caller.ask("POST", "/encode", BODY)
        assert count_answers(callers[0]) == [6]
        for child in children_of(process):  # first one, then the other
            os.kill(child, signal.SIGKILL)
            wait_until(lambda gone=child: is_replaced(process, gone))  # type: ignore[misc]
            seen: list[list[float]] = []
            wait_until(lambda found=seen: is_whole(url, found))  # type: ignore[misc]
            assert seen
            assert all(counts == [6] for counts in seen)
        with closing(Caller(url)) as caller:
            (told,) = caller.ask("GET", "/v2/models/stats")[1]["model_stats"]
            assert told["inference_count"] == 12


def test_what_a_worker_told_stands_until_what_follows_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed while it writes leaves what it told before, and the ledger stays small whatever its size."""
    shared = Shared.among(Staff(number=2, cpus=2), has_rates=False)
    write = os.pwrite

    def write_half(ledger: int, told: bytes, at: int) -> int:
        write(ledger, told[: len(told) // 2], at)
        raise KeyboardInterrupt

    assert shared.recall(1) == b""
    for number in range(100):
        before, told = shared.recall(1), b"%d" % number * (number % 7 + 1)
        monkeypatch.setattr(os, "pwrite", write_half)
        with pytest.raises(KeyboardInterrupt):
            shared.keep(1, told)
        assert shared.recall(1) == before
        monkeypatch.setattr(os, "pwrite", write)
        shared.keep(1, told)
        assert (shared.recall(0), shared.recall(1)) == (b"", told)
    assert os.fstat(shared.ledgers[1]).st_size < 100
    for ledger in shared.ledgers:
        os.close(ledger)


def is_replaced(process: Any, gone: int) -> bool:
    """Whether the first process has seen that a worker ended, and started another in its place."""
    there = children_of(process)
    return gone not in there and len(there) == 2


def is_whole(url: str, seen: list[list[float]]) -> bool:
    """Whether both workers are there; what a scrape counts meanwhile is added to what was seen."""
    with suppress(OSError, HTTPException), closing(Caller(url)) as caller:  # it may have been handed to one that ended
        seen.append(count_answers(caller))
        return len(count_connections(caller)) == 2
    return False


def test_info_is_of_all_workers(artifact: Path) -> None:
    """It names each process, what decided how many there are, and counts the runs of all."""
    with serve_both("--model", str(artifact)) as (process, _, callers):
        for caller in callers * 2:
            caller.ask("POST", "/encode", BODY)
        told = [caller.ask("GET", "/info")[1] for caller in callers]
        for one in told:
            workers = one["workers"]
            assert (workers["number"], workers["why"]) == (2, "LENGTHWISE_PROCESSES says so")
            assert sorted(each["pid"] for each in workers["answering"]) == sorted(children_of(process))
            assert sorted(each["number"] for each in workers["answering"]) == [0, 1]
            assert min(each["resident_bytes"] for each in workers["answering"]) > 2**20
            assert one["models"][0]["performance"]["runs"] == 4


def test_the_last_batches_are_of_all_workers(artifact: Path) -> None:
    """Newest first, whichever worker ran them."""
    with serve_both("--model", str(artifact), "--admin-key", ADMIN, headers=ADMINS) as (_, _, callers):
        for caller in callers * 2:
            caller.ask("POST", "/encode", BODY)
        for caller in callers:
            batches = caller.ask("GET", "/debug/batches")[1]["batches"]
            assert len(batches) == 4
            assert batches == sorted(batches, key=lambda batch: batch["ended"], reverse=True)


def test_a_key_has_one_rate_in_all_workers(artifact: Path) -> None:
    """What it sends to one worker counts in the other, too."""
    flags = ("--api-keys", KEY, "--steps-per-second", "1")
    body = orjson.dumps({"sequences": [draw_sequences([1000])[0].tolist()]})
    with serve_both("--model", str(artifact), *flags, headers=HEADERS) as (_, _, (first, second)):
        assert first.ask("POST", "/encode", body)[0] == 200  # now it is many minutes behind
        assert second.ask("POST", "/encode", BODY)[0] == 429


def test_rates_of_many_keys_are_kept_apart_in_a_table_of_constant_size() -> None:
    """A thousand keys that owe something each owe their own; one that owes nothing leaves its slot to others."""
    meter = StepMeter(1, clock=lambda: 100.0)
    keys = [number.to_bytes(4, "big") * 8 for number in range(1, 1001)]
    for number, key in enumerate(keys):
        meter.charge(key, 10 + number)
    assert [meter.wait(key) for key in keys] == [9.0 + number for number in range(1000)]
    rates = Rates()
    for number in range(4 * SLOTS):  # each pays before the next one comes
        rates.charge((number + 1).to_bytes(8, "little"), 1.0, 10.0 * number)
        assert rates.paid_at((number + 1).to_bytes(8, "little")) == 10.0 * number + 1


def test_rates_are_charged_at_the_same_time_by_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No charge is lost: processes wait for each other while they change the table."""
    monkeypatch.setattr(metering, "LOCK_SECONDS", 60.0)  # or one that waits for a CPU might count as standing still
    rates = Rates.shared()
    key = b"k" * 32
    rates.charge(key, 1.0, 100.0)
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            for _ in range(2000):
                rates.charge(key, 1.0, 100.0)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert rates.paid_at(key) == 100.0 + 6001


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_ends_or_stands_still_while_it_charges_holds_up_nobody(ending: signal.Signals) -> None:
    """Others go on charging, and their charges count."""
    rates = Rates.shared()
    assert rates._lock is not None
    if not (child := os.fork()):
        fcntl.lockf(rates._lock, fcntl.LOCK_EX)
        os.kill(os.getpid(), ending)
    os.waitpid(child, os.WUNTRACED)
    for number in range(1, 4):
        rates.charge(b"k" * 32, 1.0, 100.0)
        assert rates.paid_at(b"k" * 32) == 100.0 + number
    if ending is signal.SIGSTOP:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_rates_need_no_named_semaphore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox without `/dev/shm` has none, and keys have their rates there all the same."""

    def fail(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("_multiprocessing.SemLock", fail)
    rates = Rates.shared()
    rates.charge(b"k" * 32, 1.0, 100.0)
    assert rates.paid_at(b"k" * 32) == 101.0


def put_version(artifact: Path, place: Path, version: str) -> None:
    """Put the artifact in a place under another version, at once."""
    draft = place.with_name(".draft")
    draft.write_bytes(edit_manifest(artifact, lambda manifest: manifest.model_copy(update={"version": version})))
    draft.replace(place)


def test_an_admin_loads_and_unloads_in_all_workers(artifact: Path, tmp_path: Path) -> None:
    """The answer comes once both have done so, and the index tells of both."""
    model = tmp_path / "made.onnx"
    shutil.copy(artifact, model)
    flags = ("--model", str(model), "--admin-key", ADMIN)
    with serve_both(*flags, headers=ADMINS) as (process, url, callers):
        first, second = callers

        def statuses() -> list[int]:
            return [caller.ask("POST", "/encode", BODY)[0] for caller in callers]

        def states() -> set[tuple[str, str]]:
            told = [caller.ask("POST", "/v2/repository/index")[1] for caller in callers]
            return {(one["state"], one["reason"]) for states in told for one in states}

        assert statuses() == [200, 200]
        put_version(artifact, model, "2")
        assert first.ask("POST", "/v2/repository/models/made/load")[0] == 200
        assert [caller.ask("GET", "/v2/models/made")[1]["versions"] for caller in callers] == [["2"], ["2"]]
        assert states() == {("READY", "")}
        assert second.ask("POST", "/v2/repository/models/made/unload")[0] == 200
        assert statuses() == [404, 404]
        assert states() == {("UNAVAILABLE", "it was unloaded")}
        victim = children_of(process)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: is_replaced(process, victim))
        with closing(Caller(url, ADMINS)) as third:
            wait_until(lambda: len(count_connections(third)) == 2)

            def reasons() -> list[str]:
                return [one["reason"] for one in third.ask("POST", "/v2/repository/index")[1]]

            wait_until(lambda: reasons() == ["it was unloaded"])  # in the new one, too
            assert third.ask("POST", "/v2/repository/models/made/load")[0] == 200
            assert third.ask("POST", "/encode", BODY)[0] == 200


def test_a_call_of_grpc_unloads_in_all_workers(artifact: Path) -> None:
    """What admins change by gRPC holds for all workers, as it does by HTTP."""
    grpc = pytest.importorskip("grpc")
    messages = pytest.importorskip("service.codecs.kserve.messages")
    port = find_port()
    flags = ("--model", str(artifact), "--admin-key", ADMIN, "--grpc-port", str(port))
    with serve_both(*flags, headers=ADMINS) as (_, _, callers), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        unload = channel.unary_unary(f"/{messages.SERVICE}/RepositoryModelUnload")
        asked = messages.message("RepositoryModelUnloadRequest", model_name="made").SerializeToString()
        unload(asked, metadata=[("authorization", f"Bearer {ADMIN}")], timeout=60)
        assert [caller.ask("POST", "/encode", BODY)[0] for caller in callers] == [404, 404]


def test_a_worker_that_does_not_follow_is_named(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is 503, and says which has not swapped, and why; the index knows of it, too."""
    client = serve(admin_key=ADMIN)
    told: dict[int, Any] = {1: "", 2: "it is broken", 3: None}

    async def tell(*_: object) -> dict[int, Any]:
        return told

    monkeypatch.setattr(fellows, "ask_others", tell)
    answer = client.post("/v2/repository/models/made/load", headers=ADMINS)
    assert answer.status_code == 503
    assert "worker 2: it is broken; worker 3: it has not answered within 30 s" in answer.json()["error"]
    ready = {"name": "made", "version": "1", "state": "READY", "reason": ""}
    (own,) = client.portal.call(repository.tell_states, client.app.state.service).values()  # type: ignore[union-attr,attr-defined]
    for other, expected in (
        ({"made.onnx": own}, own),
        ({"made.onnx": own | {"version": "0"}}, own | {"reason": "worker 1: it serves 0"}),
        (
            {"made.onnx": own | {"state": "UNAVAILABLE", "reason": "bad"}},
            {"state": "UNAVAILABLE", "reason": "worker 1: bad"},
        ),
        ({}, {"state": "UNAVAILABLE", "reason": "worker 1: it does not know the file"}),
        (None, own | {"reason": "worker 1 does not answer"}),
    ):
        told = {1: other}
        (state,) = client.post("/v2/repository/index", headers=ADMINS).json()
        assert state == ready | own | expected


def test_after_a_swap_no_worker_answers_by_the_old_model(artifact: Path, tmp_path: Path) -> None:
    """Under load, whatever is asked once the admin's load was answered is answered by the new one, in each worker."""
    model = tmp_path / "made.onnx"
    shutil.copy(artifact, model)
    with serve_both("--model", str(model), "--admin-key", ADMIN, headers=ADMINS) as (_, url, callers):
        seen: list[tuple[bool, str]] = []
        loaded, ended = threading.Event(), threading.Event()

        def ask_repeatedly(caller: Caller) -> None:
            while not ended.is_set():
                is_late = loaded.is_set()
                status, _, headers = caller.ask("POST", "/encode", BODY)
                seen.append((is_late, headers["x-model-sha"] if status == 200 else str(status)))

        threads = [threading.Thread(target=ask_repeatedly, args=(caller,)) for caller in callers]
        with closing(Caller(url, ADMINS)) as admin:
            old = admin.ask("GET", "/info")[1]["models"][0]["sha256"]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(seen) > 0)
            put_version(artifact, model, "2")
            assert admin.ask("POST", "/v2/repository/models/made/load")[0] == 200
            loaded.set()
            new = admin.ask("GET", "/info")[1]["models"][0]["sha256"]
            wait_until(lambda: sum(is_late for is_late, _ in seen) > 20)
            ended.set()
            for thread in threads:
                thread.join()
    assert {sha for is_late, sha in seen if is_late} == {new}
    assert {sha for _, sha in seen} == {old, new}


def test_sighup_reaches_all_workers(artifact: Path, tmp_path: Path) -> None:
    """Each of them looks at the file anew."""
    model = tmp_path / "made.onnx"
    shutil.copy(artifact, model)
    with serve_both("--model", str(model)) as (process, _, callers):
        put_version(artifact, model, "2")
        process.send_signal(signal.SIGHUP)
        for caller in callers:
            wait_until(lambda one=caller: one.ask("GET", "/v2/models/made")[1]["versions"] == ["2"])  # type: ignore[misc]


def test_a_worker_in_anothers_place_brings_the_newest_file_to_all(artifact: Path, tmp_path: Path) -> None:
    """It loads what is there now; the others then do, too, so that all serve the same."""
    model = tmp_path / "made.onnx"
    shutil.copy(artifact, model)
    with serve_both("--model", str(model)) as (_, _, callers):
        put_version(artifact, model, "2")
        pids = {one["number"]: one["pid"] for one in callers[0].ask("GET", "/info")[1]["workers"]["answering"]}
        os.kill(pids[1], signal.SIGKILL)

        def serves_new(caller: Caller) -> bool:
            with suppress(OSError, HTTPException):
                return bool(caller.ask("GET", "/v2/models/made")[1]["versions"] == ["2"])
            return False

        wait_until(lambda: any(map(serves_new, callers)))  # the connection of the other broke


def made(value: float, drain: float = 0.0) -> list[Metric]:
    """Return a counter and a gauge."""
    counted = Metric("lengthwise_requests", "Requests.", "counter")
    counted.add_sample("lengthwise_requests_total", {"model": "m"}, value)
    drained = Metric("lengthwise_queue_drain_seconds", "Seconds.", "gauge")
    drained.add_sample("lengthwise_queue_drain_seconds", {"model": "m"}, drain)
    return [counted, drained]


def read(families: list[Metric]) -> list[tuple[str, dict[str, str], float]]:
    """Return the samples of metrics as they are scraped."""
    body, _ = prometheus.write(families, "")
    found = text_string_to_metric_families(body.decode())
    return [(sample.name, sample.labels, sample.value) for family in found for sample in family.samples]


def test_metrics_of_several_workers_are_added_up_or_stand_side_by_side() -> None:
    """What is counted is added, of what is predicted the longest stands; apart, each has the number of its worker."""
    sent = prometheus.unpack(orjson.loads(orjson.dumps(prometheus.pack(made(2, 0.5)))))
    assert read(prometheus.add_up([made(1, 0.25), sent])) == [
        ("lengthwise_requests_total", {"model": "m"}, 3),
        ("lengthwise_queue_drain_seconds", {"model": "m"}, 0.5),
    ]
    assert read(prometheus.set_apart([(0, made(1, 0.25)), (1, sent), (1, prometheus.leave_counters(made(4)))])) == [
        ("lengthwise_requests_total", {"model": "m", "process": "0"}, 1),
        ("lengthwise_requests_total", {"model": "m", "process": "1"}, 6),
        ("lengthwise_queue_drain_seconds", {"model": "m", "process": "0"}, 0.25),
        ("lengthwise_queue_drain_seconds", {"model": "m", "process": "1"}, 0.5),
    ]
