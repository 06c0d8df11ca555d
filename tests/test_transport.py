"""What is written in one turn of the event loop leaves in one piece; who hangs up is not waited for."""

import asyncio
import json
import logging
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.sequences import Batch, Embeddings
from service.settings import Settings
from service.transport import GatheringTransport
from tests.conftest import draw_sequences
from tests.listening import listen


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


def test_what_waits_for_a_client_that_hung_up_never_runs(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Over a real socket: its sequences leave the queue as the connection ends; others are answered, nothing logged."""
    app = create_app(Settings(model=artifact, runners=1, max_batch_sequences=1))
    session = app.state.service.models.find(None).session
    gate, ran, run = threading.Event(), [], session.run

    def wait(batch: Batch) -> Embeddings:
        ran.append(batch.time)
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
        scheduler = app.state.service.models.find(None).scheduler

        def await_waiting(number: int) -> None:
            for _ in range(500):
                if scheduler.waiting == number:
                    return
                assert client.get("/health/live").status_code == 200  # a turn of the loop
            pytest.fail(f"{scheduler.waiting} sequences wait, not {number}")

        uvicorn_log = logging.getLogger("uvicorn.error")
        uvicorn_log.addHandler(caplog.handler)
        caplog.clear()
        with closing(post(2000)) as first:
            for _ in range(500):
                if ran:
                    break
                client.get("/health/live")
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
