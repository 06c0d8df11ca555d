"""What clients of OpenAI's embeddings call."""

from datetime import datetime
from functools import partial
from itertools import starmap
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from service import errors
from service.api import described, encoding, problems
from service.api.routing import Route, service_of
from service.catalogue.models import ServedModel
from service.codecs.json import openai

# Lengths never come apart from their sequences here.
FAILURES = tuple(kind for kind in described.FAILURES if kind is not errors.InvalidLengths)


class Model(BaseModel):
    """An encoder, as OpenAI's clients list models."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When it was exported, in seconds since 1970; 0 if the artifact does not say.")
    owned_by: Literal["lengthwise"]
    name: str = Field(description="The same as `id`, as KServe's first version has it.")
    ready: Literal[True] = Field(description="Likewise.")


class ModelList(BaseModel):
    """The encoders there are."""

    object: Literal["list"]
    data: list[Model]
    models: list[str] = Field(description="Their names, as KServe's first version lists them.")


async def create_embeddings(request: Request) -> ASGIApp:
    """Return one embedding for each sequence of the input, as `/encode` does.

    Token ids must be of the model's own tokenizer. Some clients make ids of texts by OpenAI's: LangChain does unless it
    is told `check_embedding_ctx_length=False`. Ids within the model's vocabulary would be taken for its own.
    """
    encoding.require_media_type(request, "application/json")
    service = service_of(request)
    parse = partial(openai.parse, limits=service.settings.limits, bounds=service.models.bounds)
    return await encoding.answer(request, parse)


async def list_models(request: Request) -> Response:
    """List the encoders that are served."""
    named = service_of(request).models.names()
    return _json({"object": "list", "data": [*starmap(_describe, named.items())], "models": [*named]})


async def get_model(request: Request) -> Response:
    """Describe an encoder under its name; KServe's first version asks the same path whether it is ready."""
    name = request.path_params["model"]
    return _json(_describe(name, service_of(request).models.find(name)))


def _describe(name: str, model: ServedModel) -> dict[str, Any]:
    manifest = model.session.manifest
    try:
        created = int(datetime.fromisoformat(manifest.created).timestamp()) if manifest else 0
    except ValueError:  # written by another exporter
        created = 0
    known = {"id": name, "object": "model", "created": created, "owned_by": "lengthwise"}
    return {**known, "name": name, "ready": True}


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


ROUTES = [
    Route(
        "POST",
        "/v1/embeddings",
        create_embeddings,
        tag="openai",
        operation_id="create_embeddings",
        summary="Encode texts, token ids or sequences, as OpenAI's clients ask for it",
        responses={
            200: {"model": openai.EmbeddingsResponse, "headers": described.RESPONSE_HEADERS},
            **problems.document(*FAILURES, dialect=problems.OPENAI),
        },
        extra={
            "parameters": [described.TIMEOUT_HEADER, described.EXPECT_HEADER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingsRequest"}}},
            },
        },
        body=openai.EmbeddingsRequest,
    ),
    Route(
        "GET",
        "/v1/models",
        list_models,
        tag="openai",
        operation_id="list_models",
        summary="List the encoders, as OpenAI's clients list models",
        responses={200: {"model": ModelList}},
    ),
    Route(
        "GET",
        "/v1/models/{model}",
        get_model,
        tag="openai",
        operation_id="get_model",
        summary="Describe an encoder, as OpenAI's clients ask for it",
        responses={200: {"model": Model}, **problems.document(errors.UnknownModel, dialect=problems.OPENAI)},
        extra={"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]},
    ),
]
