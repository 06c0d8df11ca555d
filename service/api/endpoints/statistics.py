"""Triton's statistics extension of the protocol: what each model was asked, and what that took."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api import problems
from service.api.endpoints import monitoring
from service.api.endpoints.kserve import PATH, VERSION
from service.api.routing import Route, service_of
from service.observing import statistics


class Spent(BaseModel):
    """How often something was done, and the nanoseconds that all of it took."""

    count: int
    ns: int


class InferenceStats(BaseModel):
    """What requests took."""

    success: Spent = Field(description="Requests that were answered, from their arrival to the end of the answer.")
    fail: Spent = Field(description="Requests for this model that a problem ended.")
    queue: Spent = Field(description="Of those answered: until their first run.")
    compute_input: Spent = Field(description="From bytes to sequences.")
    compute_infer: Spent = Field(description="From the first run to the last embedding.")
    compute_output: Spent = Field(description="From embeddings to bytes.")
    cache_hit: Spent = Field(description="Zero: there is no cache of answers.")
    cache_miss: Spent = Field(description="Zero: there is no cache of answers.")


class BatchStats(BaseModel):
    """The batches of one size."""

    batch_size: int = Field(description="Sequences in each.")
    compute_infer: Spent


class ModelStats(BaseModel):
    """One version of a model, since the start of the service."""

    name: str
    version: str
    last_inference: int = Field(
        description="When its last batch ended, in milliseconds since 1970; 0 before the first."
    )
    inference_count: int = Field(description="Sequences that were encoded, those of streams among them.")
    execution_count: int = Field(description="Batches that ran.")
    inference_stats: InferenceStats = Field(description="Of requests; streams of lines are not among them.")
    batch_stats: list[BatchStats]


class Stats(BaseModel):
    """The models that are served."""

    model_stats: list[ModelStats]


async def describe_all(request: Request) -> Response:
    """Tell of each version of each model that is served."""
    return await _describe(request, None)


async def describe_one(request: Request) -> Response:
    """Tell of a version of a model, or of all versions that are served."""
    name, version = request.path_params["model"], request.path_params.get("version")
    return await _describe(request, name if version is None else f"{name}@{version}")


async def refuse_config(_request: Request) -> Response:
    """Say that there is no such thing here."""
    detail = (
        "Triton's model configurations are not offered here: GET /v2/models/NAME describes a model's tensors, and "
        "GET /info all else."
    )
    raise HTTPException(HTTPStatus.NOT_FOUND, detail)


async def _describe(request: Request, asked: str | None) -> Response:
    """Tell of the models of a name, or of all, whichever worker they were asked of."""
    service = service_of(request)
    if asked is not None:
        service.models.find(asked)
    others: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for _, told in await monitoring.ask_counts(service):
        for model in told.statistics:
            others[model["name"], model["version"]].append(model)
    own = [
        service.telemetry.statistics[model.name, model.version].write(model.name, model.version)
        for model in service.models
        if asked in (None, model.name, model.full_name)
    ]
    described = [statistics.join(model, others[model["name"], model["version"]]) for model in own]
    return Response(orjson.dumps({"model_stats": described}), media_type="application/json")


def _route_model(path: str, parameters: list[dict[str, Any]], suffix: str = "") -> list[Route]:
    """Return the routes of one model, which the path names."""
    stats = Route(
        "GET",
        f"{path}/stats",
        describe_one,
        tag="kserve",
        operation_id=f"v2_model_stats{suffix}",
        summary="What a model was asked, and what that took",
        responses={200: {"model": Stats}, **problems.document(errors.UnknownModel, dialect=problems.KSERVE)},
        extra={"parameters": parameters},
    )
    return [stats, Route("GET", f"{path}/config", refuse_config)]


ROUTES = [
    Route(
        "GET",
        "/v2/models/stats",
        describe_all,
        tag="kserve",
        operation_id="v2_stats",
        summary="What all models were asked, and what that took",
        responses={200: {"model": Stats}},
    ),
    *_route_model("/v2/models/{model}", [PATH]),
    *_route_model("/v2/models/{model}/versions/{version}", [PATH, VERSION], "_version"),
]
