"""What managed clouds call: SageMaker; Vertex AI, at the paths that its variables name; and KServe's first version."""

from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from service import errors
from service.api import described, encoding, problems
from service.api.endpoints import native, operations
from service.api.routing import Route, service_of
from service.codecs.json import instances
from service.settings import Settings

TAG = "clouds"
MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}

# Lengths never come apart from their sequences here.
FAILURES = tuple(kind for kind in described.FAILURES if kind is not errors.InvalidLengths)


async def predict(request: Request) -> ASGIApp:
    """Return one prediction for each instance: the embedding of a sequence or text, as `/encode` gives it."""
    encoding.require_media_type(request, "application/json")
    service, name = service_of(request), request.path_params.get("model")
    model = None if name is None else encoding.find_model(request, name)
    parse = partial(instances.parse, limits=service.settings.limits, bounds=service.models.bounds, name=name)
    return await encoding.answer(request, parse, model)


def _route_predict(path: str, operation_id: str, summary: str, parameters: list[dict[str, Any]]) -> Route:
    dialect = problems.dialect_of(path)
    return Route(
        "POST",
        path,
        predict,
        tag=TAG,
        operation_id=operation_id,
        summary=summary,
        responses={
            200: {"model": instances.PredictResponse, "headers": described.RESPONSE_HEADERS},
            **problems.document(*FAILURES, dialect=dialect),
        },
        extra={
            "parameters": [*parameters, described.TIMEOUT_HEADER, described.EXPECT_HEADER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}},
            },
        },
        body=instances.PredictRequest,
    )


(ENCODE,) = native.ROUTES
READY = next(route for route in operations.ROUTES if route.endpoint is operations.ready)
PING = replace(READY, path="/ping", tag=TAG, operation_id="ping", summary="May SageMaker send requests here")

ROUTES = [
    PING,
    replace(ENCODE, path="/invocations", tag=TAG, operation_id="invocations", summary="`/encode`, for SageMaker"),
    _route_predict("/v1/models/{model}:predict", "v1_predict", "Encode instances, for KServe's first version", [MODEL]),
]


def name_routes(settings: Settings, known: list[Route]) -> list[Route]:
    """Return the routes whose paths the settings name.

    Args:
        settings: the service's settings.
        known: all other routes.

    Raises:
        StartupError: a path is another route's.
    """
    taken = {(route.method, route.path): route for route in known}
    named = []
    if path := settings.health_route:
        same = taken.get(("GET", path))
        if same is None:
            summary = "May requests be sent here, as Vertex AI asks"
            named.append(replace(PING, path=path, operation_id="named_health", summary=summary))
        elif same.access != "open" or not same.is_probe:
            raise errors.RouteTaken("health_route", path, "GET")
    if path := settings.predict_route:
        if ("POST", path) in taken:
            raise errors.RouteTaken("predict_route", path, "POST")
        named.append(_route_predict(path, "named_predict", "Encode instances, for Vertex AI", []))
    return named
