"""The REST interface of the Open Inference Protocol, as KServe's and Triton's clients call it."""

from functools import partial
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service import __version__, errors
from service.api import described, encoding, problems
from service.api.routing import Route, service_of
from service.catalogue.models import ServedModel
from service.codecs.kserve import inference, schemas
from service.codecs.kserve.tensors import HEADER_LENGTH

PATH = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
PLATFORM = "onnx_onnxv1"
VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Bytes of the JSON, if raw data follow it.",
    "schema": {"type": "integer", "minimum": 0},
}


class Live(BaseModel):
    """The process is alive."""

    live: Literal[True]


class Ready(BaseModel):
    """Requests may be sent here."""

    ready: Literal[True]


class Server(BaseModel):
    """What answers here."""

    name: Literal["lengthwise"]
    version: str
    extensions: list[str] = Field(description="Of the protocol.")


class ModelNames(BaseModel):
    """The encoders there are."""

    models: list[str]


class ModelMetadata(BaseModel):
    """The encoder's tensors."""

    name: str
    versions: list[str]
    platform: Literal["onnx_onnxv1"]
    inputs: list[schemas.TensorMetadata]
    outputs: list[schemas.TensorMetadata]


class ModelReady(BaseModel):
    """The encoder may be sent requests."""

    name: str
    ready: Literal[True]


async def live(request: Request) -> Response:
    """Answer 200 while the event loop turns, and runs end if requests wait."""
    service_of(request).require_progress()
    return _json({"live": True})


async def ready(request: Request) -> Response:
    """Answer 200 until the service drains."""
    service_of(request).require_ready()
    return _json({"ready": True})


async def describe_server(_request: Request) -> Response:
    """Name the service and its extensions of the protocol."""
    return _json({"name": "lengthwise", "version": __version__, "extensions": ["binary_tensor_data", "statistics"]})


async def list_models(request: Request) -> Response:
    """List the encoders that are served."""
    return _json({"models": sorted({model.name for model in service_of(request).models})})


async def describe_model(request: Request) -> Response:
    """Describe the encoder's tensors as its graph has them; `lengths` may be left out, and so may initial states."""
    return _json(describe(request, _find_model(request)))


async def is_model_ready(request: Request) -> Response:
    """Answer 200 until the service drains."""
    model = _find_model(request)
    if service_of(request).is_draining:
        raise errors.Draining
    return _json({"name": model.name, "ready": True})


async def infer(request: Request) -> ASGIApp:
    """Encode the sequences in the request's tensors, as `/encode` does."""
    encoding.require_media_type(request, "application/json", "application/octet-stream")
    model = _find_model(request)
    parse = partial(inference.parse, header_length=_read_header_length(request), signature=sign(request, model))
    return await encoding.answer(request, parse, model)


def describe(request: Request, model: ServedModel) -> dict[str, Any]:
    """Return a model's name, its versions and its tensors, as the protocol has them over HTTP and gRPC."""
    versions = [one.version for one in service_of(request).models if one.name == model.name]
    head = {"name": model.name, "versions": versions, "platform": PLATFORM}
    return head | inference.describe_tensors(model.session, model.spec)


def sign(request: Request, model: ServedModel) -> inference.Signature:
    """Return what requests to a model are held to."""
    outputs, limits = inference.name_outputs(model.session), service_of(request).settings.limits
    return inference.Signature(model.spec, outputs, model.name, model.version, limits)


def _find_model(request: Request) -> ServedModel:
    """Find the model that the path names, with its version if any."""
    name, version = request.path_params["model"], request.path_params.get("version")
    return encoding.find_model(request, name if version is None else f"{name}@{version}")


def _read_header_length(request: Request) -> int | None:
    text = request.headers.get(HEADER_LENGTH.lower())
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise errors.InvalidField(HEADER_LENGTH, repr(text[:40]), "the bytes of the JSON, a whole number")
    return int(text)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _route_model(path: str, parameters: list[dict[str, Any]], suffix: str = "") -> list[Route]:
    """Return the routes of one model, which the path names."""
    return [
        Route(
            "GET",
            path,
            describe_model,
            tag="kserve",
            operation_id=f"v2_model{suffix}",
            summary="Describe the encoder's tensors",
            responses={
                200: {"model": ModelMetadata},
                **problems.document(errors.UnknownModel, dialect=problems.KSERVE),
            },
            extra={"parameters": parameters},
        ),
        Route(
            "GET",
            f"{path}/ready",
            is_model_ready,
            tag="kserve",
            operation_id=f"v2_model_ready{suffix}",
            summary="May the encoder be sent requests",
            responses={
                200: {"model": ModelReady},
                **problems.document(errors.UnknownModel, errors.Draining, dialect=problems.KSERVE),
            },
            extra={"parameters": parameters},
        ),
        Route(
            "POST",
            f"{path}/infer",
            infer,
            tag="kserve",
            operation_id=f"v2_infer{suffix}",
            summary="Encode sequences in tensors",
            responses={
                200: {
                    "model": schemas.InferResponse,
                    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                    "headers": described.RESPONSE_HEADERS,
                },
                **problems.document(*described.FAILURES, dialect=problems.KSERVE),
            },
            extra={
                "parameters": [*parameters, LENGTH, described.TIMEOUT_HEADER, described.EXPECT_HEADER],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                },
            },
            body=schemas.InferRequest,
        ),
    ]


ROUTES = [
    Route(
        "GET",
        "/v2/health/live",
        live,
        access="open",
        is_probe=True,
        tag="kserve",
        operation_id="v2_live",
        summary="Is it alive",
        responses={200: {"model": Live}, **problems.document(errors.Stuck, dialect=problems.KSERVE)},
    ),
    Route(
        "GET",
        "/v2/health/ready",
        ready,
        access="open",
        is_probe=True,
        tag="kserve",
        operation_id="v2_ready",
        summary="May requests be sent here",
        responses={200: {"model": Ready}, **problems.document(errors.Draining, errors.Stuck, dialect=problems.KSERVE)},
    ),
    Route(
        "GET",
        "/v2",
        describe_server,
        tag="kserve",
        operation_id="v2_server",
        summary="What answers here",
        responses={200: {"model": Server}},
    ),
    Route(
        "GET",
        "/v2/models",
        list_models,
        tag="kserve",
        operation_id="v2_models",
        summary="List the encoders",
        responses={200: {"model": ModelNames}},
    ),
    # Without a version, a path means the newest.
    *_route_model("/v2/models/{model}", [PATH]),
    *_route_model("/v2/models/{model}/versions/{version}", [PATH, VERSION], "_version"),
]
