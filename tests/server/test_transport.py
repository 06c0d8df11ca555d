"""What is written in one turn of the event loop leaves in one piece; who hangs up is not waited for."""

import asyncio
import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.encoder.sequences import Batch, Embeddings
from service.server.transport import CONTINUE, GatheringTransport
from service.settings import Settings
from tests.conftest import draw_sequences
from tests.listening import listen
from tests.waiting import wait_until
from tests.wire import Echo, converse


class Recorder:
    """A transport that keeps what was done to it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, part: bytes) -> None:
        """Keep what was written."""
        self.calls.append(part)

    def close(self) -> None:
        """Keep that it was closed."""
        self.calls.append("close")

    def is_closing(self) -> bool:
        """Say something."""
        return "close" in self.calls


@pytest.fixture
def recorder() -> Recorder:
    """A transport underneath."""
    return Recorder()


def test_writes_of_one_turn_leave_together(recorder: Recorder) -> None:
    """Head and body are one write, at once; what stands alone leaves in the next turn; nothing is sent twice."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(b"head ")
        assert recorder.calls == []
        transport.write(b"body")
        assert recorder.calls == [b"head body"]
        transport.write(b"next")
        assert recorder.calls == [b"head body"]
        await asyncio.sleep(0)
        assert recorder.calls == [b"head body", b"next"]

    asyncio.run(write())


def test_closing_sends_what_is_held_first(recorder: Recorder) -> None:
    """The last answer of a connection is not lost, and the rest of the transport is as it was."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(b"last")
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
        await asyncio.sleep(0)
        assert recorder.calls == [b"last", "close"]

    asyncio.run(write())


def test_what_comes_after_the_end_is_dropped(recorder: Recorder) -> None:
    """A closed transport would fail on it, or fill the log."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(b"held")
        recorder.close()  # as it does by itself if the client hangs up
        await asyncio.sleep(0)
        transport.write(b"head")
        transport.write(b"body")
        transport.close()
        assert b"".join(call for call in recorder.calls if call != "close") == b""

    asyncio.run(write())


def test_who_waits_to_be_told_to_send_is_told_at_once(recorder: Recorder) -> None:
    """`100 Continue` is a write by itself, before which the answer of an earlier request leaves."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(CONTINUE)
        assert recorder.calls == [CONTINUE]
        transport.write(b"head ")
        transport.write(b"body")
        assert recorder.calls == [CONTINUE, b"head body"]

    asyncio.run(write())


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
