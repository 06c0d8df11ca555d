"""Every request comes in here: it is given an id and its route, let in or not, answered and counted.

It is plain ASGI. FastAPI's layers take longer than a short run of the encoder.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import cast
from uuid import uuid4

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import described, problems
from service.api.crowd import CROWDED
from service.api.routing import EXCHANGE, GONE, SERVICE, DirectRequest, Route, Service, exchange_of
from service.errors import InvalidHost, InvalidKey, LengthwiseError
from service.observing.counts import OTHER, UNANSWERED, Exchange

logger = logging.getLogger("lengthwise")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

READABLE_HEADERS = (
    *described.RESPONSE_HEADERS,
    "Inference-Header-Content-Length",
    "Retry-After",
    "retry-after-ms",
    "x-should-retry",
    "WWW-Authenticate",
)


class Front:
    """Gives each request to its route, and what no route matches to the fallback.

    Attributes:
        fallback: what answers unknown paths and wrong methods, and has the lifespan.
        state: `state.service` is the service, as with any app of Starlette's kind.
    """

    def __init__(self, service: Service, routes: Sequence[Route], fallback: FastAPI) -> None:
        self.fallback = fallback
        self.state = State({"service": service})
        self._service = service
        origins = service.settings.cors_origins
        self._cors = allow_origins(self._answer, origins) if origins else None
        new = f"{uuid4().hex[:16]}{{:016x}}"  # unique without asking the kernel each time
        self._new_ids = map(new.format, count())
        plain = [route for route in routes if "{" not in route.path]
        self._plain: dict[tuple[str, str], Route] = {(route.method, route.path): route for route in plain}
        self._plain |= {("HEAD", route.path): route for route in plain if route.method == "GET"}
        self._templates = [(compile_path(route.path)[0], route) for route in routes if "{" in route.path]
        # A path that does not exist needs a key, so that nobody can try which do; a wrong method on an open one needs
        # none.
        self._other = Route("GET", OTHER, self._fall_back)
        self._open_other = replace(self._other, access="open")
        self._open_paths = {route.path for route in routes if route.access == "open"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass the lifespan on."""
        if scope["type"] != "http":
            await self.fallback(scope, receive, send)
        elif self._cors is not None:
            await self._cors(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whichever page it comes from."""
        began = time.perf_counter()
        service = self._service
        request = DirectRequest(scope, receive)
        offered = request.headers.get("x-request-id")
        request_id = offered if offered and REQUEST_ID.fullmatch(offered) else next(self._new_ids)
        route = self._plain.get((scope["method"], scope["path"])) or self._match(scope)
        exchange = Exchange(request_id, scope["method"], route.path, is_probe=route.is_probe)
        scope[SERVICE], scope[EXCHANGE] = service, exchange
        if tracing := service.tracing:
            tracing.begin(exchange, request.headers)

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
                if service.is_draining:
                    message["headers"].append((b"connection", b"close"))
            return send(message)

        telemetry = service.telemetry
        telemetry.inflight += 1
        try:
            respond = await self._call(route, request, exchange)
            await respond(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not service.is_draining:
                telemetry.see_hang_up(exchange)
            raise
        finally:
            telemetry.inflight -= 1
            telemetry.see_exchange(exchange, time.perf_counter() - began)

    def _match(self, scope: Scope) -> Route:
        """Return the route of a path with parameters, which go into the scope; else the one of all other paths."""
        method, path = scope["method"], scope["path"]
        method = "GET" if method == "HEAD" else method  # the same answer, of which the server sends the head
        for pattern, route in self._templates:
            if route.method == method and (found := pattern.fullmatch(path)):
                scope["path_params"] = found.groupdict()
                return route
        return self._open_other if path in self._open_paths else self._other

    async def _fall_back(self, _request: Request) -> ASGIApp:
        return self.fallback

    async def _call(self, route: Route, request: Request, exchange: Exchange) -> ASGIApp:
        """Call a route's endpoint if the request may ask it; whatever goes wrong becomes an answer, too."""
        try:
            self._let_in(request, route, exchange)
            return await route.endpoint(request)
        except LengthwiseError as error:
            error.__traceback__ = None  # its frames hold it in turn: what they hold would wait for the collector
            exchange.problem = problems.name_problem(type(error))
            dialect = problems.dialect_of(request.scope["path"])
            return problems.answer_error(error, exchange.request_id, dialect, self._service.settings.overload_status)
        except HTTPException as error:
            return await answer_http(request, error)
        except ClientDisconnect:
            self._service.telemetry.see_hang_up(exchange)
            return Response(status_code=UNANSWERED)  # nobody sees it
        except Exception as error:  # noqa: BLE001 - what no one foresaw is logged and answered
            return await answer_unforeseen(request, error)

    def _let_in(self, request: Request, route: Route, exchange: Exchange) -> None:
        """See that a request may ask its route, and note the hash of the key it brings if it needs one.

        Raises:
            ClientDisconnect: the client hung up before the request had its turn.
            LengthwiseError: its connection or its call is one too many, and what it asks is not a probe.
            InvalidHost: it names several hosts, or none.
            InvalidKey: it brings no key that opens the route.
        """
        scope, service = request.scope, self._service
        if GONE in scope:
            raise ClientDisconnect
        if (crowded := scope.get(CROWDED)) and not route.is_probe:
            raise cast("LengthwiseError", crowded)
        _require_host(request)
        if route.access == "open":
            return
        keys = service.admin_keys if route.access == "admin" else service.keys
        if keys is not None:
            exchange.key = keys.recognize(scope["headers"])
        elif route.access == "admin":
            raise InvalidKey  # there are no admins


def _require_host(request: Request) -> None:
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


async def answer_http(request: Request, error: HTTPException) -> Response:
    """Answer with the status that an error carries."""
    headers = dict(error.headers) if isinstance(error.headers, Mapping) else None
    dialect = problems.dialect_of(request.scope["path"])
    request_id = exchange_of(request).request_id
    return problems.answer_status(error.status_code, str(error.detail), request_id, dialect, headers)


async def answer_unforeseen(request: Request, error: Exception) -> Response:
    """Answer a fault of the service itself: 500, and nothing of what it was."""
    exchange = exchange_of(request)
    exchange.problem = "unforeseen-error"
    logger.error("Request %s failed on an unforeseen error", exchange.request_id, exc_info=error)
    detail = "The service failed on this request; its log has the reason under the request id."
    return problems.answer_status(500, detail, exchange.request_id, problems.dialect_of(request.scope["path"]))


def allow_origins(app: ASGIApp, origins: str) -> ASGIApp:
    """Let pages of these origins, separated by commas, call an app and read its answers; a key is not a cookie."""
    return CORSMiddleware(
        app,
        allow_origins=re.split(r",\s*", origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=READABLE_HEADERS,
    )
