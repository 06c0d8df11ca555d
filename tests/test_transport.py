"""What is written in one turn of the event loop leaves in one piece."""

import asyncio
from typing import Any

import pytest

from service.transport import GatheringTransport


class Recorder:
    """A transport that keeps what was done to it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, part: bytes) -> None:
        """Keep what was written."""
        self.calls.append(part)

    def close(self) -> None:
        """Keep that it was closed."""
        self.calls.append("close")

    def is_closing(self) -> bool:
        """Say something."""
        return "close" in self.calls


@pytest.fixture
def recorder() -> Recorder:
    """A transport underneath."""
    return Recorder()


def test_writes_of_one_turn_leave_together(recorder: Recorder) -> None:
    """Head and body are one write, at once; what stands alone leaves in the next turn; nothing is sent twice."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(b"head ")
        assert recorder.calls == []
        transport.write(b"body")
        assert recorder.calls == [b"head body"]
        transport.write(b"next")
        assert recorder.calls == [b"head body"]
        await asyncio.sleep(0)
        assert recorder.calls == [b"head body", b"next"]

    asyncio.run(write())


def test_closing_sends_what_is_held_first(recorder: Recorder) -> None:
    """The last answer of a connection is not lost, and the rest of the transport is as it was."""

    async def write() -> None:
        transport = GatheringTransport(recorder)  # type: ignore[arg-type]
        transport.write(b"last")
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()
        await asyncio.sleep(0)
        assert recorder.calls == [b"last", "close"]

    asyncio.run(write())
