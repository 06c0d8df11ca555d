"""A load generator: HTTP/1.1 over kept-alive sockets, with requests encoded beforehand and one loop over a selector.

Nothing is parsed but status and length, so that one core drives far more requests than it shares a machine with. In an
open loop requests are due by a schedule, whatever the server does, and their latency counts from when they were due:
a stalled server cannot slow the clock that judges it.
"""

import re
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, repeat
from typing import TypeAlias, cast

import numpy as np

READ_BYTES = 2**18
STALL_SECONDS = 60.0  # without a byte from a server that owes answers
NOW = 0.0  # in a schedule: due as soon as a connection is idle
OPEN_CONNECTIONS = 64  # an open loop's; a request due while all are busy waits, and the wait counts
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(slots=True)
class Outcome:
    """What a load gave.

    Attributes:
        latencies: seconds, of the requests answered 200, in the order of the answers.
        failures: answers by another status, `broken` for connections that ended or spoke no HTTP, and `stalled` for
            requests given up.
        answers: the last body answered 200 to each request, by the request's index.
        seconds: the time from the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Requests answered 200 in a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """Return the latency in ms that this share of the answers stayed within; NaN if there are none."""
        if not self.latencies:
            return float("nan")
        return float(np.quantile(self.latencies, share, method="inverted_cdf")) * 1e3

    def fail(self, reason: str) -> None:
        """Count a failed request."""
        self.failures[reason] = self.failures.get(reason, 0) + 1


class Connection:
    """One kept-alive connection with at most one request under way.

    Attributes:
        due: when its request counts from, on `time.perf_counter`'s clock.
        index: its request's index.
        head, answer: the last answer's, complete once `receive` has returned a status.
    """

    def __init__(self, port: int) -> None:
        self.due = 0.0
        self.index = 0
        self.head = self.answer = b""
        self._port = port
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._socket = self._connect()

    def fileno(self) -> int:
        """Return the socket's own, for `select`."""
        return self._socket.fileno()

    @property
    def is_sending(self) -> bool:
        """Whether a part of the request is still to be sent."""
        return bool(self._unsent)

    def start(self, request: bytes, due: float) -> None:
        """Send a request, or as much of it as the kernel takes."""
        self.due, self._unsent = due, memoryview(request)
        self._received.clear()
        self.send()

    def send(self) -> None:
        """Send on; an error is left for `receive` to find."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")

    def receive(self) -> str | None:
        """Read what is there.

        Returns:
            The status once the answer is complete, `broken` if there will be none, None while it is under way.
        """
        try:
            chunk = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            chunk = b""
        self._received += chunk
        end = self._received.find(b"\r\n\r\n")
        length = LENGTH.search(self._received, 0, end + 2) if end >= 0 else None
        if not chunk or (end >= 0 and length is None):
            return "broken"
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return None
        self.head, self.answer = bytes(self._received[:end]), bytes(self._received[end + 4 :])
        return self._received[9:12].decode("latin-1")

    def connect_again(self) -> None:
        """Put a new socket in the place of a broken one."""
        self.close()
        self._socket = self._connect()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        return connected


Note: TypeAlias = Callable[[Connection, str], None]


def ask(port: int, request: bytes, timeout_seconds: float = 60.0) -> tuple[str, bytes]:
    """Send one request and return its status and body; the status is `broken` if no answer came in time."""
    with ExitStack() as opened:
        connection = Connection(port)
        opened.callback(connection.close)
        connection.start(request, time.perf_counter())
        end = time.perf_counter() + timeout_seconds
        while (left := end - time.perf_counter()) > 0:
            writers = [connection] if connection.is_sending else []
            readable, writable, _ = select.select([connection], writers, [], left)
            if writable:
                connection.send()
            if readable and (status := connection.receive()) is not None:
                return status, connection.answer
        return "broken", b""


def run_closed(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, note: Note | None = None
) -> Outcome:
    """Keep `connections` requests in flight for a while, one at least; those under way at its end still count."""
    start = time.perf_counter()
    end = start + seconds

    def schedule() -> Iterator[float]:
        yield NOW
        while time.perf_counter() < end:
            yield NOW

    return _run(port, schedule(), requests, connections, start, note)


def run_number(
    port: int, requests: Sequence[bytes], connections: int, number: int, note: Note | None = None
) -> Outcome:
    """Send so many requests, `connections` at a time."""
    return _run(port, repeat(NOW, number), requests, connections, time.perf_counter(), note)


def run_open(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    connections: int = OPEN_CONNECTIONS,
    note: Note | None = None,
) -> Outcome:
    """Send requests at random moments, `rate` of them a second on average, whether or not answers come."""
    start = time.perf_counter() + 0.05
    schedule = (start + due for due in draw_arrivals(rate, seconds, seed=0))
    return _run(port, schedule, requests, connections, start, note)


def draw_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Draw the moments of a Poisson process, in seconds from its start."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 100)
    moments = np.cumsum(gaps)
    return [float(moment) for moment in moments[moments < seconds]]


def _go_on(selector: selectors.BaseSelector, key: selectors.SelectorKey, ready: int) -> str | None:
    """Send and read on, as the selector says a connection is ready for; return what `receive` does."""
    connection = cast("Connection", key.fileobj)
    if ready & selectors.EVENT_WRITE:
        connection.send()
    status = connection.receive() if ready & selectors.EVENT_READ else None
    if key.events & selectors.EVENT_WRITE and not (status is None and connection.is_sending):
        selector.modify(connection, selectors.EVENT_READ)
    if status == "broken":
        selector.unregister(connection)
        connection.connect_again()
        selector.register(connection, selectors.EVENT_READ)
    return status


def _run(
    port: int,
    schedule: Iterator[float],
    requests: Sequence[bytes],
    connections: int,
    start: float,
    note: Note | None = None,
) -> Outcome:
    """Send a request for each moment of a schedule, as soon as it is due and a connection is idle.

    `note` is told of every answer: the connection it came on, and its status.
    """
    outcome, endless = Outcome(), cycle(enumerate(requests))
    with ExitStack() as opened:
        selector = opened.enter_context(selectors.DefaultSelector())
        idle: deque[Connection] = deque()
        for _ in range(connections):
            connection = Connection(port)
            opened.callback(connection.close)
            selector.register(connection, selectors.EVENT_READ)
            idle.append(connection)
        busy: set[Connection] = set()
        due = next(schedule, None)
        while busy or due is not None:
            while idle and due is not None and due <= time.perf_counter():
                connection = idle.popleft()
                connection.index, request = next(endless)
                connection.start(request, due or time.perf_counter())
                if connection.is_sending:
                    selector.modify(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
                busy.add(connection)
                due = next(schedule, None)
            is_scheduled = bool(idle) and due is not None
            wait = max(0.0, (due or NOW) - time.perf_counter()) if is_scheduled else STALL_SECONDS
            events = selector.select(wait)
            if not (is_scheduled or events):
                outcome.failures["stalled"] = len(busy)
                break
            for key, ready in events:
                connection = cast("Connection", key.fileobj)
                status = _go_on(selector, key, ready)
                if status is None or connection not in busy:  # an idle one was closed
                    continue
                if note:
                    note(connection, status)
                if status == "200":
                    outcome.latencies.append(time.perf_counter() - connection.due)
                    outcome.answers[connection.index] = connection.answer
                else:
                    outcome.fail(status)
                busy.remove(connection)
                idle.append(connection)
    outcome.seconds = time.perf_counter() - start
    return outcome
