"""Streams of lines: read, encoded and answered at the same time, in order, in the memory of some windows of lines.

What holds up the answers holds up the reading: so many windows are under way that all runners have work, and no more
is read until one of them was sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from math import inf
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import errors
from service.api import encoding, problems
from service.api.routing import exchange_of, service_of
from service.api.tokenizing import tokenize_lines
from service.api.unread import READER, Reader
from service.codecs import large
from service.codecs.json import ndjson
from service.codecs.json.ndjson import Found, Line
from service.codecs.options import AnswerOptions
from service.encoder.sequences import Steps, join
from service.errors import LengthwiseError

# A window ends at whichever comes first, or as soon as no more has arrived. Small ones answer early, and share their
# batches; eight of them hold several batches of any length.
WINDOW_LINES = 128
WINDOW_BYTES = 2**16
WINDOW_STEPS = 4096  # a longer line has a window of its own
WINDOWS = 8  # under way

PIECE_BYTES = 2**14  # cut into lines at a time, between other work of the event loop
DRAIN_CHECK_SECONDS = 1.0  # how often a stream that waits for its sender looks whether the service drains

LineOutcome: TypeAlias = npt.NDArray[np.float32] | LengthwiseError  # an embedding `(D,)`, or why there is none


class Window(NamedTuple):
    """Lines that are answered together: the number of the last, and what is to be sent."""

    last: int
    body: asyncio.Task[bytes]


class LineStream(Response):
    """Answers a body of lines while it is read.

    It has no deadline: how long it takes is up to its sender and its reader. Full queues make it wait, and what waits
    to be read of it makes it stop.
    """

    media_type = ndjson.MEDIA_TYPE

    def __init__(self, request: Request, options: AnswerOptions) -> None:
        """Check what can be told before the body.

        Raises:
            LengthwiseError: why nothing of it is read.
        """
        encoding.admit(request, time.perf_counter(), None)
        if options.outputs != ["embedding"]:
            raise errors.NotOffered("outputs", "asks for more than embeddings, which are all that lines hold")
        self._service = service_of(request)
        self._model = encoding.find_model(request, options.model)
        super().__init__(headers={"X-Model-Sha": self._model.session.sha256})
        del self.headers["content-length"]
        settings = self._service.settings
        self._exchange = exchange_of(request)
        self._reader: Reader | None = request.scope.get(READER)
        self._options = options
        self._limits = settings.limits
        self._line_bytes = settings.max_body_bytes
        self._stall_seconds = settings.keep_alive_seconds
        self._splitter = ndjson.LineSplitter(self._line_bytes)
        self._lines: list[Line] = []  # read, in no window yet
        self._room = asyncio.Semaphore(WINDOWS)
        self._windows: asyncio.Queue[Window | None] = asyncio.Queue()
        self._window_steps = min(WINDOW_STEPS, settings.max_queue_steps)
        self._is_begun = False
        self._sending_since = inf
        self._answered = 0  # the last line that was
        self._left: LengthwiseError | None = None  # why not all were

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Read, encode and answer until the body ends, the client hangs up, or the time to drain is up."""
        try:
            if not await self._answer_all(receive, send):
                return
        except asyncio.CancelledError:
            if not self._service.is_draining:
                raise
            self._left = errors.Draining()
        last = b""
        if self._left:
            self._exchange.problem = problems.name_problem(type(self._left))
            problem = problems.describe(self._left, self._exchange.request_id, line=self._answered + 1)
            last = ndjson.write_problem(problem.model_dump(exclude_none=True))
        await self._send(send, last, is_last=True)

    async def _answer_all(self, receive: Receive, send: Send) -> bool:
        """Read and send at the same time; if one of them or a window fails, nothing of the others is left.

        Returns:
            Whether the client is still there.
        """
        is_there = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_windows(send))
                await self._read(receive, tasks)
                self._windows.put_nowait(None)
        except* ClientDisconnect:
            is_there = False
        finally:
            del self._windows  # tasks that were cancelled hold the stream by their frames
        return is_there

    async def _read(self, receive: Receive, tasks: asyncio.TaskGroup) -> None:
        """Read lines into windows until the body ends or there is a reason to leave the rest of it."""
        size = 0
        async for chunk in self._receive_chunks(receive):
            for start in range(0, len(chunk), PIECE_BYTES):
                for line in self._splitter.feed(chunk[start : start + PIECE_BYTES]):
                    self._lines.append(line)
                    size += len(line.text or b"")
                    if len(self._lines) == WINDOW_LINES or size >= WINDOW_BYTES:
                        await self._begin_windows(tasks)
                        size = 0
                await asyncio.sleep(0)
            await self._begin_windows(tasks)
            size = 0
        self._lines += self._splitter.finish()
        await self._begin_windows(tasks)

    async def _receive_chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        """Return the body as it comes.

        Once there is a reason not to encode it any more, it is read no further, or, if the sender does not read
        before all is sent, to its end.

        Raises:
            ClientDisconnect: the client hung up.
        """
        is_whole = False
        while not is_whole:
            receiving = asyncio.ensure_future(receive())
            try:
                while not receiving.done():
                    if self._service.is_draining:
                        self._left = self._left or errors.Draining()
                        return
                    await asyncio.wait({receiving}, timeout=DRAIN_CHECK_SECONDS)
            finally:
                receiving.cancel()
            message = receiving.result()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            is_whole = not message.get("more_body", False)
            if not self._left:
                yield message.get("body", b"")

    async def _begin_windows(self, tasks: asyncio.TaskGroup) -> None:
        """Decode the lines read so far, and begin to encode them, window by window, as soon as there is room."""
        lines, self._lines = self._lines, []
        if self._left or not lines:
            return
        is_large = sum(len(line.text or b"") for line in lines) > large.LARGE_BODY_BYTES
        arguments = (lines, self._model.spec, self._limits, self._line_bytes)
        read = await asyncio.to_thread(ndjson.decode, *arguments) if is_large else ndjson.decode(*arguments)
        found = await tokenize_lines(self._service, self._model, read)
        for start, stop in _cut([_count_steps(one) for one in found], self._window_steps):
            if not await self._find_room():
                self._left = errors.ReaderStalled(self._stall_seconds)
                return
            body = tasks.create_task(self._encode(lines[start:stop], found[start:stop]))
            self._windows.put_nowait(Window(lines[stop - 1].number, body))

    async def _find_room(self) -> bool:
        """Wait until another window may begin; return false if nobody reads what was answered."""
        left = float(self._stall_seconds)
        while left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._room.acquire()
            except TimeoutError:  # counted from when the sending began: at twice that the protocol hangs up
                left = min(self._sending_since - time.perf_counter(), 0.0) + self._stall_seconds
            else:
                return True
        return False

    async def _encode(self, lines: list[Line], found: list[Found]) -> bytes:
        """Encode a window once its sender's key may send it, and write what came of it."""
        sequences = [one for one in found if not isinstance(one, LengthwiseError)]
        if (meter := self._service.meter) is not None:
            seconds = meter.wait(self._exchange.key)
            # At once, so that the next window waits for this one.
            meter.charge(self._exchange.key, sum(map(len, sequences)))
            await asyncio.sleep(max(0.0, seconds))
        rows = iter(await self._run(sequences))
        written = []
        for line, one in zip(lines, found, strict=True):
            row = one if isinstance(one, LengthwiseError) else next(rows)
            if isinstance(row, LengthwiseError):
                problem = problems.describe(row, self._exchange.request_id, line=line.number).model_dump(
                    exclude_none=True
                )
                written.append(ndjson.write_problem(problem, line.row))
            else:
                written.append(ndjson.write_embedding(line.row, row, self._options.encoding_format))
        body = b"".join(written)
        if self._reader:
            self._reader.owe_more(len(body))
        return body

    async def _run(self, sequences: list[Steps]) -> list[LineOutcome]:
        """Encode sequences; a full queue is waited for, and if the model fails on one, the others have their own."""
        if not sequences:
            return []
        joined = join(sequences, self._model.spec.kind)
        while True:
            try:
                encoded = await self._service.engine.encode(
                    self._model, joined, origin=self._exchange.origin, is_bulk=True
                )
            except errors.QueueFull:
                await self._service.engine.wait_for_run()
            except (errors.RunLost, errors.Stuck) as error:
                return [error] * len(sequences)
            except errors.RunFailed as error:
                if len(sequences) == 1:
                    return [error]
                return [row for one in sequences for row in await self._run([one])]
            else:
                answer = encoded.answer.normalized() if self._options.normalize else encoded.answer
                return list(answer.embeddings)

    async def _send_windows(self, send: Send) -> None:
        """Send what windows gave, in their order; only then may others begin."""
        while window := await self._windows.get():
            body = await window.body
            self._sending_since = time.perf_counter()
            await self._send(send, body)
            if self._reader:
                self._reader.owe_more(-len(body))
            self._sending_since = inf
            self._answered = window.last
            self._room.release()

    async def _send(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        """Send a part of the answer, which begins with the first: until then, a client may wait to be told to go on."""
        if not self._is_begun:
            self._is_begun = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})


def _count_steps(found: Found) -> int:
    return 0 if isinstance(found, LengthwiseError) else len(found)


def _cut(steps: list[int], budget: int) -> Iterator[tuple[int, int]]:
    """Return where to cut so that each part has at most so many steps, or is one that has more."""
    start = total = 0
    for place, count in enumerate(steps):
        if place > start and total + count > budget:
            yield start, place
            start, total = place, 0
        total += count
    yield start, len(steps)
