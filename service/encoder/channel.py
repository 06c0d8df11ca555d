"""A way to the process that owns a GPU, for one run at a time. This is the asking side.

It is a socket for short messages, and a region for arrays. The asker lays the inputs out in the region, sends a few
numbers, and sleeps until an answer says that the outputs lie there. If either process ends, the other one's socket
says so.
"""

import json
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from struct import Struct

import numpy as np
import numpy.typing as npt

from service.encoder.region import (
    ANSWERED,
    ASKED,
    DONE,
    MESSAGE_BYTES,
    OUTPUTS,
    SHAPE,
    Region,
    place_inputs,
    place_outputs,
)
from service.encoder.runtime import DEADLINES, Feed, Tensor
from service.errors import ArtifactError

KEPT_BYTES = 2**20  # of a region that an idle channel keeps
PEER = Struct("=3i")  # process, user and group at the other end of a socket


class OwnerFailed(Exception):
    """The other process could not run the batch; its own words."""


class Channel:
    """A way to an owner for one run at a time."""

    def __init__(self, address: str, seconds: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._region: Region | None = None
        self._number = 0
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._socket.settimeout(seconds)
            self._socket.connect(address)
            is_known = is_own(self._socket)
        except BaseException:
            self._socket.close()
            raise
        if not is_known:
            self._socket.close()
            raise PermissionError("another user listens there")

    def greet(self, content: Region, file: str, measured: list[list[float]]) -> None:
        """Say which graph the channel is for, and learn of it; the owner may know it from others."""
        greeting = json.dumps({"file": file, "measured": measured}).encode()
        socket.send_fds(self._socket, [greeting], [content.fd])
        said, fds = _receive(self._socket, 2)
        answer = json.loads(said)
        if "error" in answer:
            raise ArtifactError(file, answer["error"])
        self.content, description = map(Region, fds)
        told = json.loads(description.content())
        self.provider = told["provider"]
        self.inputs = [Tensor(*tensor) for tensor in told["inputs"]]
        self.outputs = [Tensor(*tensor) for tensor in told["outputs"]]
        self.metadata: dict[str, str] = told["metadata"]
        self.measured = {(int(rows), int(steps)): cost for rows, steps, cost in told["measured"]}

    def settle(self, seconds: float) -> None:
        """Wait for runs no longer than so."""
        self._socket.settimeout(seconds)

    def is_open(self) -> bool:
        """Whether the owner is there still, as far as is known."""
        return not self._poll.poll(0)  # it says nothing unasked, but for its end

    def run(self, outputs: Sequence[str], feed: Feed) -> list[npt.NDArray[np.float32]]:
        """Ask for a run and wait for it; see `Runtime.run`."""
        rows, steps = feed["sequences"].shape[:2]
        deadlines = feed.get(DEADLINES)
        places, size = place_inputs(self.inputs, rows, steps, dated=deadlines is not None)
        fds = []
        if self._region is None or self._region.size < size:
            self._region = Region.of(size)
            fds = [self._region.fd]
        for place in places:
            self._region.array(place)[...] = feed[place.name]
        self._number += 1
        asked = sum(1 << OUTPUTS.index(name) for name in outputs)
        due = inf if deadlines is None else float(deadlines.min())
        message = ASKED.pack(self._number, rows, steps, asked, deadlines is not None, due)
        socket.send_fds(self._socket, [message], fds)
        found = dict(zip(sorted(outputs, key=OUTPUTS.index), self._wait(), strict=True))
        return [found[name] for name in outputs]

    def _wait(self) -> list[npt.NDArray[np.float32]]:
        said, fds = _receive(self._socket, 1)
        if fds:  # the outputs are larger than the inputs
            self._region = Region(*fds)
        number, state = ANSWERED.unpack_from(said)
        told = said[ANSWERED.size :]
        if number != self._number or self._region is None:
            raise ConnectionError("it answered another run")
        if state != DONE:
            raise OwnerFailed(told.decode())
        shapes = [tuple(size for size in shape if size) for shape in SHAPE.iter_unpack(told)]
        return [self._region.array(place).copy() for place in place_outputs(shapes)[0]]

    def shrink(self) -> None:
        """Give up a large region; the next run brings another."""
        if self._region is not None and self._region.size > KEPT_BYTES:
            self._region = None

    def close(self) -> None:
        """Part from the owner."""
        self._socket.close()

    def __del__(self) -> None:
        self.close()


def is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end of a socket belongs to the same user."""
    _, user, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    return bool(user == os.geteuid())


def _receive(connection: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Return a message and the file descriptors that came with it.

    Raises:
        OSError: the other process has ended, or takes too long.
    """
    said, fds, *_ = socket.recv_fds(connection, MESSAGE_BYTES, most)
    if not said:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
        raise ConnectionResetError("it ended")
    return said, fds
