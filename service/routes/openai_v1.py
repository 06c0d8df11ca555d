"""What clients of OpenAI's embeddings call."""

from datetime import datetime
from functools import partial
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.codecs import openai_json
from service.codecs.exchange import Question
from service.routes import encoding, problems
from service.routes.direct import DirectRoute, Service, service_of
from service.routes.negotiation import require_media_type

SCHEMAS: tuple[type[BaseModel], ...] = (openai_json.EmbeddingsRequest,)

router = APIRouter(route_class=DirectRoute, tags=["openai"])

# Lengths never come apart from their sequences here.
FAILURES = tuple(kind for kind in encoding.FAILURES if kind is not errors.InvalidLengths)


class Model(BaseModel):
    """The encoder, as OpenAI's clients list models."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When it was exported, in seconds since 1970; 0 where the artifact does not say.")
    owned_by: Literal["lengthwise"]


class Models(BaseModel):
    """The encoders there are: one."""

    object: Literal["list"]
    data: list[Model]


@router.post(
    "/v1/embeddings",
    operation_id="create_embeddings",
    summary="Encode texts, token ids or sequences, as OpenAI's clients ask for it",
    response_model=None,
    responses={
        200: {"model": openai_json.EmbeddingsResponse, "headers": encoding.RESPONSE_HEADERS},
        **problems.document(*FAILURES, dialect=problems.OPENAI),
    },
    openapi_extra={
        "parameters": [encoding.TIMEOUT_HEADER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingsRequest"}}},
        },
    },
)
async def create_embeddings(request: Request) -> Response:
    """Return one embedding for each sequence of the input, as `/encode` does."""
    require_media_type(request, "application/json")
    return await encoding.answer(request, partial(_read_json, service_of(request)))


@router.get(
    "/v1/models",
    operation_id="list_models",
    summary="List the encoder, as OpenAI's clients list models",
    responses={200: {"model": Models}},
)
async def list_models(request: Request) -> Response:
    """List the one encoder that is served."""
    return _json({"object": "list", "data": [_describe(service_of(request))]})


@router.get(
    "/v1/models/{model}",  # noqa: FAST003 - direct routes take the request only
    operation_id="get_model",
    summary="Describe the encoder, as OpenAI's clients ask for it",
    responses={200: {"model": Model}, **problems.document(errors.UnknownModel, dialect=problems.OPENAI)},
    openapi_extra={"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]},
)
async def get_model(request: Request) -> Response:
    """Describe the encoder under its name."""
    service, name = service_of(request), request.path_params["model"]
    if name != service.model_name:
        raise errors.UnknownModel(name, [service.model_name])
    return _json(_describe(service))


def _read_json(service: Service, body: bytes) -> Question:
    return openai_json.decode(body, service.spec, service.session.dim, service.settings.max_request_steps)


def _describe(service: Service) -> dict[str, Any]:
    manifest = service.session.manifest
    try:
        created = int(datetime.fromisoformat(manifest.created).timestamp()) if manifest else 0
    except ValueError:  # written by another exporter
        created = 0
    return {"id": service.model_name, "object": "model", "created": created, "owned_by": "lengthwise"}


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
