"""Triton's extension of the protocol for models that come and go: what there is, load, unload."""

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, RootModel
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api import problems
from service.api.routing import Route, read_body, service_of
from service.codecs.json import exact
from service.codecs.options import validate

PATH = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
MAX_BODY_BYTES = 2**16


class IndexRequest(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ready: bool = False


class ModelState(BaseModel):
    """An artifact, and whether it is served."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class ModelStates(RootModel[list[ModelState]]):
    """All artifacts there are."""


class Parameters(BaseModel):
    """What Triton's clients send along; there are no dependents. Others, as `config`, would change what is loaded."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unload_dependents: bool = False


class ChangeRequest(BaseModel):
    """How to load or unload."""

    model_config = ConfigDict(extra="ignore", strict=True)

    parameters: Parameters = Parameters()


class Done(BaseModel):
    """It is done."""


FAILURES = (
    errors.MalformedJson,
    errors.InvalidField,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.UnknownModel,
)


def _document(schema: type[BaseModel], *parameters: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"parameters": list(parameters), "requestBody": {"required": False, "content": content}}


async def list_states(request: Request) -> Response:
    """List every artifact, and why it is not served, if it is not; of a newer version that is refused, too."""
    wanted = validate(IndexRequest, await _read_fields(request), IndexRequest.model_fields)
    states = [state.model_dump() for state in list_artifacts(request, ready=wanted.ready)]
    return Response(orjson.dumps(states), media_type="application/json")


def list_artifacts(request: Request, *, ready: bool) -> list[ModelState]:
    """List the artifacts, or those of them that are served."""
    return [
        ModelState(name=one.name, version=one.version, state="READY" if one.ready else "UNAVAILABLE", reason=one.reason)
        for one in service_of(request).repository.index()
        if one.ready or not ready
    ]


async def load(request: Request) -> Response:
    """Answer once the model is served as its file has it; if that is refused, what was served before still is."""
    validate(ChangeRequest, await _read_fields(request), ChangeRequest.model_fields)
    await service_of(request).repository.load(request.path_params["model"])
    return Response(b"{}", media_type="application/json")


async def unload(request: Request) -> Response:
    """Answer once the model takes no more requests; those under way are answered by it."""
    validate(ChangeRequest, await _read_fields(request), ChangeRequest.model_fields)
    await service_of(request).repository.unload(request.path_params["model"])
    return Response(b"{}", media_type="application/json")


async def _read_fields(request: Request) -> dict[str, Any]:
    """Read a small JSON object; no body is an empty one."""
    settings = service_of(request).settings
    body = await read_body(request, min(MAX_BODY_BYTES, settings.max_body_bytes), settings.body_timeout_seconds)
    return exact.read_document(body) if body else {}


ROUTES = [
    Route(
        "POST",
        "/v2/repository/index",
        list_states,
        tag="kserve",
        operation_id="v2_repository_index",
        summary="List the artifacts, served or not",
        responses={200: {"model": ModelStates}, **problems.document(*FAILURES[:-1], dialect=problems.KSERVE)},
        extra=_document(IndexRequest),
        body=IndexRequest,
    ),
    Route(
        "POST",
        "/v2/repository/models/{model}/load",
        load,
        access="admin",
        tag="kserve",
        operation_id="v2_repository_load",
        summary="Load a model, or the newer version of its file",
        responses={
            200: {"model": Done},
            **problems.document(*FAILURES, errors.ModelRefused, dialect=problems.KSERVE),
        },
        extra=_document(ChangeRequest, PATH),
        body=ChangeRequest,
    ),
    Route(
        "POST",
        "/v2/repository/models/{model}/unload",
        unload,
        access="admin",
        tag="kserve",
        operation_id="v2_repository_unload",
        summary="Serve a model no more, until it is loaded again",
        responses={200: {"model": Done}, **problems.document(*FAILURES, dialect=problems.KSERVE)},
        extra=_document(ChangeRequest, PATH),
        body=ChangeRequest,
    ),
]
