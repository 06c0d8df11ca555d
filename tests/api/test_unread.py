"""Answers that nobody reads: how much of them the service holds, who is cut off, and what others get meanwhile."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.load.launch import start_service
from service.api.front import Front
from service.api.unread import COUNTED_BYTES, PATIENCE_BYTES, PATIENCE_SECONDS, READER, Reader, Unread
from service.app import create_app
from service.codecs.binary import arrow
from service.codecs.json import ndjson
from service.errors import AnswersUnread, AnswerTooLarge
from service.server.transport import WatchingProtocol
from service.settings import Settings
from tests.api.test_crowd import read_metric
from tests.api.test_security import read_to_end
from tests.api.test_stream import write_lines
from tests.conftest import ARTIFACTS
from tests.listening import listen
from tests.waiting import wait_until

MIB = 2**20


class Way:
    """A way on which bytes are taken as a test says."""

    def __init__(self, buffered: int = 0) -> None:
        self.taken = 0
        self.buffered = buffered
        self.is_open = True

    def get_write_buffer_size(self) -> int:
        """Return what a test says."""
        return self.buffered

    def get_extra_info(self, name: str) -> None:
        """Return nothing: there is no connection."""

    def abort(self) -> None:
        """Close it."""
        self.is_open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("service.api.unread.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_new_work_is_refused_until_a_slow_reader_may_go(clock: SimpleNamespace) -> None:
    """Only who took next to nothing for some seconds makes room; who reads on has that time again and again."""
    cut_off: list[str] = []
    unread = Unread(100, lambda: cut_off.append("reader"))
    ways = [Way(), Way()]
    slow, steady = (Reader(unread, way) for way in ways)
    for reader in (slow, steady):
        reader.expect(40)
        reader.stall()
    late = Reader(unread, Way())
    with pytest.raises(AnswersUnread, match="`max_unread_bytes`") as refused:
        late.expect(40)
    assert refused.value.retry_after_seconds == PATIENCE_SECONDS
    clock.now = PATIENCE_SECONDS
    ways[0].taken, ways[1].taken = PATIENCE_BYTES - 1, PATIENCE_BYTES
    late.expect(40)
    assert [way.is_open for way in ways] == [False, True]
    assert (unread.held, cut_off) == (80, ["reader"])
    with pytest.raises(AnswersUnread):
        Reader(unread, Way()).expect(40)
    slow.owe(0)  # its request ends after it was cut off, and takes nothing from the others
    slow.leave()
    assert unread.held == 80


def test_what_is_there_already_makes_room_at_once(clock: SimpleNamespace) -> None:
    """Where a buffer fills, or an answer is larger than expected, the one that stalled first goes, however lately."""
    unread = Unread(100)
    ways = [Way(buffered=40) for _ in range(3)]
    readers = [Reader(unread, way) for way in ways]
    for reader in readers:
        reader.stall()
        clock.now += 0.001
    assert [way.is_open for way in ways] == [False, True, True]
    readers[2].owe(30)
    assert [way.is_open for way in ways] == [False, False, True]
    readers[2].resume()
    assert unread.held == 30
    readers[2].leave()
    assert (unread.held, unread.stalled) == (0, {})


def test_an_answer_over_all_that_may_be_unread_never_has_room() -> None:
    """It is refused with what it would have, and nothing is counted."""
    unread = Unread(100)
    with pytest.raises(AnswerTooLarge, match=r"some 101 bytes: the limit is 100"):
        Reader(unread, Way()).expect(101)
    assert unread.held == 0


class Choked(WatchingProtocol):
    """Has the kernel hold little of what is not read."""

    def connection_made(self, transport: Any) -> None:
        """Begin a connection."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().connection_made(transport)


@contextmanager
def listen_to(app: Front) -> Iterator[str]:
    """Serve an app as `python -m service` does, with a kernel that holds little."""
    service = app.state.service
    with listen(app, http=partial(Choked, crowd=service.crowd, unread=service.unread)) as address:
        yield address


def connect_slowly(address: str) -> socket.socket:
    """Open a connection on which little is taken that is not read."""
    host, port = address.split(":")
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    return connection


def write_post(document: Any, path: str = "/encode") -> bytes:
    """Write a request."""
    body = json.dumps(document).encode()
    return b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


SMALL = {"sequences": [[[0.5, 0.5, 0.5]]]}
MANY = {"sequences": [[[0.5, 0.5, 0.5]]] * 5000}  # an answer of 16 numbers each: a megabyte


def test_slow_readers_hold_no_more_than_the_limit(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 that ask for a megabyte each, 3 get it; others are answered, and whoever reads gets a slow one's place."""
    monkeypatch.setattr("service.api.unread.PATIENCE_SECONDS", 600)  # or on a busy machine some were too slow already
    app = create_app(Settings(model=artifact, max_unread_bytes=4 * MIB))
    unread = app.state.service.unread
    with listen_to(app) as address, ExitStack() as opened:
        url = f"http://{address}"
        slow = [opened.enter_context(closing(connect_slowly(address))) for _ in range(12)]
        for connection in slow:
            connection.sendall(write_post(MANY))
        wait_until(lambda: len(unread.stalled) == 3 and app.state.service.telemetry.inflight == 3)
        wait_until(lambda: read_metric(url, "rejected_total", reason="answers-unread") == 9)
        assert httpx.post(f"{url}/encode", json=SMALL).status_code == 200
        assert 2 * MIB < unread.held <= 4 * MIB
        assert read_metric(url, "unread_bytes") == unread.held
        refused = httpx.post(f"{url}/encode", json=MANY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "600")
        problem = refused.json()
        assert problem["type"] == "urn:lengthwise:problem:answers-unread"
        assert (problem["limit"], problem["setting"]) == (4 * MIB, "LENGTHWISE_MAX_UNREAD_BYTES")
        assert read_metric(url, "rejected_total", reason="answers-unread") == 10
        monkeypatch.setattr("service.api.unread.PATIENCE_SECONDS", 0)
        answer = httpx.post(f"{url}/encode", json=MANY, timeout=60)
        assert len(answer.json()["embeddings"]) == 5000
        assert read_metric(url, "closed_connections_total", why="unread") == 1
        assert len(unread.stalled) == 2
        answered = [connection.recv(12) for connection in slow]
        assert sorted(answered) == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 9
    wait_until(lambda: unread.held == 0)


@pytest.mark.parametrize("hangs_up", [True, False])
def test_an_answer_is_counted_until_it_is_read_or_nobody_is_left(artifact: Path, hangs_up: bool) -> None:  # noqa: FBT001
    """Then nothing is held any more, and nobody was cut off."""
    app = create_app(Settings(model=artifact))
    unread = app.state.service.unread
    with listen_to(app) as address:
        with closing(connect_slowly(address)) as connection:
            connection.sendall(write_post(MANY).replace(b"host: x", b"host: x\r\nconnection: close"))
            wait_until(lambda: len(unread.stalled) == 1)
            assert unread.held > MIB
            if not hangs_up:
                head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert len(json.loads(body)["embeddings"]) == 5000
        wait_until(lambda: unread.held == 0)
        assert not unread.stalled
        assert app.state.service.telemetry.closed == {"idle": 0, "unread": 0}


def test_an_answer_over_the_limit_is_never_begun(artifact: Path) -> None:
    """It is 413 with the setting, before any of it is computed; in a smaller form it is answered."""
    app = create_app(Settings(model=artifact, max_unread_bytes=MIB))
    with listen_to(app) as address:
        refused = httpx.post(f"http://{address}/encode", json=MANY)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (413, "false")
        problem = refused.json()
        assert problem["type"] == "urn:lengthwise:problem:answer-too-large"
        assert (problem["limit"], problem["setting"]) == (MIB, "LENGTHWISE_MAX_UNREAD_BYTES")
        assert app.state.service.engine.requests == 0
        smaller = httpx.post(f"http://{address}/encode", json=MANY, headers={"Accept": "application/x-npy"})
        assert smaller.status_code == 200


def test_the_limit_is_shared_out_among_processes(artifact: Path) -> None:
    """What one of two refuses is half of the setting; by default each has its own."""
    assert Settings(processes=2).unread_bytes == Settings().unread_bytes == 256 * MIB
    with start_service("--model", str(artifact), "--processes", "2", "--max-unread-bytes", str(MIB)) as (_, url):
        assert httpx.post(f"{url}/encode", json=MANY).json()["limit"] == MIB // 2


def test_unread_buffers_count() -> None:
    """An answer that was not counted in advance is once it waits for its reader; the oldest make room for new ones."""

    async def answer(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(b"~" * 300_000)

    cut_off: list[int] = []
    unread = Unread(MIB, lambda: cut_off.append(1))
    app = Starlette(routes=[Route("/", answer)])
    with listen(app, http=partial(Choked, unread=unread)) as address, ExitStack() as opened:
        slow = [opened.enter_context(closing(connect_slowly(address))) for _ in range(6)]
        for number, connection in enumerate(slow):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            expected = (min(number + 1, 3), max(number - 2, 0))
            wait_until(lambda: (len(unread.stalled), len(cut_off)) == expected)  # noqa: B023 - it is called at once
            assert unread.held <= MIB
        sizes = []
        for connection in slow:
            try:
                sizes.append(len(read_to_end(connection)))
            except ConnectionResetError:
                sizes.append(0)
        assert [size > 300_000 for size in sizes] == [False] * 3 + [True] * 3


def test_nothing_is_begun_for_who_has_not_read_what_came_before() -> None:
    """The next request on a connection waits until the answer before it is read; then it is answered."""
    begun: list[str] = []

    async def answer(request: Request) -> PlainTextResponse:
        begun.append(request.url.path)
        return PlainTextResponse(b"~" * 300_000)

    unread = Unread(inf)
    app = Starlette(routes=[Route("/{name}", answer)])
    with listen(app, http=partial(Choked, unread=unread)) as address, closing(connect_slowly(address)) as connection:
        connection.sendall(b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: len(unread.stalled) == 1)
        connection.sendall(b"GET /second HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert httpx.get(f"http://{address}/other").status_code == 200
        assert httpx.get(f"http://{address}/other").status_code == 200
        assert begun == ["/first", "/other", "/other"]
        assert read_to_end(connection).count(b"~") == 600_000
    assert begun[-1] == "/second"


def test_windows_of_a_stream_count(artifact: Path) -> None:
    """Those that were encoded and not sent are held, within the limit; a stream that is not read is the first to go."""
    app = create_app(Settings(model=artifact))
    unread = app.state.service.unread
    lines = b"".join(write_lines([1] * 3000))
    head = (
        f"POST /encode HTTP/1.1\r\nhost: x\r\ncontent-type: {ndjson.MEDIA_TYPE}\r\ncontent-length: {len(lines)}\r\n\r\n"
    )
    with listen_to(app) as address, closing(connect_slowly(address)) as connection:
        connection.setblocking(False)
        connection.send(head.encode() + lines)
        wait_until(lambda: len(unread.stalled) == 1 and unread.held > COUNTED_BYTES + 8 * 128 * 150)
        unread.limit = unread.held - 1
        other = Reader(unread, Way())
        other.owe(1)
        wait_until(lambda: unread.held == 1)
        assert app.state.service.telemetry.closed["unread"] == 1


class Recorder(Reader):
    """Keeps what was expected and what came."""

    def __init__(self) -> None:
        super().__init__(Unread(inf), Way())
        self.expected: list[int] = []
        self.came: list[int] = []

    def expect(self, size: int) -> None:
        """Keep it."""
        self.expected.append(size)

    def owe(self, size: int) -> None:
        """Keep it."""
        self.came.append(size)


def read_by(app: ASGIApp, reader: Reader) -> ASGIApp:
    """Let a reader read what an app answers."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        scope[READER] = reader
        await app(scope, receive, send)

    return serve


ROWS = 700
TENSORS = [
    {"name": "sequences", "shape": [ROWS, 2, 3], "datatype": "FP32", "data": [0.25] * (ROWS * 6)},
    {"name": "lengths", "shape": [ROWS], "datatype": "INT64", "data": [1] * ROWS},
]


@pytest.mark.parametrize(
    ("path", "document", "headers"),
    [
        ("/encode", {}, {}),
        ("/encode", {"encoding_format": "base64"}, {}),
        ("/encode", {"outputs": ["embedding", "steps", "state"]}, {}),
        ("/encode", {"outputs": ["steps"]}, {}),
        ("/encode", {}, {"Accept": "application/x-npy"}),
        ("/encode", {}, {"Accept": arrow.MEDIA_TYPE}),
        ("/v1/embeddings", {"model": "made"}, {}),
        ("/v1/embeddings", {"model": "made", "encoding_format": "base64"}, {}),
        ("/v2/models/made/infer", {"outputs": [{"name": "embedding"}]}, {}),
        ("/v2/models/made/infer", {}, {}),
        ("/v2/models/made/infer", {"parameters": {"binary_data_output": True}}, {}),
    ],
)
def test_the_size_of_an_answer_is_known_before_it_is_computed(
    path: str, document: Any, headers: dict[str, str]
) -> None:
    """In every format, to a sixth or so: decimals of random weights take somewhat more than the shipped encoder's."""
    steps = np.random.default_rng(0).standard_normal((ROWS, 1, 3)).round(3).tolist()
    field = {"/encode": "sequences", "/v1/embeddings": "input"}.get(path)
    content = {**document, field: steps} if field else {**document, "inputs": TENSORS}
    recorder = Recorder()
    app = create_app(Settings(model=ARTIFACTS / "triples-wide.onnx"))
    with TestClient(read_by(app, recorder)) as client:
        response = client.post(path, json=content, headers=headers)
    assert response.status_code == 200, response.text
    (expected,), (came,) = recorder.expected, recorder.came
    assert came == len(response.content)
    assert 0.85 < expected / came < 1.3


def test_small_answers_are_not_counted(artifact: Path) -> None:
    """What fits in the buffer of a connection costs no thought."""
    recorder = Recorder()
    with TestClient(read_by(create_app(Settings(model=artifact)), recorder)) as client:
        assert client.post("/encode", json=SMALL).status_code == 200
    assert recorder.expected == recorder.came == []
