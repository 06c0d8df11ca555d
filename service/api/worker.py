"""What one of several workers knows of the others, and what it does beside serving."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from service.api.meter import Rates
from service.costs.board import Board

logger = logging.getLogger("lengthwise")

REPORT_SECONDS = 0.1  # between two counts of its connections that a process sends, if nothing changes
REPORT = Struct("!II")  # connections that a process has, and those that it was ever handed
LEDGER = Struct("!QQ")  # at the beginning of a ledger: where what it keeps begins, and how many bytes that is
TAKES_NONE = 2**32 - 1  # in place of the first: it drains


class Staff(NamedTuple):
    """The workers of a service.

    Attributes:
        number: how many there are.
        cpus: that all of them may keep busy together.
        why: there are so many.
    """

    number: int = 1
    cpus: int = 1
    why: str = "this process was started without others"


ALONE = Staff()


@dataclass(frozen=True, slots=True)
class Shared:
    """What the workers of a service share since they were forked.

    Attributes:
        board: who is at work, and how much waits.
        rates: what each key has sent; None if it may send anything.
        ledgers: a file in memory for each worker, where it keeps what it told of its counts.
        name: of all of them, on this machine.
        secret: what they know each other by.
    """

    board: Board
    rates: Rates | None
    ledgers: tuple[int, ...]
    name: str = field(default_factory=secrets.token_hex)
    secret: bytes = field(default_factory=secrets.token_bytes)

    @classmethod
    def among(cls, staff: Staff, *, has_rates: bool) -> "Shared":
        """Make what so many workers share that will be forked from this process; Linux only."""
        ledgers = tuple(os.memfd_create(f"lengthwise-{number}") for number in range(staff.number))
        return cls(Board(staff.number, staff.cpus), Rates.shared() if has_rates else None, ledgers)

    def recall(self, number: int) -> bytes:
        """Return what a worker last told of its counts; nothing if it never did."""
        at, size = self.find(number)
        return os.pread(self.ledgers[number], size, at)

    def keep(self, number: int, told: bytes) -> None:
        """Keep what a worker told: beside what it told before, which stands until this is there as a whole.

        Whenever the worker is killed, one of the two can be recalled.
        """
        ledger, (before, size) = self.ledgers[number], self.find(number)
        at = LEDGER.size if before >= LEDGER.size + len(told) else max(LEDGER.size, before + size)
        os.pwrite(ledger, told, at)
        os.pwrite(ledger, LEDGER.pack(at, len(told)), 0)

    def find(self, number: int) -> tuple[int, int]:
        """Return where in a worker's ledger what it last told begins, and how many bytes that is."""
        at, size = LEDGER.unpack(os.pread(self.ledgers[number], LEDGER.size, 0) or bytes(LEDGER.size))
        return at, size


@dataclass(frozen=True, slots=True)
class Worker:
    """The place of one of several workers.

    Attributes:
        number: from 0.
        channel: to the first process. Connections come by it, and how many there are goes back.
        shared: what all of them share.
        board: its own view of the board.
        inherited: what the worker before it in this place told of its counts; nothing if there was none.
    """

    number: int
    channel: socket.socket
    shared: Shared
    board: Board
    inherited: bytes = b""

    @property
    def others(self) -> list[int]:
        """The numbers of the others."""
        return [number for number in range(len(self.shared.ledgers)) if number != self.number]

    def keep(self, told: bytes) -> None:
        """Keep what this worker told of its counts, for the one that takes its place."""
        self.shared.keep(self.number, told)

    def listen(self) -> socket.socket:
        """Return the socket on which the others ask this process."""
        return self._open(socket.socket.bind, self.number)

    def call(self, number: int) -> socket.socket:
        """Return a connection to another worker.

        Raises:
            OSError: that process does not listen.
        """
        return self._open(socket.socket.connect, number)

    def _open(self, use: Callable[[socket.socket, str], None], number: int) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX)
        opened.setblocking(False)
        try:
            use(opened, f"\0lengthwise-{self.shared.name}-{number}")  # Linux has a name for such a socket, and no file
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
