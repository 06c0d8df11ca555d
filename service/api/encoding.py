"""The one path of a request that encodes, whatever it is written in.

`answer` reads top to bottom: admit, read the body, parse it, find the model that it names, read its sequences as that
model takes them, submit them, write what came of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from math import inf, prod
from typing import TypeAlias, TypeVar, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.api.routing import Service, exchange_of, read_body, read_timeout, service_of
from service.api.tokenizing import tokenize
from service.api.unread import COUNTED_BYTES, READER, Reader
from service.catalogue.models import ServedModel
from service.codecs import large
from service.codecs.compression import decompress, require_encoding
from service.codecs.question import Headers, Question, Written
from service.encoder.sequences import Answer, Sequences
from service.encoder.session import EncoderSession
from service.encoder.tokenizer import Texts
from service.observing.counts import HUNG_UP, Exchange, Stages
from service.settings import Limits

Parse: TypeAlias = Callable[[bytes], Question]
Found = TypeVar("Found")

ROW_BYTES = 40  # that a row takes beside its numbers, at most


async def answer(request: Request, parse: Parse, named: ServedModel | None = None) -> ASGIApp:
    """Encode the sequences of a request, and write what came of them as the request wants it.

    Args:
        request: a request whose body is not read yet.
        parse: from that body, opened if it was compressed, to what it asks.
        named: the model that the head of the request names; None if that is left to the body.

    Raises:
        LengthwiseError: why there is no answer.
    """
    service, exchange, arrived = service_of(request), exchange_of(request), time.perf_counter()
    settings, limits = service.settings, service.settings.limits
    deadline = admit(request, arrived, service.models if named is None else (named,))
    body = await read_body(request, settings.max_body_bytes, settings.body_timeout_seconds)

    began = time.perf_counter()
    if encoding := _read_encoding(request):
        body = await asyncio.to_thread(decompress, body, encoding, settings.max_body_bytes)

    def read() -> tuple[Question, ServedModel, Sequences | Texts]:
        question = parse(body)
        chosen = named or find_model(request, question.model)
        return question, chosen, _read(question, chosen, limits)

    # One turn of one thread, so that what was parsed is read while it is at hand, and not kept while others wait.
    is_large = len(body) > large.LARGE_BODY_BYTES
    question, model, given = await asyncio.to_thread(read) if is_large else read()
    if question.timeout_seconds is not None:
        deadline = min(deadline, arrived + question.timeout_seconds)
    if isinstance(given, Texts):
        given = await _while_wanted(service, exchange, tokenize(service, model, given, deadline))
        _check_sequences(question, given, model, limits)
    decoded = time.perf_counter()

    reader = _expect(request, question, given, model.session)
    if service.meter is not None:
        service.meter.admit(exchange.key)  # others of the same key may have come while this one was read
        service.meter.charge(exchange.key, given.steps)
    work = service.engine.encode(model, given, deadline, question.outputs, exchange.origin)
    encoded = await _while_wanted(service, exchange, work)
    finished = time.perf_counter()

    found = encoded.answer
    is_large = found.numbers > large.LARGE_ANSWER_NUMBERS
    content, headers = await asyncio.to_thread(_write, question, found) if is_large else _write(question, found)
    if reader:
        reader.owe(len(content))
    waited, ran = encoded.queue_seconds, encoded.run_seconds
    stages = Stages(len(given.lengths), given.steps, decoded - began, waited, ran, time.perf_counter() - finished)
    exchange.stages = stages
    timing = (
        f"decode;dur={1000 * stages.decode:.3f}, queue;dur={1000 * stages.queue:.3f}, "
        f"run;dur={1000 * stages.run:.3f}, encode;dur={1000 * stages.encode:.3f}"
    )
    more = (b"x-model-sha", model.session.sha256.encode()), (b"server-timing", timing.encode())
    return respond(content, [*more, *headers], is_large=is_large)


def admit(request: Request, arrived: float, models: Iterable[ServedModel] | None) -> float:
    """Refuse a request that will be refused whatever its body holds; that must cost next to nothing.

    Args:
        request: a request whose body is not read yet.
        arrived: when it came, on the clock of `time.perf_counter`.
        models: those that it may be for. None for a stream of lines, which waits for room and for its key's turn, has
            no deadline, and is not compressed.

    Returns:
        Its deadline, on the same clock.

    Raises:
        LengthwiseError: why it is refused.
    """
    service = service_of(request)
    if service.is_draining:
        raise errors.Draining
    encoding = _read_encoding(request)
    if models is None:
        if "x-request-timeout-ms" in request.headers:
            raise errors.NotOffered("X-Request-Timeout-Ms", "is given, and a stream has no deadline: leave it out")
        if encoding:
            raise errors.UnsupportedMediaType(encoding[:40], "a stream that is not compressed", "Content-Encoding")
        return inf
    deadline = arrived + read_timeout(request, service.settings.request_timeout_ms)
    if encoding:
        require_encoding(encoding)
    if service.meter is not None:
        service.meter.admit(exchange_of(request).key)
    service.engine.queues.require_room([model.queue for model in models], arrived)
    return deadline


def find_model(request: Request, name: str | None) -> ServedModel:
    """Return the model that a name means now, and note it. Whatever takes its place later, the request keeps it.

    Raises:
        UnknownModel: there is none.
        UnexpectedModel: it is another than the request expects.
    """
    model, exchange = service_of(request).models.find(name), exchange_of(request)
    exchange.model, exchange.version = model.name, model.version
    if request.headers.get("x-expect-model") not in (None, model.session.sha256):
        raise errors.UnexpectedModel(model.full_name, model.session.sha256)
    return model


def media_type_of(request: Request, default: str) -> str:
    """Return the media type of a body, without parameters; one that does not say is taken at its route's word."""
    return request.headers.get("content-type", default).partition(";")[0].strip().lower()


def require_media_type(request: Request, *supported: str) -> None:
    """Refuse a body of another media type than these; one that does not say is taken for the first.

    Raises:
        UnsupportedMediaType: carries what was found.
    """
    found = media_type_of(request, supported[0])
    if found not in supported:
        raise errors.UnsupportedMediaType(found[:80], " or ".join(supported))


def _read_encoding(request: Request) -> str:
    """Return how a body is compressed; nothing if it is not."""
    if (given := request.headers.get("content-encoding")) is None:
        return ""
    encoding = given.strip().lower()
    return "" if encoding == "identity" else encoding


def _read(question: Question, model: ServedModel, limits: Limits) -> Sequences | Texts:
    """Read the sequences of a request, or its texts, and refuse what the model cannot answer, or may not.

    Raises:
        LengthwiseError: why they will not be encoded.
    """
    given, session = question.read(model.spec), model.session
    for output in question.outputs:
        if output not in session.outputs:
            raise errors.NotOffered("outputs", f"asks for {output}, and the model gives {', '.join(session.outputs)}")
    if question.dim not in (None, session.dim):
        raise errors.NotOffered(
            "dimensions", f"is {question.dim}, and the model's embeddings have {session.dim} numbers"
        )
    if isinstance(given, Texts):
        given.check(limits)
    else:
        _check_sequences(question, given, model, limits)
    return given


def _check_sequences(question: Question, given: Sequences, model: ServedModel, limits: Limits) -> None:
    given.check(limits, model.spec.kind.vocabulary)
    if question.check is not None:
        question.check(given.lengths)


def _write(question: Question, answer: Answer) -> Written:
    """Write an answer as its question wants it."""
    return question.write(answer.normalized() if question.normalize else answer)


def _expect(request: Request, question: Question, given: Sequences, session: EncoderSession) -> Reader | None:
    """Count the answer before it is computed, if it is large; return who reads it, if it was counted.

    It is counted until the request is over, whatever comes of it.

    Raises:
        AnswerTooLarge: it has more bytes than all that may be unread.
        AnswersUnread: others leave no room for it.
    """
    rows, steps = len(given.lengths), given.steps
    if question.padded_to is not None:
        steps = rows * max(question.padded_to, int(given.lengths.max(initial=0)))
    numbers = rows * session.dim if "embedding" in question.outputs else 0
    if "steps" in question.outputs:
        numbers += steps * (session.width or 0)
    if "state" in question.outputs:
        numbers += rows * len(session.state_names) * prod(session.state_shape or ())
    row_bytes = ROW_BYTES
    if "prediction" in question.outputs and (predictor := session.predictor):
        if question.gives_logits:
            numbers += rows * predictor.size
        else:
            row_bytes += predictor.row_bytes
    size = int(rows * row_bytes + numbers * question.number_bytes)
    reader = cast("Reader | None", request.scope.get(READER)) if size > COUNTED_BYTES else None
    if reader:
        reader.expect(size)
    return reader


async def _while_wanted(service: Service, exchange: Exchange, work: Awaitable[Found]) -> Found:
    """Do some work on a request; tell why it is broken off: the time to drain is up, or its client hung up.

    Raises:
        Draining: the former.
    """
    try:
        return await work
    except asyncio.CancelledError:
        if service.is_draining:
            raise errors.Draining from None
        exchange.problem = HUNG_UP  # whoever did the work has counted it
        raise


def respond(content: bytes, headers: Headers, *, is_large: bool = False) -> ASGIApp:
    """Return what sends an answer of status 200; a response of Starlette's would write each of its headers anew."""
    written = [*headers, (b"content-length", b"%d" % len(content))]
    start = {"type": "http.response.start", "status": 200, "headers": written}
    return partial(_send_parts if is_large else _send_whole, start, content)


async def _send_whole(start: Message, content: bytes, _scope: Scope, _receive: Receive, send: Send) -> None:
    await send(start)
    await send({"type": "http.response.body", "body": content})


async def _send_parts(start: Message, content: bytes, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Send a part at a time: others are answered in between, and a slow reader is waited for."""
    await send(start)
    for place in range(0, len(content), large.PIECE_BYTES):
        part = content[place : place + large.PIECE_BYTES]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})
