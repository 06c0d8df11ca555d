"""A graph that runs in another process: the one that owns a GPU. This is the asking side."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.encoder.channel import Channel, OwnerFailed
from service.encoder.region import Place, Region
from service.encoder.runtime import Feed, Measured
from service.errors import ArtifactError, RunLost

LOAD_SECONDS = 120.0  # for an owner to load a graph and measure it
RETURN_SECONDS = 15.0  # for one that ended to come back, and load it again


@dataclass(frozen=True, slots=True)
class Owners:
    """The processes that own a GPU each, as those that ask them know them.

    Attributes:
        addresses: where each of them listens.
        board: a number for each, shared with it: when it should be through with what it was asked for.
        max_run_seconds: how long a run may take.
    """

    addresses: tuple[str, ...]
    board: Region
    max_run_seconds: float

    def open(self, content: bytes, file: str) -> "RemoteRuntime":
        """Have every owner load a graph.

        Raises:
            ArtifactError: it cannot be loaded.
        """
        return RemoteRuntime(self, content, file)

    def by_turn(self) -> list[int]:
        """Return the owners, the one that is free first at the front."""
        if len(self.addresses) == 1:
            return [0]
        now = time.perf_counter()
        free = np.maximum(read_board(self.board, len(self.addresses)), now)
        return [int(number) for number in np.argsort(free, kind="stable")]


class RemoteRuntime:
    """A graph that other processes run; see `Runtime`."""

    keeps_deadlines = True

    def __init__(self, owners: Owners, content: bytes, file: str) -> None:
        """Have every owner load it.

        Raises:
            ArtifactError: it cannot be loaded.
        """
        self._owners = owners
        self._file = file
        self._content = Region.holding(content)
        self._lock = threading.Lock()
        self._idle: list[list[Channel]] = [[] for _ in owners.addresses]
        self.measured: Measured = {}
        for number in range(len(owners.addresses)):
            try:
                channel = self._open(number, LOAD_SECONDS)
            except OSError as error:
                raise ArtifactError(file, f"the process that owns the GPU did not load it: {error}") from error
            self.provider, self.inputs, self.outputs = channel.provider, channel.inputs, channel.outputs
            self.metadata, self.measured = channel.metadata, channel.measured
            self._content = channel.content  # the owner's own: all that ask share it
            self._idle[number].append(channel)

    def run(self, outputs: Sequence[str], feed: Feed) -> list[npt.NDArray[np.float32]]:
        """Run the graph over a batch, together with what others ask for at the time.

        Raises:
            RunLost: the process that owns the GPU ended, or does not answer.
            OwnerFailed: the run failed.
        """
        try:
            channel, number = self._take()
        except OSError as error:
            raise RunLost(f"the process that owns the GPU is not there ({_name(error)})") from error
        try:
            found = channel.run(outputs, feed)
        except OwnerFailed:
            self._give_back(channel, number)
            raise
        except OSError as error:
            channel.close()
            raise RunLost(f"the process that owns the GPU ended, or did not answer ({_name(error)})") from error
        except BaseException:
            channel.close()
            raise
        self._give_back(channel, number)
        return found

    def release_memory(self, _feed: Feed) -> None:
        """Keep one channel to each owner, and no more shared memory than small runs need."""
        with self._lock:
            spare = [channel for idle in self._idle for channel in idle[1:]]
            self._idle = [idle[:1] for idle in self._idle]
            for idle in self._idle:
                for channel in idle:
                    channel.shrink()
        for channel in spare:
            channel.close()

    def _take(self) -> tuple["Channel", int]:
        """Return a channel to the owner that is free first."""
        error: OSError | None = None
        for number in self._owners.by_turn():
            while True:
                with self._lock:
                    channel = self._idle[number].pop() if self._idle[number] else None
                if channel is None:
                    break
                if channel.is_open():
                    return channel, number
                channel.close()
            try:
                return self._open(number, min(RETURN_SECONDS, self._owners.max_run_seconds)), number
            except OSError as failed:
                error = failed
        raise error or ConnectionError("there is none")

    def _give_back(self, channel: "Channel", number: int) -> None:
        with self._lock:
            self._idle[number].append(channel)

    def _open(self, number: int, seconds: float) -> "Channel":
        known = [[*shape, cost] for shape, cost in self.measured.items()]
        channel = Channel(self._owners.addresses[number], seconds)
        try:
            channel.greet(self._content, self._file, known)
        except BaseException:
            channel.close()
            raise
        channel.settle(self._owners.max_run_seconds)
        return channel


def read_board(board: Region, owners: int) -> npt.NDArray[np.float64]:
    """Return the numbers on a board; to write to them is to write to the board."""
    return board.array(Place("board", 0, (owners,), np.float64))


def _name(error: OSError) -> str:
    return str(error) or type(error).__name__
