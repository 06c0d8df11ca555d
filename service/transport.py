"""Answers in one piece: the head and the body of a response go to the kernel together."""

import asyncio
from typing import Any

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
    """uvicorn's HTTP/1.1 with gathered writes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(GatheringTransport(transport))  # type: ignore[arg-type]
