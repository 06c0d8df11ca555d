"""What the page asks for of its own: examples, measured costs, and the stream of what goes on."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from bench.load.launch import start_service
from service.api.endpoints import showing
from service.api.endpoints.showing import LiveStream
from service.api.routing import Service
from service.app import create_app
from service.settings import SHIPPED_MODEL, Settings
from tests.api.test_document import KINDS
from tests.api.test_encode import PAIR, Serve
from tests.api.test_keys import FIRST, SECOND, bearing
from tests.conftest import FEATURES
from tests.listening import listen
from tests.server.test_processes import wait_for_both
from tests.server.test_server import same_bits
from tests.several import start_two
from tests.waiting import wait_until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams tell and look more often."""
    monkeypatch.setattr(showing, "LOOK_SECONDS", 0.004)


def service_of(app: Any) -> Service:
    """Return the service behind an app."""
    return cast("Service", app.state.service)


@contextmanager
def watching(address: str, key: str | None = None) -> Iterator[HTTPResponse]:
    """Open a stream, and hang up at the end."""
    connection = HTTPConnection(address, timeout=60)
    connection.request("GET", "/page/live", headers=bearing(key) if key else {})
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def read_event(stream: HTTPResponse) -> Any:
    """Read the next event."""
    line = stream.readline()
    assert stream.readline() == b"\n"
    assert line.startswith(b"data: ")
    return json.loads(line[6:])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"key": False, "admin": False}),
        ({"api_keys": FIRST}, {"key": True, "admin": False}),
        ({"admin_key": SECOND}, {"key": False, "admin": True}),
        ({"api_keys": FIRST, "admin_key": SECOND}, {"key": True, "admin": True}),
    ],
)
def test_anyone_is_told_which_keys_are_asked_for(
    settings: dict[str, str], expected: dict[str, bool], serve: Serve
) -> None:
    """And nothing else, so the page can ask its reader before it is refused."""
    assert serve(**settings).get("/page/access").json() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_answered_as_they_stand(kind: str, tmp_path: Path) -> None:
    """Whatever the model reads, and whether or not its file carries golden vectors."""
    export, settings = KINDS[kind]
    with TestClient(create_app(Settings(model=export(tmp_path), **settings))) as client:
        given = client.get("/page/examples").json()
        field = "texts" if given["kind"] == "text" else "sequences"
        sequences = [one[field[:-1]] for one in given["examples"]]
        assert sequences
        answer = client.post("/encode", json={field: sequences, "model": given["model"]})
        assert answer.status_code == 200, answer.text
    if field == "sequences":
        assert answer.json()["lengths"] == [one["stop"] - one["start"] for one in given["examples"]]


def test_whole_examples_are_the_golden_vectors_exactly() -> None:
    """Each gives the embedding that was proven, and its parts are parts of it."""
    with TestClient(create_app(Settings(model=SHIPPED_MODEL))) as client:
        given = client.get("/page/examples").json()["examples"]
        manifest = service_of(client.app).models.find(None).session.manifest
    golden = [one.sequence.array() for one in manifest.golden if one.sequence.shape[0]]  # type: ignore[union-attr]
    assert {one["of"] for one in given} == {*range(1, len(golden) + 1)}
    assert len(given) > len(golden)
    for one in given:
        assert same_bits(one["sequence"], golden[one["of"] - 1][one["start"] : one["stop"]])


def test_costs_are_those_that_were_measured(client: TestClient) -> None:
    """Every shape with its seconds, the arrangements with the chosen one first, and what real runs say."""
    assert client.post("/encode", json={"sequences": PAIR}).status_code == 200
    told = client.get("/page/costs?model=made").json()
    calibrator = service_of(client.app).models.find(None).calibrator
    assert {(rows, steps): seconds for rows, steps, seconds in told["measured"]} == calibrator.costs.measured
    assert told["arrangements"] == [one.model_dump() for one in calibrator.arrangements]
    assert (told["cpus"], told["runs"]) == (calibrator.cpus, calibrator.costs.runs)
    assert client.get("/page/costs?model=other").status_code == 404


@pytest.mark.usefixtures("quick")
def test_the_stream_tells_what_was_counted_and_each_batch_once(artifact: Path) -> None:
    """Totals grow, and a batch that ended between two events is in the later one alone."""
    app = create_app(Settings(model=artifact))
    with listen(app) as address, watching(address) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        first = read_event(stream)
        assert (first["models"]["made"]["sequences"], first["batches"], first["running"]) == (0, [], 0)
        asking = HTTPConnection(address, timeout=60)
        asking.request("POST", "/encode", json.dumps({"sequences": PAIR}))
        assert asking.getresponse().status == 200
        asking.close()
        events = [read_event(stream)]
        while events[-1]["models"]["made"]["requests"] == 0:
            events.append(read_event(stream))
        events += [read_event(stream), read_event(stream)]
        told, batches = events[-1]["models"]["made"], [batch for event in events for batch in event["batches"]]
        assert (told["requests"], told["sequences"], told["waiting"]) == (1, len(PAIR), 0)
        assert sorted(length for batch in batches for length in batch["lengths"]) == sorted(map(len, PAIR))
        assert told["padded_steps"] == sum(batch["padded_steps"] for batch in batches)
        assert told["batches"] == len(batches)
        assert set(told["stages"]) == {"decode", "queue", "run", "encode"}


def test_each_sequence_is_told_with_its_place_in_the_order_of_arrival(client: TestClient) -> None:
    """Requests and their rows come back in the order in which they were sent, however batches were cut."""
    sent = [[5, 1, 3], [2], [4, 1]]
    for lengths in sent:
        body = {"sequences": [[[0.5] * FEATURES] * length for length in lengths]}
        assert client.post("/encode", json=body).status_code == 200
    batches = asyncio.run(showing.tell_live(service_of(client.app), {}))["batches"]
    assert {batch["queue"] for batch in batches} == {"0 made@1"}
    rows = sorted(row for batch in batches for row in zip(batch["places"], batch["lengths"], strict=True))
    assert rows == [*enumerate(length for lengths in sent for length in lengths)]


def test_what_several_processes_tell_is_added_up(client: TestClient) -> None:
    """Each figure is the sum, of waits the longest counts, and batches are in the order in which they ended."""
    assert client.post("/encode", json={"sequences": PAIR}).status_code == 200
    one = asyncio.run(showing.tell_live(service_of(client.app), {}))
    assert showing.join_live([one]) == {name: part for name, part in one.items() if name != "number"}
    other = json.loads(json.dumps(one))
    other["models"]["made"]["wait_seconds"] = 2.0
    other["models"]["more"] = other["models"]["made"]
    for batch in other["batches"]:
        batch["at"] -= 1
    whole = showing.join_live([one, other])
    assert whole["runners"] == 2 * one["runners"]
    made, alone = whole["models"]["made"], one["models"]["made"]
    assert (made["sequences"], made["stages"]["run"]) == (2 * alone["sequences"], 2 * alone["stages"]["run"])
    assert made["wait_seconds"] == 2.0
    assert whole["models"]["more"] == other["models"]["more"]
    assert [batch["at"] for batch in whole["batches"]] == sorted(batch["at"] for batch in whole["batches"])
    assert len(whole["batches"]) == 2 * len(one["batches"])
    hidden = asyncio.run(showing.tell_live(service_of(client.app), None))
    assert showing.join_live([hidden, hidden])["batches"] is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("settings", "key", "sees"),
    [
        ({}, None, True),
        ({"api_keys": FIRST}, FIRST, False),
        ({"admin_key": SECOND}, None, False),
        ({"admin_key": SECOND}, SECOND, True),
        ({"api_keys": FIRST, "admin_key": SECOND}, FIRST, False),
        ({"api_keys": FIRST, "admin_key": SECOND}, SECOND, True),
    ],
)
def test_batches_in_the_stream_are_for_admins_if_there_is_any_key(
    settings: dict[str, str],
    key: str | None,
    sees: bool,  # noqa: FBT001 - a parameter of the test
    artifact: Path,
) -> None:
    """They hold the lengths of others' sequences; without any key the service makes no difference between callers."""
    with listen(create_app(Settings(model=artifact, **settings))) as address:  # type: ignore[arg-type]
        with watching(address, key) as stream:
            assert (read_event(stream)["batches"] is not None) == sees
        if "api_keys" in settings:
            with watching(address) as refused:
                assert refused.status == 401


@pytest.mark.usefixtures("quick")
def test_a_stream_ends_when_its_client_hangs_up(artifact: Path) -> None:
    """And makes room for another: no more watch at a time than may."""
    app = create_app(Settings(model=artifact))
    service = service_of(app)
    with listen(app) as address:
        with watching(address) as stream:
            read_event(stream)
            assert service.watchers == 1
            service.watchers += showing.MAX_WATCHERS - 1
            with watching(address) as refused:
                assert refused.status == 503
                assert b"watch this process" in refused.read()
            service.watchers -= showing.MAX_WATCHERS - 1
        wait_until(lambda: service.watchers == 0)
        with watching(address) as stream:
            read_event(stream)


@pytest.mark.usefixtures("quick")
def test_a_client_that_does_not_read_its_stream_is_cut_off(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives its place to others, whatever it sends meanwhile; one that reads keeps its own."""
    monkeypatch.setattr(showing, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(showing, "LOOKS", 1)
    app = create_app(Settings(model=artifact))
    service = service_of(app)
    with listen(app) as address, watching(address) as stream, socket.socket() as idle:
        read_event(stream)
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**11)  # so that a few events fill it
        host, port = address.split(":")
        idle.connect((host, int(port)))
        idle.sendall(b"GET /page/live HTTP/1.1\r\nHost: here\r\n\r\n")
        with suppress(OSError):  # once it is cut off
            for _ in range(2000):
                read_event(stream)
                idle.sendall(b"G")  # a byte of a request that never comes
        wait_until(lambda: service.watchers == 1)
        assert service.telemetry.closed["unread"] == 1
        read_event(stream)


@pytest.mark.usefixtures("quick")
def test_a_stream_ends_when_the_service_drains(client: TestClient) -> None:
    """It says so, and nobody is left watching."""
    service, sent = service_of(client.app), []

    async def send(message: Any) -> None:
        sent.append(message)
        service.is_draining = len(sent) == 3

    async def receive() -> Any:
        raise AssertionError("nothing is asked of the client")

    asyncio.run(LiveStream(service, sees_batches=True)({}, receive, send))
    service.is_draining = False
    bodies = [message["body"] for message in sent[1:]]
    assert bodies[-1] == b"event: end\ndata: {}\n\n"
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]
    assert service.watchers == 0


def test_sigterm_ends_a_process_that_is_watched(artifact: Path) -> None:
    """The stream ends in order, and the process does not wait for the time to drain."""
    flags = ("--model", str(artifact), "--drain-seconds", "600")
    with start_service(*flags) as (process, url), watching(url.removeprefix("http://")) as stream:
        read_event(stream)
        process.send_signal(signal.SIGTERM)
        assert stream.read().endswith(b"event: end\ndata: {}\n\n")
        assert process.wait(60) == -signal.SIGTERM


def test_the_stream_of_any_worker_speaks_for_the_whole_service(artifact: Path) -> None:
    """Whichever takes a connection has the files and the examples, and tells every batch of all workers, once."""
    with start_two("--model", str(artifact)) as (process, url):
        wait_for_both(process, url)
        address = url.removeprefix("http://")
        connections = [HTTPConnection(address, timeout=60) for _ in range(4)]
        for connection in connections:  # all open, so that they are shared out
            for path in ("/", "/page/app.js", "/page/examples"):
                connection.request("GET", path)
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (200, True)
            connection.request("POST", "/encode", json.dumps({"sequences": PAIR}))
            assert connection.getresponse().read()
        told = []
        for connection in connections:
            connection.request("GET", "/page/live")
            stream = connection.getresponse()
            told.append([read_event(stream), read_event(stream)])
            connection.close()
    for first, second in told:
        assert first["models"]["made"]["sequences"] == 4 * len(PAIR)
        assert sum(len(batch["lengths"]) for batch in first["batches"]) == 4 * len(PAIR)
        assert second["batches"] == []
    assert len({event["runners"] for events in told for event in events}) == 1
