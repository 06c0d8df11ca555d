"""An answer leaves in one piece; who hangs up, or is idle for long, is not waited for."""

import asyncio
import gc
import json
import logging
import socket
import struct
import threading
import tomllib
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.endpoints import native
from service.api.endpoints.streams import WINDOW_LINES, LineStream
from service.app import create_app
from service.batching.engine import Engine
from service.encoder.sequences import Batch, Embeddings
from service.server.transport import WatchingProtocol
from service.server.writing import CountingTransport
from service.settings import Settings
from tests.conftest import draw_sequences
from tests.listening import listen
from tests.waiting import wait_until
from tests.wire import TURNS, Echo, Wire, converse

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_head_and_body_leave_together() -> None:
    """Each answer is one write, also if its body comes in a later turn of the loop, and the last one is not lost."""
    writes = converse(
        Echo(), GET % b"a", GET % b"slow", GET.replace(b"Host", b"Connection: close\r\nHost") % b"b"
    ).writes
    assert [json.loads(write.partition(b"\r\n\r\n")[2])[1] for write in writes] == ["/a", "/slow", "/b"]


class Told:
    """An app that answers with a status, headers and the parts of a body."""

    def __init__(self, status: int, headers: dict[str, str], *parts: bytes) -> None:
        """Keep the answer."""
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._status, self._parts = status, parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        for number, part in enumerate(self._parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(self._parts)})


def test_an_older_uvicorn_is_not_installed() -> None:
    """Under 0.53 a request that ends its connection does not, and under 0.45 none is answered."""
    asked = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (oldest,) = (one.partition(">=")[2] for one in asked if one.startswith("uvicorn"))
    assert [*map(int, oldest.split("."))] >= [0, 53]


PARTS = Told(200, {}, b"some", b"", b"more", b"")
ENDINGS = (b"1.1", b"1.0", b"1.1\r\nConnection: close")
WHOLE = (
    Told(200, {"content-length": "5", "x-more": "1"}, b"whole"),
    Told(200, {"content-length": "5"}, b"in ", b"2."),
    Told(404, {"connection": "close", "content-length": "0"}, b""),
    Told(204, {}, b""),
    Told(304, {"etag": "x"}, b""),
)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("told", "ending"), [*product(WHOLE, ENDINGS), *((PARTS, ending) for ending in ENDINGS if ending != b"1.0")]
)
def test_answers_are_written_as_uvicorn_does(told: Told, ending: bytes, method: bytes) -> None:
    """Byte for byte, whatever the method, the version of HTTP and the way the body is framed."""
    sent = b"%s / HTTP/%s\r\nHost: x\r\n\r\n" % (method, ending)
    ours, theirs = converse(told, sent), converse(told, sent, protocol=HttpToolsProtocol)
    assert b"".join(ours.writes) == b"".join(theirs.writes)
    assert ours.is_kept == theirs.is_kept


@pytest.mark.parametrize("asked", [b"", b"Connection: keep-alive\r\n"], ids=["alone", "kept"])
def test_http_1_0_gets_no_chunks(asked: bytes) -> None:
    """It does not know them: a body of no known length ends with its connection, which is closed and not kept."""
    wire = converse(PARTS, b"GET / HTTP/1.0\r\n" + asked + b"Host: x\r\n\r\n")
    head, _, body = b"".join(wire.writes).partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[1:] == [b"connection: close"]
    assert body == b"somemore"
    assert not wire.is_kept
    wire = converse(PARTS, b"HEAD / HTTP/1.0\r\n" + asked + b"Host: x\r\n\r\n")
    assert b"".join(wire.writes).endswith(b"\r\n\r\n")
    assert not wire.is_kept


def test_http_1_0_reads_a_stream_to_its_end(artifact: Path) -> None:
    """Over a socket, each line is answered by a line of the bits that a plain request gets, and by nothing else."""
    sequences = draw_sequences([3, 1, 2])
    lines = b"".join(json.dumps(steps.tolist()).encode() + b"\n" for steps in sequences)
    with listen(create_app(Settings(model=artifact))) as address:
        body = {"sequences": [steps.tolist() for steps in sequences]}
        expected = httpx.post(f"http://{address}/encode", json=body).json()["embeddings"]
        host, port = address.split(":")
        with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
            head = b"POST /encode HTTP/1.0\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(lines) + lines)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    told = [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]
    assert told == [{"index": index, "embedding": one} for index, one in enumerate(expected)]


def test_a_header_that_would_be_two_is_not_sent() -> None:
    """Whoever could put a line break into a header could write headers of the service's answer."""
    (write,) = converse(Told(200, {"x-id": "1\r\nset-cookie: 2"}, b""), GET % b"").writes[-1:]
    assert b"set-cookie" not in write


@pytest.mark.parametrize("length", ["4", "6"])
def test_a_body_of_another_length_ends_the_connection(length: str) -> None:
    """Its reader would take the next answer for the rest of it, or the rest of it for the next answer."""
    wire = converse(Told(200, {"content-length": length}, b"whole"), GET % b"", GET % b"")
    assert not wire.is_kept


def test_what_comes_after_the_end_is_dropped() -> None:
    """A closed transport would fail on it, or fill the log."""
    wire = Wire()
    transport = CountingTransport(wire)
    transport.write(b"last")
    wire.close()
    transport.write(b"late")
    assert wire.writes == [b"last"]
    assert transport.taken == 4


class Clockwork:
    """The running loop, with a clock and timers that the test turns."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._loop = asyncio.get_running_loop()
        self.now = 0.0
        self.due: dict[float, Callable[[], None]] = {}

    def time(self) -> float:
        """Return the time."""
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.Handle:
        """Keep a timer, unless it is for another purpose."""
        if seconds < WatchingProtocol.look_seconds:
            self.due[self.now + seconds] = callback
        return asyncio.Handle(callback, [], self._loop)

    def turn(self, now: float) -> None:
        """Set the clock, and call what is due then."""
        self.now = now
        if callback := self.due.pop(now, None):
            callback()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_connection_has_one_timer_and_is_closed_when_idle() -> None:
    """However many requests it brings; one that comes in pieces at the end of that time is waited for."""

    async def ask(protocol: WatchingProtocol, *parts: bytes) -> None:
        for part in parts:
            protocol.data_received(part)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def run() -> None:
        loop, wire = Clockwork(), Wire()
        config = uvicorn.Config(Echo(), log_config=None, access_log=False, timeout_keep_alive=5)
        protocol = WatchingProtocol(config, ServerState(), {}, loop)
        protocol.connection_made(wire)
        await ask(protocol, GET % b"a", GET % b"b")
        loop.turn(3.0)
        await ask(protocol, GET % b"c")
        assert [*loop.due] == [5.0]
        loop.turn(5.0)
        assert [*loop.due] == [8.0]
        await ask(protocol, GET[:5])
        loop.turn(8.0)
        assert not loop.due
        await ask(protocol, (GET % b"d")[5:])
        assert [*loop.due] == [13.0]
        assert not wire.is_closing()
        loop.turn(13.0)
        assert wire.is_closing()
        assert len(wire.writes) == 4

    asyncio.run(run())


def test_who_does_not_wait_is_not_told_to_send() -> None:
    """A body that came with its head, or before it was asked for, needs no `100 Continue`."""
    head = b"POST /asked HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    assert [write for write in converse(Echo(), head + b"body").writes if write == CONTINUE] == []
    assert [write for write in converse(Echo(), head + b"bo", b"dy").writes if write == CONTINUE] == []
    waiting = converse(Echo(), head, b"body")
    assert waiting.writes[0] == CONTINUE
    assert len(waiting.writes) == 2


class Leavers:
    """An app that listens, and clients of it that do not stay."""

    def __init__(self, artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Prepare to listen, and to hear what is logged."""
        self._app = create_app(Settings(model=artifact, log_format="json"))
        self.telemetry = self._app.state.service.telemetry
        self._caplog = caplog

    @contextmanager
    def listen(self) -> Iterator[tuple[str, httpx.Client]]:
        """Listen, and fail if anything was logged."""
        loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio", "lengthwise")]
        with listen(self._app) as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
            client.get("/health/live")
            self._caplog.clear()
            for logger in loggers:
                logger.addHandler(self._caplog.handler)
            try:
                yield address, client
            finally:
                for logger in loggers:
                    logger.removeHandler(self._caplog.handler)
        assert [record.getMessage() for record in self._caplog.records if record.levelno > logging.DEBUG] == []

    def count(self) -> int:
        """Return the requests to encode that are over."""
        return sum(number for (_, route, _), number in self.telemetry.requests.items() if route == "/encode")


def ask_and_leave(address: str, sequences: list[list[list[float]]], times: int, *, is_rude: bool) -> None:
    """Ask for embeddings as often in one write, read the first bytes of an answer, and leave."""
    body = json.dumps({"sequences": sequences}).encode()
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    sent = head + b"%d\r\n\r\n" % len(body) + body
    host, port = address.split(":")
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((host, int(port)))
        connection.sendall(sent * times)
        assert connection.recv(12) == b"HTTP/1.1 200"
        if is_rude:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_leaving_during_a_large_answer_is_counted_and_not_logged(
    artifact: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not the client says goodbye to TCP."""
    leavers = Leavers(artifact, caplog)
    with leavers.listen() as (address, client):
        for number in range(8):
            ask_and_leave(address, [[[0.5, 1.0, 2.0]]] * 20_000, 1, is_rude=number % 2 == 0)
        wait_until(lambda: leavers.telemetry.of("made").cancelled["answer"] == leavers.count() == 8)
        assert client.get("/health/live").status_code == 200
    assert leavers.telemetry.of("made").cancelled == {"body": 0, "queue": 0, "run": 0, "answer": 8}
    assert leavers.telemetry.inflight == 0
    assert '"/encode"' not in capsys.readouterr().err


def test_leaving_while_requests_wait_in_line_is_counted_and_not_logged(
    artifact: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each request of those sent at once was answered, or is counted as left; none is computed for nobody."""
    leavers = Leavers(artifact, caplog)
    with leavers.listen() as (address, client):
        for number in range(40):
            ask_and_leave(address, [[[0.5, 1.0, 2.0]]], 20, is_rude=number % 2 == 0)
        wait_until(lambda: leavers.count() == 40 * 20)
        assert client.get("/health/live").status_code == 200
    answered = leavers.telemetry.requests["made", "/encode", 200]
    left = sum(sum(leavers.telemetry.of(model).cancelled.values()) for model in ("", "made"))
    assert answered + left == 40 * 20
    assert leavers.telemetry.inflight == 0
    assert capsys.readouterr().err.count('"/encode"') == answered


def test_what_waits_for_a_client_that_hung_up_never_runs(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Over a real socket: its sequences leave the queue as the connection ends; others are answered, nothing logged."""
    app = create_app(Settings(model=artifact, runners=1, max_batch_sequences=1))
    session = app.state.service.models.find(None).session
    gate, ran, run = threading.Event(), [], session.run

    def wait(batch: Batch) -> Embeddings:
        ran.append(batch.steps.shape[1])
        gate.wait(60)
        embeddings: Embeddings = run(batch)
        return embeddings

    def post(length: int) -> socket.socket:
        steps = draw_sequences([length])[0].tolist()
        body = json.dumps({"sequences": [steps]}).encode()
        connection = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        return connection

    with listen(app) as address, httpx.Client(base_url=f"http://{address}") as client:
        host, _, port = address.partition(":")
        session.run = wait
        app.state.service.models.find(None).calibrator.costs.factors = {
            False: 10.0,
            True: 10.0,
        }  # so that runs are left to the runner
        queues, queue = app.state.service.engine.queues, app.state.service.models.find(None).queue

        def await_waiting(number: int) -> None:
            wait_until(lambda: queues.forecast(queue, 0.0).sequences == number)
            assert client.get("/health/live").status_code == 200

        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.addHandler(caplog.handler)
        caplog.clear()
        with closing(post(2000)) as first:
            wait_until(lambda: bool(ran))
            gone, last = post(30), post(40)
            await_waiting(2)
            gone.close()
            await_waiting(1)
            gate.set()
            assert first.recv(12) == last.recv(12) == b"HTTP/1.1 200"
            last.close()
        uvicorn_log.removeHandler(caplog.handler)
    assert ran == [2000, 40]
    assert not caplog.records


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The collector does not run."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_a_connection_that_ended_is_let_go_at_once() -> None:
    """No cycle holds it: the collector, which the service calls seldom, is not needed for connections."""
    made: list[weakref.ref[WatchingProtocol]] = []

    class Watched(WatchingProtocol):
        """A connection that is known to the test."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(weakref.ref(self))

    with listen(Told(200, {"content-length": "2"}, b"ok"), http=Watched) as address:
        host, port = address.split(":")
        for asked in (b"", GET % b"", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nsome"):
            with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
                connection.sendall(asked)
                assert not asked or connection.recv(65536)
        wait_until(lambda: [one() for one in made] == [None] * 3)


@pytest.mark.usefixtures("uncollected")
def test_a_stream_whose_client_hung_up_is_let_go_at_once(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what it was told of the end nor the windows under way hold what was read of its body."""
    made: list[weakref.ref[LineStream]] = []
    begun = threading.Semaphore(0)

    class Watched(LineStream):
        """A stream that is known to the test."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    async def wait(*_arguments: Any, **_options: Any) -> None:
        begun.release()
        await asyncio.Future()

    monkeypatch.setattr(native, "LineStream", Watched)
    monkeypatch.setattr(Engine, "encode", wait)
    with listen(create_app(Settings(model=artifact))) as address:
        host, port = address.split(":")
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            head = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 9999\r\n"
            connection.sendall(head + b"\r\n" + b"[[1, 2, 3]]\n" * (WINDOW_LINES + 1))
            assert begun.acquire(timeout=60)  # the window that is sent next
            assert begun.acquire(timeout=60)  # and one that nothing waits for
        wait_until(lambda: [one() for one in made] == [None])
