"""Which worker gets a connection."""

import signal
import socket
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from service.api.worker import Staff
from service.server import workers
from service.server.handing import LATE_SECONDS, MOST_HANDED, Process, accept
from service.server.port import WAITING
from service.settings import Settings


class Hands:
    """Workers that take nothing by themselves, and a listener at which connections wait."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.setblocking(False)
        self.processes: list[Process] = []

    def add(self, heard: float, *, counted: int = 0, is_ready: bool = True) -> Process:
        """Add a worker that was heard of so many seconds ago."""
        ours, _ = map(self.stack.enter_context, socket.socketpair(type=socket.SOCK_SEQPACKET))
        one = Process(len(self.processes), 1, ours, time.monotonic() - heard, is_ready=is_ready, counted=counted)
        self.processes.append(one)
        return one

    def hand(self) -> list[int]:
        """Let a client connect; return how many connections each worker was handed so far."""
        self.stack.enter_context(socket.create_connection(self.listener.getsockname()))
        accept(self.listener, self.processes)
        return [one.handed for one in self.processes]


@pytest.fixture
def hands() -> Iterator[Hands]:
    """Return a listener without workers."""
    with ExitStack() as stack:
        yield Hands(stack)


def test_the_worker_with_fewest_connections_gets_the_next(hands: Hands) -> None:
    """Those on their way to it count."""
    hands.add(0, counted=2)
    hands.add(0)
    assert [hands.hand() for _ in range(4)] == [[0, 1], [0, 2], [1, 2], [1, 3]]


def test_a_worker_that_was_not_heard_of_lately_gets_a_connection_only_if_all_others_have_gone(hands: Hands) -> None:
    """It may stand still; a worker that has gone cannot be handed anything."""
    hands.add(2 * LATE_SECONDS)
    fresh = hands.add(0, counted=50)
    assert hands.hand() == [0, 1]
    fresh.channel.close()
    assert hands.hand() == [1, 1]


def test_a_worker_that_is_full_or_starts_or_leaves_gets_none(hands: Hands) -> None:
    """The connection waits in the kernel until one can take it."""
    hands.add(0, is_ready=False)
    hands.add(0).is_leaving = True
    hands.add(0).handed = MOST_HANDED
    assert hands.hand() == [0, 0, MOST_HANDED]
    hands.add(0)
    accept(hands.listener, hands.processes)
    assert [one.handed for one in hands.processes] == [0, 0, MOST_HANDED, 1]


def test_a_connection_that_has_gone_is_handed_to_nobody(hands: Hands) -> None:
    """It hung up before it was accepted, and the listener has nobody left."""
    hands.add(0)
    accept(hands.listener, hands.processes)
    assert hands.processes[0].handed == 0


class Ending:
    """The first process, told to end while a connection waits at its listener."""

    def __init__(self, *processes: Process) -> None:
        self.listener: Any = object()
        self.listeners = [self.listener]
        lacking: Any = None
        port: Any = SimpleNamespace(listeners=self.listeners, close=self._close)
        self.first = workers._Supervisor(
            Settings(), Staff(), lacking, port, lacking, lacking, _checked=lacking, _ended_by=signal.SIGTERM
        )
        self.first._processes.update(enumerate(processes))

    def _close(self, _selector: object, asked: Container[object]) -> None:
        self.listeners[:] = [one for one in self.listeners if one in asked]

    def is_over_after(self, seconds: float) -> bool:
        """Hand on a connection while another waits; return whether that was the last."""
        self.first._hand(self.listener)
        self.first._lead_out(seconds, [self.listener])
        return not self.listeners


def test_at_the_end_as_many_connections_are_handed_on_as_may_wait(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that hands on none does not count, however often a busy worker makes the first process try again."""
    ending = Ending(hands.add(0))
    monkeypatch.setattr(workers, "accept", lambda *_: False)
    assert not any(ending.is_over_after(1.0) for _ in range(2 * WAITING))
    monkeypatch.setattr(workers, "accept", lambda *_: True)
    assert [ending.is_over_after(1.0) for _ in range(WAITING + 1)] == [False] * WAITING + [True]


def test_at_the_end_nothing_is_handed_on_if_no_worker_takes_it(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits would hold up the end for nothing."""
    leaving, full = hands.add(0), hands.add(0)
    full.handed = MOST_HANDED
    monkeypatch.setattr(workers, "accept", lambda *_: False)
    leaving.is_leaving = True
    assert not Ending(leaving, full).is_over_after(1.0)
    assert Ending(leaving).is_over_after(1.0)
    assert Ending(full).is_over_after(Settings().drain_seconds)
