"""Feeds the service's protocol what a client sends, cut as the test likes, without a socket in between."""

import asyncio
import json
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.server.transport import WatchingProtocol

TURNS = 20  # of the event loop, in which the apps of these tests have long answered


class Wire(asyncio.Transport):
    """A transport that keeps what was written.

    Attributes:
        writes: all that was.
        is_kept: whether the connection was open when all was answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_kept = True
        self._is_closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        assert not self._is_closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        """Take no more."""
        self._is_closed = True

    def is_closing(self) -> bool:
        """Tell whether the service closed the connection."""
        return self._is_closed

    def get_write_buffer_size(self) -> int:
        """Tell that all was taken."""
        return 0

    def pause_reading(self) -> None:
        """Do nothing: the test sends when it likes."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: all is taken at once."""


class Echo:
    """An app that answers with what it was asked, and keeps it.

    A path that begins with `/early` is answered before its body is read, one that begins with `/slow` in several turns
    of the event loop.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        body, is_whole = b"", scope["path"].startswith("/early")
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            is_whole = not message["more_body"]
        self.asked.append((scope["method"], scope["path"], body))
        answer = json.dumps([scope["method"], scope["path"], body.decode()]).encode()
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if scope["path"].startswith("/slow"):
            for _ in range(TURNS // 4):
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": answer})


def converse(app: ASGIApp, *parts: bytes, protocol: type[HttpToolsProtocol] = WatchingProtocol) -> Wire:
    """Let an app answer what comes in these parts, each in a read of its own, as long as it reads.

    Args:
        app: the app.
        parts: what a client sends.
        protocol: who reads and writes in between.

    Returns:
        What was written, and whether the connection was kept.
    """

    async def run() -> Wire:
        wire = Wire()
        spoken = protocol(uvicorn.Config(app, log_config=None, access_log=False), ServerState(), {})
        spoken.connection_made(wire)
        for part in parts:
            if not wire.is_closing():
                spoken.data_received(part)
            for _ in range(TURNS):
                await asyncio.sleep(0)
        wire.is_kept = not wire.is_closing()
        spoken.connection_lost(None)
        return wire

    return asyncio.run(run())
