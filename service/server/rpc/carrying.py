"""Carries a call of gRPC to the app as an ASGI request, so that one path lets in, counts, encodes and refuses."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeAlias

from starlette.types import Message, Scope

from service.api.crowd import CROWDED
from service.api.front import Front
from service.api.unread import READER, Reader
from service.errors import LengthwiseError

PASSED = frozenset({"authorization", "traceparent", "tracestate", "x-expect-model", "x-request-id"})
RETURNED = frozenset({b"x-request-id", b"x-model-sha", b"server-timing", b"retry-after-ms"})

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Read: TypeAlias = Callable[[], Awaitable[bytes | None]]  # returns a message, or None if none will come


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call before its message.

    Attributes:
        path: `/SERVICE/METHOD`.
        metadata: the call's metadata.
        seconds: until the call's deadline; None without one.
        reader: whoever waits for the answer, by whom it is counted until it is read.
        crowded: why only probes are answered; None if all are.
    """

    path: str
    metadata: Metadata
    seconds: float | None
    reader: Reader
    crowded: LengthwiseError | None = None


class Unseen:
    """The way to a caller of gRPC, of which its core tells nothing, and which nobody but the caller can end."""

    taken = 0

    def get_write_buffer_size(self) -> int:
        """Return 0."""
        return 0

    def get_extra_info(self, _name: str) -> None:
        """Return None."""

    def abort(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Reply:
    """What the app answers.

    Attributes:
        status: of HTTP.
        metadata: the headers that callers of gRPC are told.
        body: a message of the protocol, or a problem's document.
    """

    status: int = 500
    metadata: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


async def carry(app: Front, call: Call, read: Read) -> Reply:
    """Let the app answer a message, which is not read before the app lets the call in.

    Args:
        app: the app that answers.
        call: the call that the message belongs to.
        read: reads the message.

    Raises:
        asyncio.CancelledError: the call was cancelled.
    """
    headers = [(b"content-type", b"application/x-protobuf"), *make_headers(call.metadata)]
    if call.seconds is not None:
        milliseconds = max(1, ceil(1000 * call.seconds))
        if milliseconds < 10**9:
            headers.append((b"x-request-timeout-ms", b"%d" % milliseconds))
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "headers": headers,
        READER: call.reader,
    }
    if call.crowded:
        scope[CROWDED] = call.crowded
    reply, parts = Reply(), list[bytes]()

    async def receive() -> Message:
        body = await read()
        if body is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            found: list[tuple[bytes, bytes]] = message["headers"]
            reply.metadata = [(name.decode(), value.decode("latin-1")) for name, value in found if name in RETURNED]
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    reply.body = b"".join(parts)
    return reply


def make_headers(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Return what the app is told of a call's metadata."""
    return [(name.encode(), _encode(value)) for name, value in metadata if name in PASSED]


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
