"""A stream of requests: as many at a time as the queue makes use of, answered in the order they are ready.

The next message is taken once there is a place for it, and its answer is out of the way. So gRPC's flow control holds
back a client that sends faster than the encoder encodes, or does not read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from service.api.unread import Reader, Unread
from service.codecs.kserve import messages
from service.errors import MalformedBody
from service.server.rpc.carrying import Reply, Unseen
from service.server.rpc.failing import LASTING, PASSING, Failure, read_failure

PLACES = 64  # messages of a stream that are being answered
LEAST_WAIT_SECONDS = 0.01


class Ask(Protocol):
    """Lets the app answer a message."""

    def __call__(self, body: bytes, reader: Reader) -> Awaitable[Reply]:
        """Return the app's reply; what it answers is counted by the reader."""


@dataclass(slots=True)
class Shared:
    """What the calls of a process share.

    Attributes:
        unread: the answers that are not read.
        limit_bytes: what the messages of all streams may hold, before each stream has one at a time.
        held_bytes: what they hold.
        is_over: set once the service takes no more messages.
    """

    unread: Unread
    limit_bytes: int
    held_bytes: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def has_room(self, places: int) -> bool:
        """Whether a stream that has so many messages under way may take one more."""
        return places == 0 or (places < PLACES and self.held_bytes < self.limit_bytes)

    def hold(self, size: int, task: asyncio.Task[Any]) -> None:
        """Count a message until its task is done."""
        self.held_bytes += size
        task.add_done_callback(lambda _: self._release(size))

    def _release(self, size: int) -> None:
        self.held_bytes -= size


class Stream:
    """The messages of a stream that are under way.

    Attributes:
        failure: why it ended before its caller said so; None if it did not.
    """

    def __init__(self, asked: AsyncIterator[bytes], ask: Ask, shared: Shared) -> None:
        """Begin with none.

        Args:
            asked: the messages.
            ask: lets the app answer one, and counts the answer by its reader.
            shared: what all calls share.
        """
        self.failure: Failure | None = None
        self._source, self._ask, self._shared = aiter(asked), ask, shared
        self._coming: asyncio.Task[bytes | None] | None = None
        self._answering: dict[asyncio.Task[tuple[bytes, Failure | None]], Reader] = {}
        self._is_over = False

    async def answer(self) -> AsyncGenerator[bytes, None]:
        """Answer the messages, until the stream ends or the service does.

        Yields:
            The answers, each a `ModelStreamInferResponse`, those of failed messages with `error_message`.
        """
        ending = asyncio.ensure_future(self._shared.is_over.wait())
        try:
            while not self._is_over or self._answering:
                more = [] if self._is_over else [ending, *self._expect()]
                await asyncio.wait([*self._answering, *more], return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._answering if task.done()]:
                    answer, failure = task.result()
                    if failure and failure.reason in LASTING:
                        self.failure, self._is_over = failure, True
                    else:
                        yield answer
                    self._answering.pop(task).leave()
                self._take()
        finally:
            for waited in (ending, *self._answering, *filter(None, [self._coming])):
                waited.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            for reader in self._answering.values():
                reader.leave()

    def _expect(self) -> list[asyncio.Task[bytes | None]]:
        """Return what waits for the next message, if there is room for it."""
        if self._coming is None and self._shared.has_room(len(self._answering)):
            self._coming = asyncio.ensure_future(anext(self._source, None))
        return [self._coming] if self._coming else []

    def _take(self) -> None:
        """Begin to answer the message that came, if one did."""
        if self._coming and self._coming.done() and not self._is_over:
            body, self._coming = self._coming.result(), None
            if body is None:
                self._is_over = True
            else:
                self._begin(body)
        if self._shared.is_over.is_set() and not self._is_over:
            self._is_over = True
            self._begin(b"")  # it is refused as any message is now, and the stream ends by that

    def _begin(self, body: bytes) -> None:
        reader = Reader(self._shared.unread, Unseen())
        task = asyncio.ensure_future(_answer(body, partial(self._ask, reader=reader)))
        self._shared.hold(len(body), task)
        self._answering[task] = reader


async def _answer(body: bytes, ask: Callable[[bytes], Awaitable[Reply]]) -> tuple[bytes, Failure | None]:
    """Answer a message; one that the queue has no room for, or whose key is over its rate, waits its turn."""
    while True:
        reply = await ask(body)
        if reply.status == 200:
            answer = messages.message("ModelStreamInferResponse")
            answer.infer_response.MergeFromString(reply.body)
            return answer.SerializeToString(), None
        failure = read_failure(reply)
        if failure.reason not in PASSING or failure.retry_seconds is None:
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
