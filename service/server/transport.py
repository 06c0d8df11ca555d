"""Answers in one piece, and none for who has gone: what uvicorn's protocol does not do by itself."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

from starlette.types import Receive, Scope, Send

from service.api.crowd import CROWDED, Crowd
from service.api.routing import GONE
from service.api.unread import COUNTED_BYTES, READER, Reader, Unread
from service.errors import TooManyConnections
from service.server.framing import FramingProtocol

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class GatheringTransport:
    """Holds what is written until more is, or the loop's next turn comes, and sends it at once.

    uvicorn writes head and body apart, which is two calls of the kernel for an answer and two wake-ups of its reader.
    Everything else goes to the transport itself.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Take over the writing of a connection."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._written = 0

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken; it takes no more than it has room for until they are read."""
        return self._written - self._transport.get_write_buffer_size()

    def write(self, part: bytes) -> None:
        """Send a part, together with the one before it or the one after it in this turn; `100 Continue` by itself."""
        self._held.append(part)
        if len(self._held) > 1 or part == CONTINUE:
            self._send()
        else:
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Send what is held, and close the connection."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            joined = b"".join(self._held)
            self._held.clear()
            if not self._transport.is_closing():  # it fails, or fills the log, once nobody is there
                self._written += len(joined)
                self._transport.write(joined)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatheringProtocol(FramingProtocol):
    """uvicorn's HTTP/1.1 with gathered writes, and with an end to what nobody waits for, or waits for in vain.

    A request whose client hangs up is cancelled: uvicorn tells of it only who asks for another message, which would
    take a task more in every request. What a client can be slow with before a request is known is looked at now and
    then, which costs a request next to nothing. Bodies that a route waits for are its own business, and it is woken to
    look at the clock.

    Attributes:
        look_seconds: a connection that twice waits for the same thing is closed.
    """

    look_seconds: ClassVar[float] = 10.0

    def __init__(
        self,
        *arguments: Any,
        crowd: Crowd | None = None,
        unread: Unread | None = None,
        on_lost: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        """Begin without a connection.

        Args:
            arguments: what uvicorn's protocol takes.
            crowd: the connections of this process.
            unread: what their readers have not taken.
            on_lost: is called once the connection is over.
            options: what uvicorn's protocol takes.
        """
        super().__init__(*arguments, **options)
        self._crowd = Crowd() if crowd is None else crowd
        self._unread = Unread(inf) if unread is None else unread
        self._is_extra = False
        self._on_lost = on_lost
        self._answer = self.app
        self.app = self._serve
        self._serving: asyncio.Task[Any] | None = None
        self._is_lost = False
        self._waited_for: int | None = None
        self._moved, self._moved_at = -1, 0.0

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request until its client hangs up; it waits until the answer before it was read."""
        self._serving = asyncio.current_task(self.loop)
        scope[READER] = self._reader
        self._is_extra = self._is_extra and self._crowd.is_over
        if self._is_extra:
            scope[CROWDED] = TooManyConnections(self._crowd.limit)
        try:
            if self.flow.write_paused:
                await self.flow.drain()
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_lost:
                raise
        finally:
            self._serving = None
            self._reader.owe(0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        self._gathering = GatheringTransport(transport)
        transport.set_write_buffer_limits(COUNTED_BYTES)  # of TLS it would be eight times as much
        self._reader = Reader(self._unread, self._gathering)
        super().connection_made(self._gathering)  # type: ignore[arg-type]
        self._is_extra = self._crowd.enter(self)
        self._watch = self.loop.call_later(self.look_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and the requests that are under way on it."""
        self._watch.cancel()
        super().connection_lost(exc)
        self._crowd.leave(self)
        self._reader.leave()
        self._is_lost = True
        if self._running:
            self._running.disconnected = True
        if self._serving:
            self._serving.cancel()
        if self.pipeline:
            self.tasks.add(leaving := self.loop.create_task(self._leave()))
            leaving.add_done_callback(self.tasks.discard)
        if self._on_lost:
            self._on_lost()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_unread(self) -> bool:
        """Whether something that was answered waits to be read."""
        return self.transport.get_write_buffer_size() > 0

    def hang_up(self) -> None:
        """Close the connection at once, whatever waits."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Take note that the buffer is full."""
        super().pause_writing()
        self._reader.stall()

    def resume_writing(self) -> None:
        """Take note that the buffer has room again."""
        super().resume_writing()
        self._reader.resume()

    def on_response_complete(self) -> None:
        """End a request."""
        super().on_response_complete()
        self._crowd.rest(self)

    async def _leave(self) -> None:
        """Tell of requests whose turn never came."""
        while self.pipeline:
            cycle, app = self.pipeline.pop()
            cycle.disconnected = True
            cycle.scope[GONE] = True  # type: ignore[literal-required]
            await cycle.run_asgi(app)
            await asyncio.sleep(0)

    def _look(self) -> None:
        """Close the connection if nothing is under way, no other clock runs, and that was so at the last look.

        So it is while a head comes, before the first one, and while the rest of a body comes that was refused. An
        answer that nobody reads ends it, too, if nothing else is sent either: in twice the time after which a stream
        takes the rest of its body, so that who reads last has that chance.
        """
        if self.cycle is not None and self.cycle.more_body:
            self.cycle.message_event.set()  # whoever waits for the body gets an empty part of it
        moved = self._received + self._gathering.taken
        if moved != self._moved or not self.transport.get_write_buffer_size():
            self._moved, self._moved_at = moved, self.loop.time()
        elif self.loop.time() - self._moved_at > 2 * self.timeout_keep_alive:
            self.transport.abort()  # to close it would wait for the reader
            return
        is_waiting = (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None
        if is_waiting and self._waited_for == self._requests:
            self.transport.close()
        self._waited_for = self._requests if is_waiting else None
        self._watch = self.loop.call_later(self.look_seconds, self._look)
