"""`POST /encode`: sequences in, embeddings out, each in one of several formats."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from service.api import encoding, negotiation, problems
from service.api.endpoints.streams import LineStream
from service.api.routing import Route, Service, choose_model, service_of
from service.catalogue.models import Choice
from service.codecs.binary import arrow, npy, npz
from service.codecs.json import ndjson, ragged
from service.codecs.options import AnswerOptions, read_query
from service.codecs.question import NUMBER_BYTES, RAW_BYTES, Content, Question, Reply
from service.encoder.sequences import InputSpec, Sequences
from service.encoder.tokenizer import Texts
from service.errors import ExtraMissing, LineTooLong, NotAcceptable, NotOffered, ReaderStalled, UnsupportedMediaType

Read: TypeAlias = Callable[[bytes, InputSpec, int], Sequences]  # the body, what the model reads, bytes it may open to
Write: TypeAlias = Callable[[Reply, AnswerOptions], Content]

# Bodies that hold sequences only; their options are in the query.
READERS: dict[str, Read] = {npz.MEDIA_TYPE: npz.read, npy.MEDIA_TYPE: npy.read, arrow.MEDIA_TYPE: arrow.read}

# The first answers whoever accepts anything; the others hold embeddings only.
WRITERS: dict[str, Write] = {
    ragged.MEDIA_TYPE: ragged.write,
    npy.MEDIA_TYPE: npy.write,
    arrow.MEDIA_TYPE: arrow.write,
}

BODIES: dict[str, Any] = {
    ragged.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/EncodeRequest"}},
    npz.MEDIA_TYPE: "`values`, all steps end to end, `(sum of lengths, features)` floats or `(sum of lengths,)` token "
    "ids, and `lengths`, int64, as `numpy.savez` or `numpy.savez_compressed` writes them.",
    npy.MEDIA_TYPE: "One sequence, `(steps, features)` floats or `(steps,)` token ids, as `numpy.save` writes it.",
    arrow.MEDIA_TYPE: "A column `sequence` of list<fixed_size_list<float>[features]>, or list<int64> of token ids. "
    "Where the service has the extra `arrow`.",
    ndjson.MEDIA_TYPE: "One sequence a line, as in `sequences`, or a string where the model reads texts: a stream of "
    "any length, answered line by line while it is sent.",
}

ANSWERS: dict[str, Any] = {
    npy.MEDIA_TYPE: "The embeddings, float32 `(sequences, dim)`.",
    arrow.MEDIA_TYPE: "The columns `embedding`, fixed_size_list<float>[dim], and `length`, int64.",
    ndjson.MEDIA_TYPE: 'To such a body: for each line `{"index": i, "embedding": [...]}`, or `{"index": i, "problem": '
    '{...}}` with the problem and its `line`. A last line `{"problem": {...}}` without `index` says why the rest, from '
    "its `line` on, was not encoded.",
}


def _document(kinds: dict[str, Any]) -> dict[str, Any]:
    """Write the OpenAPI content of bodies that JSON Schema cannot describe."""
    binary = {"type": "string", "format": "binary"}
    return {
        kind: {"schema": {**binary, "description": text}} if isinstance(text, str) else text
        for kind, text in kinds.items()
    }


QUERY: list[dict[str, Any]] = [
    {"name": name, "in": "query", "explode": False, "schema": schema, "description": schema.pop("description")}
    for name, schema in AnswerOptions.model_json_schema()["properties"].items()
]


# What else may be answered where there are several formats.
FORMAT_FAILURES = (NotAcceptable, ReaderStalled, ExtraMissing, LineTooLong)


async def encode(request: Request) -> Response:
    """Return one embedding for each sequence: the average of the encoder's outputs over its valid steps.

    On the CPU, an embedding of a float32 encoder exported by Lengthwise does not depend, by a single bit, on the other
    sequences, on their order or on any padding. A quantised one depends on them by what `/info` says.

    Options may be in the query, whatever the body is written in. JSON has fields of the same names: what stands in both
    places must say the same.
    """
    kind = negotiation.media_type_of(request, ragged.MEDIA_TYPE)
    if kind == ndjson.MEDIA_TYPE:
        negotiation.choose(request, [ndjson.MEDIA_TYPE])
        return LineStream(request, read_query(request.scope["query_string"]))
    if kind not in READERS and kind != ragged.MEDIA_TYPE:
        raise UnsupportedMediaType(kind[:80], ", ".join(BODIES))
    wanted = negotiation.choose(request, [*WRITERS] if arrow.is_installed() else [*WRITERS][:2])
    if arrow.MEDIA_TYPE in (kind, wanted) and not arrow.is_loaded():
        await asyncio.to_thread(arrow.load)
    service, choice = service_of(request), choose_model(request)
    query = request.scope["query_string"]
    if kind == ragged.MEDIA_TYPE:
        asked = read_query(query) if query else None
        return await encoding.answer(request, choice, partial(_read_json, service, choice, wanted, asked))
    options = read_query(query)
    spec, limit = choice(options.model), service.settings.max_body_bytes

    def read(body: bytes) -> Question:
        return _ask(READERS[kind](body, spec, limit), options, wanted)

    return await encoding.answer(request, choice, read)


def _read_json(service: Service, choice: Choice, wanted: str, query: AnswerOptions | None, body: bytes) -> Question:
    encoding.require_values(service, body)
    most = service.settings.max_request_steps
    sequences, options = ragged.decode(body, choice, most, service.models.state_lists, query)
    return _ask(sequences, options, wanted)


def _ask(sequences: Sequences | Texts, options: AnswerOptions, wanted: str) -> Question:
    if wanted != ragged.MEDIA_TYPE and options.outputs != ["embedding"]:
        raise NotOffered("outputs", f"asks for more than embeddings, which are all that {wanted} holds: accept JSON")
    write = partial(_write, WRITERS[wanted], options)
    number_bytes = RAW_BYTES if wanted != ragged.MEDIA_TYPE else NUMBER_BYTES[options.encoding_format]
    return Question(sequences, write, tuple(options.outputs), options.normalize, number_bytes=number_bytes)


def _write(write: Write, options: AnswerOptions, reply: Reply) -> Content:
    return write(reply, options)


ROUTES = [
    Route(
        "POST",
        "/encode",
        encode,
        tag="encode",
        operation_id="encode",
        summary="Encode sequences of any length",
        responses={
            200: {
                "model": ragged.EncodeResponse,
                "content": _document(ANSWERS),
                "headers": encoding.RESPONSE_HEADERS,
            },
            **problems.document(*encoding.FAILURES, *FORMAT_FAILURES),
        },
        extra={
            "parameters": [encoding.TIMEOUT_HEADER, encoding.EXPECT_HEADER, *QUERY],
            "requestBody": {"required": True, "content": _document(BODIES)},
        },
        body=ragged.EncodeRequest,
    ),
]
