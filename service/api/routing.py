"""What a route is, and what all of them share: the loaded service, the request, and its body within bounds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope

from service.api.crowd import Crowd
from service.api.document import ServedDocument
from service.api.keys import KeyRing
from service.api.meter import StepMeter
from service.api.unread import Unread
from service.api.worker import ALONE, Staff, Worker
from service.batching.engine import Engine
from service.catalogue.models import Models
from service.catalogue.repository import Repository
from service.codecs import large
from service.errors import BodyTooLarge, BodyTooSlow, Draining, InvalidField, Stuck
from service.observing.counts import Exchange, Telemetry
from service.settings import Settings

if TYPE_CHECKING:  # it needs the extra `otel`
    from service.observing.tracing import Tracing

Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]  # returns what sends the answer, most often a response
Access: TypeAlias = Literal["open", "key", "admin"]  # for anyone, for a caller's key or the admin's, for the admin's

# Keys of a request's scope: what comes of it, the service, and whether its client hung up before its turn.
EXCHANGE, SERVICE, GONE = "lengthwise.exchange", "lengthwise.service", "lengthwise.gone"


@dataclass(frozen=True, slots=True)
class Route:
    """What is answered under a method and a path, who may ask, and what the OpenAPI document says of it.

    Attributes:
        method: the method of HTTP.
        path: the path as the document has it, its parameters in braces.
        endpoint: the function that answers; its docstring is the document's description.
        access: who may ask.
        is_probe: whether monitors ask it again and again. It is answered however many connections there are; it is not
            traced, and a log has it at the level debug only.
        operation_id: its name in the document; without one the document leaves it out.
        tag: its group in the document.
        summary: what it is for, in some words.
        responses: what it may answer by status, as FastAPI takes it.
        extra: its parameters and bodies, as OpenAPI has them.
        body: the schema of its JSON body, if it has one.
    """

    method: Literal["GET", "POST"]
    path: str
    endpoint: Endpoint
    access: Access = "key"
    is_probe: bool = False
    operation_id: str | None = None
    tag: str = "operations"
    summary: str | None = None
    responses: Mapping[int | str, dict[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    body: type[BaseModel] | None = None


@dataclass(slots=True)
class Service:
    """What `create_app` loads, and the routes use.

    Attributes:
        settings: the service's settings.
        models: the encoders that are served.
        repository: the files they come from.
        telemetry: what is counted.
        unread: the answers that their readers have not taken.
        unread_calls: the same of calls of gRPC, whose readers cannot be cut off.
        crowd: the open connections.
        keys: the keys that let a request in; None if it needs none.
        admin_keys: the keys that let admins in; None if there are no admins.
        meter: the steps that each key may send; None if that is any number.
        worker: what this process is, if it is one of several.
        staff: how many workers there are, and why.
        engine: what encodes; there while the app's lifespan lasts.
        tokenizer: the one thread that tokenises, so that no more than one group of texts is in memory; it is there as
            long as the engine.
        document: the OpenAPI document, with what the models add to it.
        watchers: the pages that are told what goes on, each by a stream of events.
        is_draining: whether SIGTERM has come; new requests are refused from then on.
        tracing: what makes spans, if they were asked for.
    """

    settings: Settings
    models: Models
    repository: Repository
    telemetry: Telemetry
    unread: Unread
    unread_calls: Unread
    crowd: Crowd
    keys: KeyRing | None = None
    admin_keys: KeyRing | None = None
    meter: StepMeter | None = None
    worker: Worker | None = None
    staff: Staff = ALONE
    engine: Engine = field(init=False)
    tokenizer: ThreadPoolExecutor = field(init=False)
    document: ServedDocument = field(init=False)
    watchers: int = 0
    is_draining: bool = False
    tracing: "Tracing | None" = None

    def require_progress(self) -> None:
        """See that requests do not wait in vain.

        Raises:
            Stuck: they do, and the process should be started anew.
        """
        if self.engine.is_stuck(time.perf_counter()):
            raise Stuck

    def require_ready(self) -> None:
        """See that requests may be sent here.

        Raises:
            Draining: the service is shutting down.
            Stuck: requests wait in vain.
        """
        if self.is_draining:
            raise Draining
        self.require_progress()


class DirectRequest(Request):
    """A request whose headers are found by their names: starlette's own looks through all of them each time.

    Attributes:
        headers: its headers by their names in lower case.
    """

    headers: Mapping[str, str] = MappingProxyType({})  # type: ignore[assignment]

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        pairs = reversed(scope["headers"])  # of one that comes twice, the first counts
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


def service_of(request: Request) -> Service:
    """Return the service behind the app that got the request."""
    service: Service = request.scope[SERVICE]
    return service


def exchange_of(request: Request) -> Exchange:
    """Return what is noted of a request."""
    exchange: Exchange = request.scope[EXCHANGE]
    return exchange


async def read_body(request: Request, limit: int, seconds: int) -> bytes:
    """Read a body of at most `limit` bytes, within so many seconds.

    The clock is looked at whenever a part has come; the connection sees to it that an empty one comes now and then. A
    timer for each request would take 3 us and more, and most bodies are there at once.

    Raises:
        BodyTooLarge: the body has more bytes; if it declares its length, nothing of it is read.
        BodyTooSlow: its end did not come in time.
        ClientDisconnect: the client hung up before its end.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    size, began = 0, 0.0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(chunk := message.get("body", b""))
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        if not message.get("more_body", False):
            break
        began = began or time.monotonic()
        if time.monotonic() - began >= seconds:
            raise BodyTooSlow(seconds)
    if len(chunks) == 1:
        return chunks[0]
    if size > large.LARGE_BODY_BYTES:
        return await asyncio.to_thread(b"".join, chunks)
    return b"".join(chunks)


def read_timeout(request: Request, default_ms: int) -> float:
    """Return the seconds a request allows; without end if neither its header nor the default says how many.

    Raises:
        InvalidField: the header is not a whole number of milliseconds over 0.
    """
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return default_ms / 1000 or inf
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise InvalidField("X-Request-Timeout-Ms", repr(text[:40]), "a whole number of milliseconds, 1 to 999999999")
    return int(text) / 1000
