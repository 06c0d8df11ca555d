"""Answers that their readers have not taken: how many bytes they may have, and which readers are cut off beyond that.

A large answer is counted before it is computed, by the size that it should have. A small one is counted only when it
fills the buffer of its connection, so most cost nothing. If there is no room for a large answer, the slowest readers
are cut off; if that does not help, it is refused.
"""

import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from service.errors import AnswersUnread, AnswerTooLarge

READER = "lengthwise.reader"  # the key under which a request's scope holds the reader of its answer
COUNTED_BYTES = 2**16  # smaller answers are not counted in advance; a connection's buffer is full when it has as many
PATIENCE_SECONDS = 5  # a reader that took less than PATIENCE_BYTES in this time may be cut off for new answers
PATIENCE_BYTES = 2**16
KERNEL_BYTES = 2**14  # that the kernel holds of a stream that is kept close; Linux doubles them


class Way(Protocol):
    """The way to one reader; `CountingTransport` is one."""

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken, of all that were ever written."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the kernel."""

    def get_extra_info(self, name: str) -> Any:
        """Return what asyncio knows of the connection under a name, as `socket`."""

    def abort(self) -> None:
        """Close the connection, whatever waits."""


class Unread:
    """The unread answers of all connections of a process.

    Attributes:
        limit: bytes that they may have.
        held: bytes that they have, including those that are still computed.
        stalled: readers whose buffer is full; the first one has taken nothing for the longest time.
    """

    def __init__(self, limit: float, see_cut_off: Callable[[], None] = lambda: None) -> None:
        """Begin with none.

        Args:
            limit: at least 1.
            see_cut_off: is called when a reader is cut off.
        """
        self.limit = limit
        self.held = 0
        self.stalled: dict[Reader, None] = {}
        self._see_cut_off = see_cut_off

    def make_room(self, size: int, patience: float = 0.0) -> bool:
        """Cut off the slowest readers, one after the other, until there is room.

        Args:
            size: the bytes that are to come.
            patience: seconds that a reader has at least.

        Returns:
            Whether there is room.
        """
        while self.held + size > self.limit and (reader := self._find_slowest(patience)):
            self._see_cut_off()
            reader.cut_off()
        return self.held + size <= self.limit

    def _find_slowest(self, patience: float) -> "Reader | None":
        now = time.monotonic()
        while reader := next(iter(self.stalled), None):
            if now - reader.stalled_at < patience:
                return None
            if not reader.has_moved():
                return reader
            reader.begin_wait()  # it reads on, and its time begins anew
        return None


class Reader:
    """The client at the other end of a connection, and what it has not read.

    Attributes:
        stalled_at: when its buffer became full, or when it was last found to read on.
    """

    __slots__ = ("_buffered", "_is_gone", "_owed", "_taken", "_unread", "_way", "stalled_at")

    def __init__(self, unread: Unread, way: Way) -> None:
        """Begin with nothing unread."""
        self._unread = unread
        self._way = way
        self._owed = self._buffered = self._taken = 0
        self._is_gone = False
        self.stalled_at = 0.0

    def expect(self, size: int) -> None:
        """Count the answer under way before it is computed.

        Raises:
            AnswerTooLarge: it would never have room.
            AnswersUnread: it has none now.
        """
        if size > self._unread.limit:
            raise AnswerTooLarge(size, self._unread.limit)
        if not self._unread.make_room(size, PATIENCE_SECONDS):
            raise AnswersUnread(self._unread.held, self._unread.limit, PATIENCE_SECONDS)
        self.owe(size)

    def owe(self, size: int) -> None:
        """Count the answer under way as it is, or what is left of it; 0 once it is in the buffer."""
        if self._is_gone or size == self._owed:
            return
        grown, self._owed = size - self._owed, size
        self._unread.held += grown
        if grown > 0:
            self._unread.make_room(0)

    def owe_more(self, size: int) -> None:
        """Count more of it, or less."""
        self.owe(self._owed + size)

    def stall(self) -> None:
        """Count what the buffer holds, which is full."""
        if not self._is_gone:
            self.begin_wait()
            self._unread.make_room(0)

    def resume(self) -> None:
        """Forget the buffer, which has room again."""
        self._unread.stalled.pop(self, None)
        self._unread.held -= self._buffered
        self._buffered = 0

    def begin_wait(self) -> None:
        """Wait for the reader from now on, the last of those that are waited for."""
        self.resume()
        self._unread.stalled[self] = None
        self.stalled_at, self._taken = time.monotonic(), self._way.taken
        self._buffered = self._way.get_write_buffer_size()
        self._unread.held += self._buffered

    @property
    def is_behind(self) -> bool:
        """Whether something that was sent waits until the kernel has room."""
        return self._way.get_write_buffer_size() > 0

    def keep_close(self) -> None:
        """Let the kernel hold little of what is not read, so that it soon shows who does not read.

        By itself it takes 4 MB of a client that reads nothing.
        """
        self._way.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

    def has_moved(self) -> bool:
        """Whether enough was taken since it stalled."""
        return self._way.taken - self._taken >= PATIENCE_BYTES

    def cut_off(self) -> None:
        """Close the connection, and count nothing of it any more."""
        self.leave()
        self._way.abort()

    def leave(self) -> None:
        """Count nothing of a connection that is closed."""
        self.resume()
        self.owe(0)
        self._is_gone = True
