"""A stream of requests: as many at a time as the queue makes use of, answered in the order they are ready.

The next message is taken once there is a place for it, and its answer is out of the way. So gRPC's flow control holds
back a client that sends faster than the encoder encodes, or does not read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from service.codecs.kserve import messages
from service.errors import MalformedBody
from service.server.rpc.carrying import Reply
from service.server.rpc.failing import Failure, read_failure

PLACES = 64  # messages of a stream that are being answered
LEAST_WAIT_SECONDS = 0.01

Ask: TypeAlias = Callable[[bytes], Awaitable[Reply]]
Abort: TypeAlias = Callable[[Failure], Awaitable[Any]]


async def stream(asked: AsyncIterator[bytes], ask: Ask, abort: Abort) -> AsyncGenerator[bytes, None]:
    """Answer the messages of a stream.

    Args:
        asked: the messages.
        ask: lets the app answer one.
        abort: ends the stream with a failure; raises.

    Yields:
        The answers, each a `ModelStreamInferResponse`, those of failed messages with `error_message`.
    """
    answering: set[asyncio.Task[tuple[bytes, Failure | None]]] = set()
    coming: asyncio.Task[bytes | None] | None = None
    source, is_over = aiter(asked), False
    try:
        while not is_over or answering:
            if not is_over and coming is None and len(answering) < PLACES:
                coming = asyncio.ensure_future(anext(source, None))
            await asyncio.wait([*answering, *filter(None, [coming])], return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in answering if task.done()]:
                answering.discard(task)
                answer, failure = task.result()
                if failure and failure.code is grpc.StatusCode.UNAUTHENTICATED:
                    await abort(failure)  # of all that follow, too
                yield answer
            if coming and coming.done():
                body, coming = coming.result(), None
                if body is None:
                    is_over = True
                else:
                    answering.add(asyncio.ensure_future(_answer(body, ask)))
    finally:
        if coming:
            coming.cancel()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def _answer(body: bytes, ask: Ask) -> tuple[bytes, Failure | None]:
    """Answer a message; one that the queue has no room for, or whose key is over its rate, waits its turn."""
    while True:
        reply = await ask(body)
        if reply.status == 200:
            answer = messages.message("ModelStreamInferResponse")
            answer.infer_response.MergeFromString(reply.body)
            return answer.SerializeToString(), None
        failure = read_failure(reply)
        if failure.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or failure.retry_seconds is None:
            answer = messages.message("ModelStreamInferResponse", error_message=failure.sentence)
            answer.infer_response.id = _read_id(body)
            return answer.SerializeToString(), failure
        await asyncio.sleep(max(LEAST_WAIT_SECONDS, failure.retry_seconds))


def _read_id(body: bytes) -> str:
    """Return the id of a message, by which its client knows it; nothing if it has none that can be read."""
    try:
        return str(messages.decode("ModelInferRequest", body).id)
    except MalformedBody:
        return ""
