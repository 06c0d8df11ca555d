"""Puts the parts together: `create_app(settings)` is the whole service."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service import __version__, upkeep
from service.api import access, problems, routing
from service.api.crowd import Crowd
from service.api.endpoints import kserve, monitoring, native, openai, operations, pages, repository, statistics
from service.api.meter import StepMeter
from service.api.routing import EXCHANGE, SERVICE, DirectRequest, Endpoint, Service, exchange_of, service_of
from service.api.unread import Unread
from service.api.worker import Worker
from service.batching.engine import Engine, Observer
from service.catalogue.loading import Loader
from service.catalogue.models import Models
from service.catalogue.repository import Repository
from service.encoder.session import find_artifact
from service.errors import ArtifactError, LengthwiseError
from service.observing.counts import OTHER, UNANSWERED, Exchange, Telemetry
from service.observing.logs import RequestLog
from service.settings import Settings, traces_are_wanted

logger = logging.getLogger("lengthwise")

PARTS = (native, openai, kserve, statistics, repository, operations, monitoring, pages)
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def create_app(settings: Settings, worker: Worker | None = None) -> FastAPI:
    """Load the encoder, prove that it is the one that was exported, and build the app that serves it.

    Args:
        settings: of the service.
        worker: what this process is, if it is one of several.

    Raises:
        StartupError: the artifact, its golden vectors, the provider or the API keys are not as they must be.
    """
    keys, admin_keys = access.read_keys(settings)
    meter = StepMeter(settings.steps_per_second) if settings.steps_per_second else None
    telemetry = Telemetry(map(problems.name_problem, problems.ANSWERS))
    if settings.log_requests:
        telemetry.witnesses.append(RequestLog(settings.log_level, settings.log_format).write)
    models, loader = Models(settings.default_model), Loader(settings)
    repository = Repository(settings.models or find_artifact(settings.model), models, loader.open, telemetry.see_change)
    if settings.models and not settings.models.is_dir():
        raise ArtifactError(str(settings.models), "it is no folder")
    repository.open_all(is_strict=settings.models is None)
    service = Service(
        settings,
        models,
        repository,
        telemetry,
        Unread(settings.unread_bytes, partial(telemetry.see_closed, "unread")),
        Crowd(settings.connections, partial(telemetry.see_closed, "idle")),
        keys,
        admin_keys,
        meter,
        worker,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _trace(service) as observers:
            service.engine = Engine(loader.queues, observers, max_run_seconds=settings.max_run_seconds)
            service.tokenizer = ThreadPoolExecutor(1, "tokenizer")
            tasks = (
                upkeep.refine_idly(service),
                upkeep.release_memory(service),
                upkeep.watch(service),
                telemetry.time_loop(),
            )
            among_others = (upkeep.leave_when_stuck(service), monitoring.tell_others(service, worker)) if worker else ()
            aside = [asyncio.create_task(task) for task in (*tasks, *among_others)]
            yield
            for task in aside:
                task.cancel()
            await asyncio.to_thread(loader.close)
            await asyncio.to_thread(service.engine.close)
            service.tokenizer.shutdown(wait=False, cancel_futures=True)
            telemetry.settle()

    app = EncoderApp(service, lifespan)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unknown)
    return app


@asynccontextmanager
async def _trace(service: Service) -> AsyncIterator[list[Observer]]:
    """Trace requests and batches where OpenTelemetry's variables ask for it.

    Yields:
        Who is to be told of batches.
    """
    telemetry = service.telemetry
    if not traces_are_wanted():
        yield [telemetry]
        return
    try:
        tracing = import_module("service.observing.tracing").open_tracing()
    except ImportError:
        logger.warning(
            "Nothing is traced, though a variable asks for it: install the extra otel, pip install '.[otel]'"
        )
        yield [telemetry]
        return
    service.tracing = tracing
    telemetry.witnesses.append(tracing.end)
    yield [telemetry, tracing]
    telemetry.witnesses.remove(tracing.end)
    service.tracing = None
    await asyncio.to_thread(tracing.close)


class EncoderApp(FastAPI):
    """Calls the routes that FastAPI documents without FastAPI's layers in between, and gives every request an id.

    Those layers take longer than a short run of the encoder. What is no direct route goes to FastAPI: the document,
    its page, unknown paths and wrong methods.
    """

    def __init__(self, service: Service, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> None:
        super().__init__(
            title="Lengthwise",
            version=__version__,
            summary="Embeddings of variable-length sequences",
            lifespan=lifespan,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self.state.service = self._service = service
        origins = service.settings.cors_origins
        self._cors = access.allow_origins(self._serve, origins) if origins else None
        self._new_ids = map(
            f"{uuid4().hex[:16]}{{:016x}}".format, count()
        )  # unique without asking the kernel each time
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._templates: list[routing.Template] = []
        for part in PARTS:
            self.include_router(part.router)
            self._endpoints |= routing.find_endpoints(part.router)
            self._templates += routing.find_templates(part.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass the lifespan on."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif self._cors is not None:
            await self._cors(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may be answered to whoever's page sent it."""
        began = time.perf_counter()
        scope["app"] = self
        scope[SERVICE] = self._service
        request = DirectRequest(scope, receive)
        offered = request.headers.get("x-request-id", "")
        request_id = offered if REQUEST_ID.fullmatch(offered) else next(self._new_ids)
        method, route = scope["method"], scope["path"]
        endpoint = self._endpoints.get((method, route))
        if endpoint is None:
            route, endpoint = self._match(scope)
        scope[EXCHANGE] = exchange = Exchange(request_id, method, route)
        if tracing := self._service.tracing:
            tracing.begin(exchange, request.headers)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
                if self._service.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        telemetry = self._service.telemetry
        telemetry.inflight += 1
        try:
            if response := await _answer(endpoint, request):
                await response(scope, receive, send_with_id)
            else:
                await super().__call__(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not self._service.is_draining:
                telemetry.see_hang_up(exchange)
            raise
        finally:
            telemetry.inflight -= 1
            telemetry.see_exchange(exchange, time.perf_counter() - began)

    def _match(self, scope: Scope) -> tuple[str, Endpoint | None]:
        """Find the route and the endpoint of a path with parameters, and put these into the scope."""
        for method, pattern, route, endpoint in self._templates:
            if method == scope["method"] and (found := pattern.fullmatch(scope["path"])):
                scope["path_params"] = found.groupdict()
                return route, endpoint
        return OTHER, None

    def openapi(self) -> dict[str, Any]:
        """Build the OpenAPI document once, but for what is of the models; no route declares all schemas to FastAPI."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=self.version, summary=self.summary, routes=self.routes)
            _, schemas = models_json_schema(
                [(model, "validation") for part in (*PARTS, problems) for model in part.SCHEMAS],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"] |= schemas["$defs"]
            document["components"] |= access.document(document["paths"], self._service)
            self.openapi_schema = document
        return self.openapi_schema


async def _answer(endpoint: Endpoint | None, request: Request) -> Response | None:
    """Call an endpoint for who may ask it; whatever it raises is an answer too. None is for FastAPI to answer."""
    try:
        routing.require_client(request)
        access.require_room(request)
        routing.require_host(request)
        access.require_key(request)
        return await endpoint(request) if endpoint else None
    except LengthwiseError as error:
        error.__traceback__ = None  # of frames that hold it in turn: what they hold would wait for the collector
        exchange = exchange_of(request)
        exchange.problem = problems.name_problem(type(error))
        overload = service_of(request).settings.overload_status
        dialect = problems.dialect_of(request.scope["path"])
        return problems.answer_error(error, exchange.request_id, dialect, overload)
    except HTTPException as error:
        return await _answer_http(request, error)
    except ClientDisconnect:
        service_of(request).telemetry.see_hang_up(exchange_of(request))
        return Response(status_code=UNANSWERED)  # nobody sees it
    except Exception as error:  # noqa: BLE001 - what no one foresaw is logged and answered
        return await _answer_unknown(request, error)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if isinstance(error.headers, Mapping) else None
    dialect = problems.dialect_of(request.scope["path"])
    return problems.answer_status(
        error.status_code, str(error.detail), exchange_of(request).request_id, dialect, headers
    )


async def _answer_unknown(request: Request, error: Exception) -> Response:
    request_id = exchange_of(request).request_id
    exchange_of(request).problem = "unforeseen-error"
    logger.error("Request %s failed on an unforeseen error", request_id, exc_info=error)
    detail = "The service failed on this request; its log has the reason under the request id."
    return problems.answer_status(500, detail, request_id, problems.dialect_of(request.scope["path"]))
