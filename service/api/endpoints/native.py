"""`POST /encode`: sequences in, embeddings out, each in one of several formats."""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

from starlette.requests import Request
from starlette.types import ASGIApp

from service.api import described, encoding, problems
from service.api.endpoints.streams import LineStream
from service.api.routing import Route, Service, service_of
from service.codecs.formats import FORMATS
from service.codecs.json import ndjson, ragged
from service.codecs.options import AnswerOptions, read_query
from service.codecs.question import (
    NUMBER_BYTES,
    RAW_BYTES,
    Described,
    Format,
    ParseBody,
    Question,
    ReadSequences,
    WriteAnswer,
    Written,
)
from service.encoder.sequences import Answer
from service.errors import ExtraMissing, LineTooLong, NotAcceptable, NotOffered, ReaderStalled, UnsupportedMediaType

READERS = {form.media_type: form for form in FORMATS if form.body}
WRITERS = {form.media_type: form for form in FORMATS if form.write}
DEFAULT = FORMATS[0].media_type


def _document(kinds: Iterable[tuple[str, Described]]) -> dict[str, Any]:
    """Write the OpenAPI content of bodies, most of which JSON Schema cannot describe."""
    binary = {"type": "string", "format": "binary"}
    return {
        kind: {"schema": {**binary, "description": text} if isinstance(text, str) else text}
        for kind, text in kinds
        if text
    }


QUERY: list[dict[str, Any]] = [
    {"name": name, "in": "query", "explode": False, "schema": schema, "description": schema.pop("description")}
    for name, schema in AnswerOptions.model_json_schema()["properties"].items()
]


# What else may be answered if there are several formats.
FORMAT_FAILURES = (NotAcceptable, ReaderStalled, ExtraMissing, LineTooLong)


async def encode(request: Request) -> ASGIApp:
    """Return one embedding for each sequence: the average of the encoder's outputs over its valid steps.

    On the CPU, an embedding of a float32 encoder exported by Lengthwise does not depend, by a single bit, on the other
    sequences, on their order or on any padding. A quantised one depends on them by what `/info` says.

    Options may be in the query, whatever the body is written in. JSON has fields of the same names: what stands in both
    places must say the same.
    """
    kind, query = encoding.media_type_of(request, DEFAULT), request.scope["query_string"]
    form = READERS.get(kind)
    if form is None:
        raise UnsupportedMediaType(kind[:80], ", ".join(READERS))
    if form is ndjson.FORMAT:
        choose_format(request, {kind: form})
        return LineStream(request, read_query(query))
    wanted = choose_format(request, WRITERS)
    for one in (form, wanted):
        if one.module and one.module not in sys.modules:
            await asyncio.to_thread(one.load)
    options = read_query(query) if query or form.read else None
    model = encoding.find_model(request, options.model) if options and form.read else None
    return await encoding.answer(request, partial(_parse, service_of(request), form, wanted, options), model)


def choose_format(request: Request, offered: Mapping[str, Format]) -> Format:
    """Return the format to answer in.

    Args:
        request: says what it accepts; all, if it does not say.
        offered: what the answer can be, by media type, the default first.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    accepted, default = request.headers.get("accept", "*/*"), next(iter(offered))
    if accepted in ("*/*", default):
        return offered[default]
    qualities = _read_accept(accepted[:1000])
    there = [kind for kind, form in offered.items() if form.is_installed]
    best = max(there, key=lambda kind: _quality(kind, qualities))  # the first of those that are equally welcome
    if not _quality(best, qualities):
        raise NotAcceptable(accepted, " or ".join(there))
    return offered[best]


def _quality(kind: str, qualities: dict[str, float]) -> float:
    """Return how welcome a media type is: the most specific range that holds it says so."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    return next((qualities[found] for found in ranges if found in qualities), 0.0)


@lru_cache(64)
def _read_accept(header: str) -> dict[str, float]:
    """Read `a/b;q=0.5, c/*` into qualities by range; 1 if none is given, 0 if it is not a number."""
    qualities = {}
    for part in header.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((text.removeprefix("q=") for text in parameters if text.startswith("q=")), "1")
        qualities[kind] = float(weight) if weight.replace(".", "", 1).isdecimal() and weight.isascii() else 0.0
    return qualities


def _parse(service: Service, form: Format, wanted: Format, query: AnswerOptions | None, body: bytes) -> Question:
    """Parse a body of one format that is to be answered in another."""
    settings, read_body = service.settings, form.read
    read: ReadSequences
    if query and read_body:
        options, read = query, lambda spec: read_body(body, spec, settings.max_body_bytes)
    else:
        parse = cast("ParseBody", form.parse)  # a format has either
        options, read = parse(body, query, settings.limits, service.models.bounds)
    if not wanted.is_whole and options.outputs != ["embedding"]:
        held = wanted.media_type
        raise NotOffered("outputs", f"asks for more than embeddings, which are all that {held} holds: accept JSON")
    write_answer = cast("WriteAnswer", wanted.write)
    number_bytes = NUMBER_BYTES[options.encoding_format] if wanted.is_whole else RAW_BYTES
    outputs = tuple(options.outputs)

    def write(answer: Answer) -> Written:
        return write_answer(answer, options)

    return Question(read, write, options.model, outputs, options.normalize, number_bytes=number_bytes)


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
                "content": _document((form.media_type, form.answer) for form in FORMATS),
                "headers": described.RESPONSE_HEADERS,
            },
            **problems.document(*described.FAILURES, *FORMAT_FAILURES),
        },
        extra={
            "parameters": [described.TIMEOUT_HEADER, described.EXPECT_HEADER, *QUERY],
            "requestBody": {"required": True, "content": _document((form.media_type, form.body) for form in FORMATS)},
        },
        body=ragged.EncodeRequest,
    ),
]
