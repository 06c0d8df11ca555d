"""Where one request ends and the next begins, whatever its head offers and its trailers claim."""

from collections import deque
from typing import Any, ClassVar

import httptools
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MOST_IN_LINE = 256  # requests that one connection sent before they were answered: each takes 2 kB
NOWHERE: Any = deque(maxlen=0)  # keeps nothing of what is appended


class DecliningParser(httptools.HttpRequestParser):
    """Reads a request that offers to speak another protocol as if it did not (RFC 9110, 7.8).

    The parser below stops at the end of such a head, and takes what follows, which is the body, for the other protocol.
    It cannot be told not to. So it is begun anew, reads the head again without the offer, and goes on behind it.
    """

    def __init__(self, protocol: "FramingProtocol") -> None:
        """Begin to parse for a protocol, whose `_should_upgrade` must be true."""
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse the bytes that came.

        Raises:
            HttpParserError: it is no HTTP, and nothing is parsed any more.
        """
        while True:
            try:
                return super().feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = memoryview(data)[offer.args[0] :]
            head = self._write_head()
            super().__init__(self._protocol)
            self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            super().feed_data(head)

    def _write_head(self) -> bytes:
        """Write the head that was read, without the offer."""
        parts = [b"%s %s HTTP/%s" % (self.get_method(), self._protocol.url, self.get_http_version().encode())]
        parts += [b"%s: %s" % header for header in self._protocol.headers if header[0] != b"upgrade"]
        return b"\r\n".join(parts) + b"\r\n\r\n"


class FramingProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, sure of where requests end.

    Attributes:
        head_bytes: of a request line and headers, if they do not come in one piece; likewise of trailers, and of
            what else is not part of a body.
    """

    head_bytes: ClassVar[int] = 2**16

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin without a connection."""
        super().__init__(*arguments, **options)
        self.parser = DecliningParser(self)
        self._running: RequestResponseCycle | None = None  # what is answered; `cycle` is what was read last
        self._requests = 0
        self._received = self._framed = 0  # bytes, and those of them up to the last begin of a head or part of a body

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is a head, or are trailers, that do not end."""
        self._received += len(data)
        super().data_received(data)
        if self._received - self._framed > self.head_bytes and not self.transport.is_closing():
            self.send_400_response("The head or the trailers of the request are too large.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._requests += 1
        self._framed = self._received

    def on_headers_complete(self) -> None:
        """Take a head, unless too many requests wait in line before it.

        Raises:
            HttpParserError: they do; those are answered, and the connection ends.
        """
        if len(self.pipeline) >= MOST_IN_LINE:
            raise httptools.HttpParserError(f"over {MOST_IN_LINE} requests wait in line")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; who sends it does not wait to be told to."""
        self._framed = self._received
        self.cycle.waiting_for_100_continue = False
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Keep the headers that come from now on, which are trailers, out of those of the head."""
        self.headers = NOWHERE

    def _should_upgrade(self) -> bool:
        """Let uvicorn do nothing about a head with an offer; it comes again without.

        Raises:
            HttpParserError: the offer is the method itself.
        """
        if self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError("CONNECT is for proxies")
        return True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        """Begin to answer a request; the app takes its task out of those under way when it is done."""
        self._running = cycle
        self.tasks.add(self.loop.create_task(cycle.run_asgi(app)))  # type: ignore[arg-type]

    def send_400_response(self, msg: str) -> None:
        """Say that what came is not a request, if that cannot be taken for another answer, and end the connection.

        Requests before it are answered.
        """
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            super().send_400_response(msg)
        elif cycle is self._running and cycle.more_body:
            if cycle.response_started:
                self.transport.close()
            else:
                super().send_400_response(msg)
        else:
            if cycle.more_body:
                self.pipeline.popleft()
                self.cycle = cycle = self.pipeline[0][0] if self.pipeline else self._running  # type: ignore[assignment]
            cycle.keep_alive = False
            self.flow.pause_reading()
