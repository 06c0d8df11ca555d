"""How answers are written: head and body leave together, and what is written is counted."""

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.server.framing import FramingProtocol

STATUS = {code: line.removesuffix(b"\r\n") for code, line in STATUS_LINE.items()}
BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class CountingTransport:
    """Counts what is written to a connection, and drops what comes after its end.

    Everything else goes to the transport itself.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take over the writing of a connection."""
        self._transport = transport
        self._written = 0
        self.is_closing = transport.is_closing  # asked before each write

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken; it takes no more than it has room for until they are read."""
        return self._written - self._transport.get_write_buffer_size()

    def write(self, part: bytes) -> None:
        """Send a part, unless nobody is there any more: the transport would fail, or fill the log."""
        if not self.is_closing():
            self._written += len(part)
            self._transport.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class WritingProtocol(FramingProtocol):
    """uvicorn's HTTP/1.1, with its own way to write an answer.

    uvicorn writes head and body apart, which is two calls of the kernel for an answer and two wake-ups of its reader,
    and looks through each name and each value of a header by itself.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin without a connection."""
        super().__init__(*arguments, **options)
        self._head = b""  # of the answer under way, until the first part of its body comes

    async def _send(self, cycle: RequestResponseCycle, message: Message) -> None:
        """Write a part of an answer; its head waits for the first part of its body, as ASGI lets it.

        Raises:
            RuntimeError: the application broke the rules of ASGI or of HTTP.
        """
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        if not cycle.response_started:
            self._head = self._write_head(cycle, message["status"], message["headers"])
            cycle.response_started, cycle.waiting_for_100_continue = True, False
            return
        if cycle.response_complete or message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} came after the {'end' if cycle.response_complete else 'start'}")
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        head, self._head = self._head, b""
        if cycle.chunked_encoding:
            size = b"%x\r\n" % len(body) if body else b""
            parts = [head, size, body, b"\r\n" if body else b"", b"0\r\n\r\n" if is_last else b""]
        else:
            body = b"" if cycle.scope["method"] == "HEAD" else body
            if cycle.chunked_encoding is None:
                cycle.expected_content_length -= len(body)
                if cycle.expected_content_length < 0 or (is_last and cycle.expected_content_length):
                    raise RuntimeError("The answer is not as long as its content-length says.")
            parts = [head, body]
        self.transport.write(b"".join(parts))
        if is_last:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()

    def _write_head(self, cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Write the head of an answer, and note how its body is framed.

        Raises:
            RuntimeError: a header has a line break, and would be taken for two.
        """
        lines = [STATUS[status], *map(b": ".join, cycle.default_headers), *map(b": ".join, headers)]
        head = b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            raise RuntimeError("A header of the answer has a line break.")
        known, ending = dict(headers), b"\r\n\r\n"
        if cycle.scope["method"] != "HEAD" and status not in BODILESS:
            if (length := known.get(b"content-length")) is not None:
                cycle.expected_content_length = int(length)
            elif cycle.scope["http_version"] == "1.1":
                cycle.chunked_encoding = True
                ending = b"\r\ntransfer-encoding: chunked\r\n\r\n"
            else:  # HTTP/1.0 has no chunks: such a body ends with its connection
                cycle.chunked_encoding = cycle.keep_alive = False
        if known.get(b"connection", b"").lower() == b"close":
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            ending = b"\r\nconnection: close" + ending
        return head + ending
