"""FastAPI, built from the routes: it documents them, and answers what no route matches; it never calls one."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import problems
from service.api.front import answer_http, answer_unforeseen
from service.api.routing import Route, Service
from service.errors import InvalidKey

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_fallback(routes: Sequence[Route], lifespan: Lifespan) -> FastAPI:
    """Build the app that knows the routes by what they say of themselves."""
    app = FastAPI(
        title="Lengthwise",
        version=__version__,
        summary="Embeddings of variable-length sequences",
        lifespan=lifespan,
        exception_handlers={HTTPException: answer_http, Exception: answer_unforeseen},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for route in routes:
        app.add_api_route(
            route.path,
            _refuse,
            methods=[route.method],
            response_model=None,
            operation_id=route.operation_id,
            include_in_schema=route.operation_id is not None,
            tags=[route.tag],
            summary=route.summary,
            description=inspect.getdoc(route.endpoint),
            responses=dict(route.responses),
            openapi_extra=dict(route.extra),
        )
    return app


async def _refuse(_request: Request) -> Response:
    """Answer a path that is a route's to FastAPI alone, which overlooks a line break at its end."""
    raise HTTPException(HTTPStatus.NOT_FOUND)


def describe(app: FastAPI, routes: Sequence[Route], service: Service) -> dict[str, Any]:
    """Return the OpenAPI document, without what the models add to it."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    bodies = dict.fromkeys(route.body for route in routes if route.body)
    _, schemas = models_json_schema(
        [(model, "validation") for model in (*bodies, *problems.SCHEMAS)], ref_template="#/components/schemas/{model}"
    )
    components = document["components"]
    components["schemas"] |= schemas["$defs"]
    for route in routes:
        if route.operation_id and route.access != "open":
            _lock(document["paths"][route.path][route.method.lower()], route, service)
    if service.keys or service.admin_keys:
        there = {"key": service.keys, "admin_key": service.admin_keys}
        components["securitySchemes"] = {
            name: {"type": "http", "scheme": "bearer"} for name, ring in there.items() if ring
        }
    return document


def _lock(operation: dict[str, Any], route: Route, service: Service) -> None:
    """Say of an operation which keys open it, and how it is refused without one."""
    refusals = problems.document(InvalidKey, dialect=problems.dialect_of(route.path))
    operation["responses"] |= {str(status): response for status, response in refusals.items()}
    opening = {"key": service.keys, "admin_key": service.admin_keys}
    if route.access == "admin":
        del opening["key"]
    if route.access == "admin" or service.keys:  # the admin's key opens what a caller's does
        operation["security"] = [{name: []} for name, ring in opening.items() if ring]
