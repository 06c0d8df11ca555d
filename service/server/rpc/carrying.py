"""Carries a call of gRPC to the app as an ASGI request, so that one path lets in, counts, encodes and refuses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeAlias

from starlette.types import Message, Scope

from service.api.front import Front

PASSED = frozenset({"authorization", "traceparent", "tracestate", "x-expect-model", "x-request-id"})
RETURNED = frozenset({b"x-request-id", b"x-model-sha", b"server-timing", b"retry-after-ms"})

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


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


async def carry(app: Front, path: str, body: bytes, metadata: Metadata, seconds: float | None) -> Reply:
    """Let the app answer a message.

    Args:
        app: the app that answers.
        path: of the call, `/SERVICE/METHOD`.
        body: the message.
        metadata: that came with the call.
        seconds: until the call's deadline; None without one.

    Raises:
        asyncio.CancelledError: the call was cancelled.
    """
    headers = [(b"content-type", b"application/x-protobuf")]
    headers += [(name.encode(), _encode(value)) for name, value in metadata if name in PASSED]
    if seconds is not None:
        milliseconds = max(1, ceil(1000 * seconds))
        if milliseconds < 10**9:
            headers.append((b"x-request-timeout-ms", b"%d" % milliseconds))
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    reply, parts = Reply(), list[bytes]()

    async def receive() -> Message:
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


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
