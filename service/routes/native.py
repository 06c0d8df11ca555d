"""`POST /encode`: sequences in, embeddings out."""

import asyncio
import time
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.codecs import ragged_json
from service.routes import problems
from service.routes.direct import DirectRoute, read_body, read_timeout, require_media_type, service_of

router = APIRouter(route_class=DirectRoute, tags=["encode"])

LARGE_BODY_BYTES = 2**20

RESPONSE_HEADERS: dict[str, Any] = {
    "X-Request-Id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}},
    "X-Model-Sha": {"description": "SHA-256 of the artifact that ran.", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds in decode, queue, run, encode.", "schema": {"type": "string"}},
}

TIMEOUT_HEADER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "Milliseconds from the request's arrival after which its answer is of no use.",
    "schema": {"type": "integer", "minimum": 1},
}


@router.post(
    "/encode",
    operation_id="encode",
    summary="Encode sequences of any length",
    response_model=None,
    responses={
        200: {"model": ragged_json.EncodeResponse, "headers": RESPONSE_HEADERS},
        **problems.document(
            errors.MalformedJson,
            errors.InvalidField,
            errors.NotANumber,
            errors.NonFiniteValue,
            errors.FeatureMismatch,
            errors.UnknownToken,
            errors.NotOffered,
            errors.EmptyRequest,
            errors.EmptySequence,
            errors.InvalidLengths,
            errors.UnknownModel,
            errors.BodyTooLarge,
            errors.SequenceTooLong,
            errors.RequestTooLong,
            errors.UnsupportedMediaType,
            errors.QueueFull,
            errors.Draining,
            errors.DeadlineUnreachable,
            errors.DeadlinePassed,
            errors.RunFailed,
        ),
    },
    openapi_extra={
        "parameters": [TIMEOUT_HEADER],
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
    service = service_of(request)
    if service.is_draining:
        raise errors.Draining
    deadline = time.perf_counter() + read_timeout(request, service.settings.request_timeout_ms)
    require_media_type(request, "application/json")
    body = await read_body(request, service.settings.max_body_bytes)

    began = time.perf_counter()
    # A large body is decoded on a thread, so that the event loop goes on answering others.
    decode = partial(ragged_json.decode, body, service.spec, service.settings.max_request_steps)
    sequences, options = decode() if len(body) <= LARGE_BODY_BYTES else await asyncio.to_thread(decode)
    if options.model not in (None, service.model_name):
        raise errors.UnknownModel(options.model, [service.model_name])
    for output in options.outputs:
        if output not in service.session.outputs:
            raise errors.NotOffered(
                "outputs", f"asks for {output}, and the model gives {', '.join(service.session.outputs)}"
            )
    sequences.check(service.settings.limits, service.spec.vocabulary)
    decoded = time.perf_counter()

    try:
        encoded = await service.engine.encode(sequences, deadline, options.outputs)
    except asyncio.CancelledError:
        if service.is_draining:  # the time to drain is up
            raise errors.Draining from None
        raise

    finished = time.perf_counter()
    lengths = sequences.lengths.tolist()
    usage = ragged_json.Usage(sequences=len(lengths), steps=sequences.steps, padded_steps=encoded.padded_steps)
    content = ragged_json.encode(encoded.answer, lengths, service.model_name, usage, options)
    stages = {
        "decode": decoded - began,
        "queue": encoded.queue_seconds,
        "run": encoded.run_seconds,
        "encode": time.perf_counter() - finished,
    }
    timing = ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in stages.items())
    headers = {"X-Model-Sha": service.session.sha256, "Server-Timing": timing}
    return Response(content, headers=headers, media_type="application/json")
