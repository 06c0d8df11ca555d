"""Puts the parts together: `create_app(settings)` is the whole service."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.codecs.ragged_json import EncodeRequest
from service.codecs.texts import describe_input
from service.engine import Engine
from service.errors import LengthwiseError
from service.routes import native, operations, problems
from service.routes.direct import Service
from service.scheduler import Scheduler
from service.session import open_session
from service.settings import Settings

logger = logging.getLogger("lengthwise")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def create_app(settings: Settings) -> FastAPI:
    """Load the encoder, prove that it is the one that was exported, and build the app that serves it.

    Raises:
        StartupError: the artifact, its golden vectors or the provider are not as they must be.
    """
    session = open_session(settings.model, settings.provider, settings.threads)
    difference = session.replay_golden()
    service = Service(settings, session, difference, describe_input(session))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        proof = "unverified" if difference is None else f"golden vectors within {difference:.2g}"
        logger.info("Serving %s on %s, %s", service.model_name, session.provider, proof)
        scheduler = Scheduler(settings.max_batch_sequences, settings.max_batch_steps, settings.max_queue_steps)
        service.engine = Engine(session, scheduler, settings.runners)
        yield
        await asyncio.to_thread(service.engine.close)

    app = FastAPI(
        title="Lengthwise",
        version=__version__,
        summary="Embeddings of variable-length sequences",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(native.router)
    app.include_router(operations.router)
    app.add_middleware(RequestContext, service=service)
    app.add_exception_handler(LengthwiseError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unknown)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


class RequestContext:
    """Gives every request an id and every answer its header; while draining, asks clients to reconnect elsewhere."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = offered if REQUEST_ID.fullmatch(offered) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
                if self._service.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        await self._app(scope, receive, send_with_id)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LengthwiseError)
    return problems.answer_error(error, request.state.request_id)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if isinstance(error.headers, Mapping) else None
    return problems.answer_status(error.status_code, str(error.detail), request.state.request_id, headers)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """Close a request whose client hung up before it was read; nobody sees this answer."""
    return Response(status_code=400)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    """Answer what no one foresaw."""
    request_id = request.state.request_id
    logger.error("Request %s failed on an unforeseen error", request_id, exc_info=error)
    detail = "The service failed on this request; its log has the reason under the request id."
    return problems.answer_status(500, detail, request_id, {"X-Request-Id": request_id})


def _describe(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document once, with the schemas that no route declares to FastAPI."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document["components"]["schemas"]
        for model in (EncodeRequest, problems.Problem):
            schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
        app.openapi_schema = document
    return app.openapi_schema
