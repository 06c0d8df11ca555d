"""The one path of a request that encodes, whatever it is written in: limits, deadline, draining, times and headers."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.api.routing import Service, exchange_of, read_body, read_timeout, service_of
from service.api.tokenizing import tokenize
from service.api.unread import COUNTED_BYTES, READER, Reader
from service.batching.batches import Delivery
from service.catalogue.models import Choice, ServedModel
from service.codecs import large
from service.codecs.compression import decompress, require_encoding
from service.codecs.json import plain
from service.codecs.question import Content, Decode, Question, Reply
from service.encoder.sequences import Sequences
from service.encoder.session import EncoderSession
from service.encoder.tokenizer import Texts
from service.observing.counts import HUNG_UP, Exchange, Stages
from service.settings import Limits

RESPONSE_HEADERS: dict[str, Any] = {
    "X-Request-Id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}},
    "X-Model-Sha": {"description": "SHA-256 of the artifact that ran.", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds in decode, queue, run, encode.", "schema": {"type": "string"}},
}

EXPECT_HEADER: dict[str, Any] = {
    "name": "X-Expect-Model",
    "in": "header",
    "description": "SHA-256 of the only artifact whose answer is of use.",
    "schema": {"type": "string"},
}

TIMEOUT_HEADER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "Milliseconds from the request's arrival after which its answer is of no use.",
    "schema": {"type": "integer", "minimum": 1},
}

ROW_BYTES = 40  # that a row takes beside its numbers, at most

# What any route that encodes may answer, whatever its format.
FAILURES: tuple[type[errors.LengthwiseError], ...] = (
    errors.InvalidHost,
    errors.MalformedJson,
    errors.MalformedBody,
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
    errors.UnexpectedModel,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.SequenceTooLong,
    errors.RequestTooLong,
    errors.AnswerTooLarge,
    errors.TextTooLong,
    errors.TextsTooLong,
    errors.UnsupportedMediaType,
    errors.RateExceeded,
    errors.QueueFull,
    errors.AnswersUnread,
    errors.TooManyConnections,
    errors.Draining,
    errors.DeadlineUnreachable,
    errors.DeadlinePassed,
    errors.RunFailed,
    errors.RunLost,
    errors.Stuck,
)


async def answer(request: Request, choice: Choice, decode: Decode) -> Response:
    """Read a request, encode its sequences, and write what came of it as the request wants it.

    Args:
        request: whose body is not read yet.
        choice: of the model; made by `decode` at the latest.
        decode: from that body, opened where it was compressed, to what it asks.

    Raises:
        LengthwiseError: why there is no answer.
    """
    service = service_of(request)
    arrived = time.perf_counter()
    if service.is_draining:
        raise errors.Draining
    deadline = arrived + read_timeout(request, service.settings.request_timeout_ms)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    require_encoding(encoding)
    exchange = exchange_of(request)
    if service.meter is not None:
        service.meter.admit(exchange.key)
    # Before the body is read: refusing must cost next to nothing.
    service.engine.queues.require_room(choice.queues, arrived)
    body = await read_body(request, service.settings.max_body_bytes, service.settings.body_timeout_seconds)

    began = time.perf_counter()

    def read() -> Question:
        question = decode(decompress(body, encoding, service.settings.max_body_bytes))
        _check(question, choice.model, service.settings.limits)
        return question

    is_large = len(body) > large.LARGE_BODY_BYTES or encoding != ""  # once it is opened it may be
    question = await asyncio.to_thread(read) if is_large else read()
    if question.timeout_seconds is not None:
        deadline = min(deadline, arrived + question.timeout_seconds)
    given = question.sequences
    if isinstance(given, Texts):
        with _while_wanted(service, exchange):
            given = await tokenize(service, choice.model, given, deadline)
        _check_sequences(question, given, choice.model, service.settings.limits)
    decoded = time.perf_counter()

    reader = _expect(request, question, given, choice.model.session)
    if service.meter is not None:
        service.meter.admit(exchange.key)  # others of the same key may have come while this one was read
        service.meter.charge(exchange.key, given.steps)
    encoded = await _run(service, choice.model, question, given, deadline, exchange)
    finished = time.perf_counter()
    answering = partial(write, choice.model, question, given, encoded)
    is_large = encoded.answer.numbers > large.LARGE_ANSWER_NUMBERS
    content = await asyncio.to_thread(answering) if is_large else answering()
    if reader:
        reader.owe(len(content.body))
    waited, ran = encoded.queue_seconds, encoded.run_seconds
    stages = Stages(len(given.lengths), given.steps, decoded - began, waited, ran, time.perf_counter() - finished)
    exchange.stages = stages
    timing = (
        f"decode;dur={1000 * stages.decode:.3f}, queue;dur={1000 * stages.queue:.3f}, "
        f"run;dur={1000 * stages.run:.3f}, encode;dur={1000 * stages.encode:.3f}"
    )
    headers = {"X-Model-Sha": choice.model.session.sha256, "Server-Timing": timing, **content.headers}
    response = PartedResponse if is_large else Response
    return response(content.body, headers=headers, media_type=content.media_type)


def require_values(service: Service, json: bytes) -> None:
    """Refuse JSON that must hold more than a request may, before it is parsed.

    Raises:
        RequestTooLong: it has more values than the steps of a request and the characters of its texts allow.
    """
    plain.require_values(json, service.settings.limits, service.models.step_values)


def _check(question: Question, model: ServedModel, limits: Limits) -> None:
    """Refuse what a model cannot answer, or may not.

    Raises:
        LengthwiseError: why it will not be encoded.
    """
    session = model.session
    for output in question.outputs:
        if output not in session.outputs:
            raise errors.NotOffered("outputs", f"asks for {output}, and the model gives {', '.join(session.outputs)}")
    if question.dim not in (None, session.dim):
        raise errors.NotOffered(
            "dimensions", f"is {question.dim}, and the model's embeddings have {session.dim} numbers"
        )
    if isinstance(question.sequences, Texts):
        question.sequences.check(limits)
    else:
        _check_sequences(question, question.sequences, model, limits)


def _check_sequences(question: Question, given: Sequences, model: ServedModel, limits: Limits) -> None:
    given.check(limits, model.session.vocabulary)
    if question.check is not None:
        question.check(given.lengths)


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
    size = int(rows * ROW_BYTES + numbers * question.number_bytes)
    reader = cast("Reader | None", request.scope.get(READER)) if size > COUNTED_BYTES else None
    if reader:
        reader.expect(size)
    return reader


@contextmanager
def _while_wanted(service: Service, exchange: Exchange) -> Iterator[None]:
    """Tell why work on a request is broken off: the time to drain is up, or its client has hung up.

    Raises:
        Draining: the former.
    """
    try:
        yield
    except asyncio.CancelledError:
        if service.is_draining:
            raise errors.Draining from None
        exchange.problem = HUNG_UP  # whoever did the work has counted it
        raise


async def _run(
    service: Service, model: ServedModel, question: Question, given: Sequences, deadline: float, exchange: Exchange
) -> Delivery:
    """Encode what was checked."""
    with _while_wanted(service, exchange):
        return await service.engine.encode(model, given, deadline, question.outputs, exchange.origin)


class PartedResponse(Response):
    """A large answer, sent a part at a time: others are answered in between, and it waits for who reads slowly."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), large.PIECE_BYTES):
            part = self.body[start : start + large.PIECE_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def write(model: ServedModel, question: Question, given: Sequences, encoded: Delivery) -> Content:
    """Write an answer as its question wants it."""
    found = encoded.answer.normalized() if question.normalize else encoded.answer
    return question.write(Reply(found, given.lengths.tolist(), model.name, encoded.padded_steps))
