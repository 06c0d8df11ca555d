"""uvicorn's protocol, with an end to what nobody waits for."""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, ClassVar

from starlette.types import Receive, Scope, Send

from service.api.crowd import CROWDED, Crowd
from service.api.routing import GONE
from service.api.unread import COUNTED_BYTES, READER, Reader, Unread
from service.errors import TooManyConnections
from service.server.writing import CountingTransport, WritingProtocol


class WatchingProtocol(WritingProtocol):
    """uvicorn's HTTP/1.1, with an end to what nobody waits for, or waits for in vain.

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
        self._idle_since: float | None = None  # None if a request is under way, or something that may become one

    async def _serve(self, scope: Scope, receive: Receive, _send: Send) -> None:
        """Answer a request until its client hangs up; it waits until the answer before it was read."""
        self._serving = task = asyncio.current_task(self.loop)
        scope[READER] = self._reader
        self._is_extra = self._is_extra and self._crowd.is_over
        if self._is_extra:
            scope[CROWDED] = TooManyConnections(self._crowd.limit)
        try:
            if self.flow.write_paused:
                await self.flow.drain()
            await self._answer(scope, receive, partial(self._send, self._running))  # type: ignore[arg-type]  # one runs
        except asyncio.CancelledError as cancelled:
            if not self._is_lost:
                raise
            cancelled.__traceback__ = None  # a task group's frame holds it in turn, and with it all of a stream
        finally:
            self._serving = None
            self._reader.owe(0)
            self.tasks.discard(task)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        self._counting = CountingTransport(transport)
        transport.set_write_buffer_limits(COUNTED_BYTES)  # of TLS it would be eight times as much
        self._reader = Reader(self._unread, self._counting)
        super().connection_made(self._counting)  # type: ignore[arg-type]
        self._is_extra = self._crowd.enter(self)
        self._watch = self.loop.call_later(self.look_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection, and the requests that are under way on it."""
        self._watch.cancel()
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
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
        del self.app  # it holds the connection, which would wait for the collector

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
        """End a request, and begin the next one that waits in line."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())  # type: ignore[arg-type]
            else:
                self._idle_since = self.loop.time()
                if self.timeout_keep_alive_task is None:
                    self.timeout_keep_alive_handler()
        self._crowd.rest(self)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for long enough; if it is idle, look again when it may have been.

        So a connection has one timer at a time. uvicorn starts one after each answer and stops it at the next request.
        """
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """Take note that the connection is not idle; the timer finds out."""
        self._idle_since = None

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
        moved = self._received + self._counting.taken
        if moved != self._moved or not self.transport.get_write_buffer_size():
            self._moved, self._moved_at = moved, self.loop.time()
        elif self.loop.time() - self._moved_at > 2 * self.timeout_keep_alive:
            self.transport.abort()  # to close it would wait for the reader
            return
        is_waiting = (self.cycle is None or self.cycle.response_complete) and self._idle_since is None
        if is_waiting and self._waited_for == self._requests:
            self.transport.close()
        self._waited_for = self._requests if is_waiting else None
        self._watch = self.loop.call_later(self.look_seconds, self._look)
