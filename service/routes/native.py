"""`POST /encode`: sequences in, embeddings out."""

from functools import partial

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.codecs import ragged_json
from service.codecs.exchange import Content, Question, Reply
from service.routes import encoding, problems
from service.routes.direct import DirectRoute, Service, require_media_type, service_of

SCHEMAS: tuple[type[BaseModel], ...] = (ragged_json.EncodeRequest,)

router = APIRouter(route_class=DirectRoute, tags=["encode"])


@router.post(
    "/encode",
    operation_id="encode",
    summary="Encode sequences of any length",
    response_model=None,
    responses={
        200: {"model": ragged_json.EncodeResponse, "headers": encoding.RESPONSE_HEADERS},
        **problems.document(*encoding.FAILURES),
    },
    openapi_extra={
        "parameters": [encoding.TIMEOUT_HEADER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EncodeRequest"}}},
        },
    },
)
async def encode(request: Request) -> Response:
    """Return one embedding for each sequence: the average of the encoder's outputs over its valid steps.

    On the CPU, an embedding of a float32 encoder exported by Lengthwise does not depend, by a single bit, on the other
    sequences, on their order or on any padding. A quantised one depends on them by what `/info` says.
    """
    require_media_type(request, "application/json")
    return await encoding.answer(request, partial(_read_json, service_of(request)))


def _read_json(service: Service, body: bytes) -> Question:
    sequences, options = ragged_json.decode(body, service.spec, service.settings.max_request_steps)

    def write(reply: Reply) -> Content:
        usage = ragged_json.Usage(
            sequences=len(reply.lengths), steps=sum(reply.lengths), padded_steps=reply.padded_steps
        )
        content = ragged_json.encode(reply.answer, reply.lengths, reply.model, usage, options)
        return Content(content, "application/json")

    return Question(sequences, write, tuple(options.outputs), options.normalize, options.model)
