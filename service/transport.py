"""Answers in one piece, and none for who has gone: what uvicorn's protocol does not do by itself."""

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GatheringTransport:
    """Holds what is written until more is, or the loop's next turn comes, and sends it at once.

    uvicorn writes head and body apart, which is two calls of the kernel for an answer and two wake-ups of its reader.
    Everything else goes to the transport itself.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take over the writing of a connection."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def write(self, part: bytes) -> None:
        """Send a part, together with the one before it or the one after it in this turn."""
        self._held.append(part)
        if len(self._held) > 1:
            self._send()
        else:
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Send what is held, and close the connection."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            self._transport.write(b"".join(self._held))
            self._held.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with gathered writes; a request whose client hangs up is cancelled.

    uvicorn tells of a hang-up only who asks for another message, which would take a task more in every request.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._answer = self.app
        self.app = self._serve
        self._serving: asyncio.Task[Any] | None = None
        self._is_lost = False

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request until its client hangs up."""
        self._serving = asyncio.current_task()
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_lost:
                raise
        finally:
            self._serving = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(GatheringTransport(transport))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and the request that is under way on it."""
        super().connection_lost(exc)
        self._is_lost = True
        if self._serving:
            self._serving.cancel()
