"""What the routes share: the loaded service, bodies within bounds, and routes without FastAPI's own path."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from re import Pattern
from typing import TYPE_CHECKING, TypeAlias, cast

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from service.api.crowd import Crowd
from service.api.document import ServedDocument
from service.api.keys import KeyRing
from service.api.meter import StepMeter
from service.api.unread import Unread
from service.api.worker import Worker
from service.batching.engine import Engine
from service.catalogue.models import Choice, Models
from service.catalogue.repository import Repository
from service.codecs import large
from service.errors import BodyTooLarge, BodyTooSlow, Draining, InvalidField, InvalidHost, Stuck
from service.observing.counts import Exchange, Telemetry
from service.settings import Settings

if TYPE_CHECKING:  # it needs the extra `otel`
    from service.observing.tracing import Tracing

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Template: TypeAlias = tuple[str, Pattern[str], str, Endpoint]  # a method, what a path matches, its route and endpoint

# Where the scope of a request holds what comes of it, and who answers it; and that its client hung up before its turn.
EXCHANGE, SERVICE, GONE = "lengthwise.exchange", "lengthwise.service", "lengthwise.gone"


@dataclass(slots=True)
class Service:
    """What `create_app` loads and the routes use.

    Attributes:
        models: the encoders that are served.
        repository: where they come from.
        telemetry: what is counted.
        unread: the answers that their readers have not taken.
        crowd: the connections.
        tokenizer: likewise; the one thread that tokenises, so that this takes the memory of one group of texts.
        tracing: makes spans, while the app's lifespan lasts, where that was asked for.
        document: the OpenAPI document, as it tells of the models.
        engine: there while the app's lifespan lasts, and its threads with it.
        keys: that let a request in; None where all are let in.
        admin_keys: that let admins in; None where there are no admins.
        meter: what each key may send; None where that is any number of steps.
        worker: what this process is, if it is one of several.
        is_draining: set on SIGTERM; new requests are refused from then on.
    """

    settings: Settings
    models: Models
    repository: Repository
    telemetry: Telemetry
    unread: Unread
    crowd: Crowd
    keys: KeyRing | None = None
    admin_keys: KeyRing | None = None
    meter: StepMeter | None = None
    worker: Worker | None = None
    engine: Engine = field(init=False)
    tokenizer: ThreadPoolExecutor = field(init=False)
    document: ServedDocument = field(init=False)
    is_draining: bool = False
    tracing: "Tracing | None" = None

    def __post_init__(self) -> None:
        """Prepare what is made of the other parts."""
        self.document = ServedDocument(self.models, self.settings.limits)

    def require_progress(self) -> None:
        """See that requests do not wait in vain.

        Raises:
            Stuck: they do; the process should be started anew.
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
    """A request whose headers are found by their names: starlette's own looks through all of them each time."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        pairs = reversed(scope["headers"])  # of one that comes twice, the first counts
        self._by_name = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """The headers by their names in lower case."""
        return self._by_name


class DirectRoute(APIRoute):
    """A route FastAPI documents but does not run: its endpoint takes the request and returns the response."""

    def get_route_handler(self) -> Endpoint:  # type: ignore[override]
        """Return the endpoint itself."""
        return cast("Endpoint", self.endpoint)


def find_endpoints(router: APIRouter) -> dict[tuple[str, str], Endpoint]:
    """Return the endpoints of a router's direct routes whose paths have no parameters, by method and path."""
    return {
        (method, route.path): route.endpoint for route, method in _list_direct(router) if not route.param_convertors
    }


def find_templates(router: APIRouter) -> list[Template]:
    """Return the direct routes of a router whose paths have parameters."""
    return [
        (method, route.path_regex, route.path, route.endpoint)
        for route, method in _list_direct(router)
        if route.param_convertors
    ]


def _list_direct(router: APIRouter) -> list[tuple[DirectRoute, str]]:
    routes = [route for route in router.routes if isinstance(route, DirectRoute)]
    return [(route, method) for route in routes for method in route.methods or ()]


def service_of(request: Request) -> Service:
    """Return the service behind the app that got the request."""
    return cast("Service", request.scope[SERVICE])


def exchange_of(request: Request) -> Exchange:
    """Return what is noted of a request."""
    return cast("Exchange", request.scope[EXCHANGE])


def choose_model(request: Request) -> Choice:
    """Leave open which model a request is for, but for the hash that it expects, if any."""
    return Choice(service_of(request).models, exchange_of(request), request.headers.get("x-expect-model"))


def require_client(request: Request) -> None:
    """See that somebody waits for the answer.

    Raises:
        ClientDisconnect: the client hung up before the request had its turn.
    """
    if GONE in request.scope:
        raise ClientDisconnect


def require_host(request: Request) -> None:
    """See that a request names its host once, so that nobody before the service took it for another's.

    Raises:
        InvalidHost: it names several, or none, which HTTP/1.0 allows.
    """
    pairs = request.scope["headers"]
    if "host" in request.headers and len(request.headers) == len(pairs):
        return  # no header comes twice
    found = sum(name == b"host" for name, _ in pairs)
    if found > 1 or (found == 0 and request.scope.get("http_version") == "1.1"):
        raise InvalidHost(found)


async def read_body(request: Request, limit: int, seconds: int) -> bytes:
    """Read a body of at most `limit` bytes, within so many seconds.

    The clock is looked at whenever a part has come; the connection sees to it that an empty one comes now and then. A
    timer for each request would take 3 us and more, and most bodies are there at once.

    Raises:
        BodyTooLarge: at once where the length is declared, else as soon as it is met.
        BodyTooSlow: its end did not come in time.
        ClientDisconnect: the client hung up before its end.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    size = 0
    began: float | None = None
    is_complete = False
    while not is_complete:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise BodyTooLarge(limit)
        is_complete = not message.get("more_body", False)
        if not is_complete:
            began = began or time.monotonic()
            if time.monotonic() - began >= seconds:
                raise BodyTooSlow(seconds)
    if len(chunks) == 1:
        return chunks[0]
    if size > large.LARGE_BODY_BYTES:
        return await asyncio.to_thread(b"".join, chunks)
    return b"".join(chunks)


def read_timeout(request: Request, default_ms: int) -> float:
    """Return the seconds a request allows, without end where neither it nor the default says.

    Raises:
        InvalidField: the header is no whole number of milliseconds over 0.
    """
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return default_ms / 1000 or inf
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise InvalidField("X-Request-Timeout-Ms", repr(text[:40]), "a whole number of milliseconds, 1 to 999999999")
    return int(text) / 1000
