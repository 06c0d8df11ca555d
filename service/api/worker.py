"""What one of several processes knows of the others, and how it takes its connections from the first."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct

logger = logging.getLogger("lengthwise")

REPORT_SECONDS = 0.1  # between two counts of its connections that a process sends, if nothing changes
REPORT = Struct("!II")  # connections that a process has, and those that it was ever handed
TAKES_NONE = 2**32 - 1  # in place of the first: it drains


@dataclass(frozen=True, slots=True)
class Worker:
    """The place of one of several processes.

    Attributes:
        number: from 0.
        processes: how many there are.
        channel: to the first process. Connections come by it, and how many there are goes back.
        name: of all of them, on this machine.
        secret: what they know each other by.
    """

    number: int
    processes: int
    channel: socket.socket
    name: str
    secret: bytes

    def listen(self) -> socket.socket:
        """Return the socket on which the others ask this process."""
        return self._open(socket.socket.bind, self.number)

    def call(self, number: int) -> socket.socket:
        """Return a connection to another process.

        Raises:
            OSError: that process does not listen.
        """
        return self._open(socket.socket.connect, number)

    def _open(self, use: Callable[[socket.socket, str], None], number: int) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX)
        opened.setblocking(False)
        try:
            use(opened, f"\0lengthwise-{self.name}-{number}")  # Linux has a name for such a socket, and no file
        except OSError:
            opened.close()
            raise
        return opened

    async def attend(
        self,
        adopt: Callable[[socket.socket], Awaitable[None]],
        count: Callable[[], int | None],
        changed: asyncio.Event,
        leave: Callable[[], None],
    ) -> None:
        """Take connections in, and tell how many there are, until this is cancelled.

        Args:
            adopt: takes a connection.
            count: returns how many it has; None if it takes no more.
            changed: is set when there are fewer, and should be told at once.
            leave: is called when the first process has gone.
        """
        loop = asyncio.get_running_loop()
        adopting: set[asyncio.Future[None]] = set()
        taken = 0

        def take() -> None:
            nonlocal taken
            try:
                message, handles, *_ = socket.recv_fds(self.channel, 1, 1)
            except OSError:
                message, handles = b"", []
            if not message:
                loop.remove_reader(self.channel)
                leave()
                return
            taken += 1
            if not handles:
                logger.error("A connection was lost: the process may open no more files")
            for handle in handles:
                task = asyncio.ensure_future(adopt(socket.socket(fileno=handle)))
                adopting.add(task)
                task.add_done_callback(adopting.discard)

        loop.add_reader(self.channel, take)
        while True:
            counted = count()
            told = TAKES_NONE if counted is None else counted + len(adopting)
            try:
                self.channel.send(REPORT.pack(told, taken))
            except BlockingIOError:  # the first process stands still; so may a debugger have it
                pass
            except OSError:
                leave()
                return
            changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await changed.wait()
