"""`python -m service.server.owner.process OPTIONS`: the process that owns a GPU.

It is started afresh, not forked: CUDA bears no fork. It ends when the first process has gone, by the socket that is its
standard input.
"""

import hashlib
import json
import logging
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from logging.config import dictConfig
from typing import Any

from service.encoder.channel import is_own
from service.encoder.providers import CudaOptions
from service.encoder.region import ASKED, MESSAGE_BYTES, Region
from service.encoder.runtime import Device, LocalRuntime
from service.errors import LengthwiseError
from service.observing import logs
from service.server.owner.blocks import Block, Channel
from service.server.owner.choosing import PATIENCE_SECONDS
from service.server.owner.graphs import Graph
from service.server.owner.merging import Merger
from service.settings import Form

logger = logging.getLogger("lengthwise")

# An ONNX graph that gives back one number: whether CUDA starts is seen by loading it.
PROBE = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
CHECK_SECONDS = 1.0  # between two looks at whether a run hangs
MOST_CHANNELS = 4096  # that are open at a time; each is a file or two


@dataclass(frozen=True, slots=True)
class Options:
    """What an owner is started with.

    Attributes:
        listener, board: file descriptors of where it listens, and of the owners' board.
        owners, number: how many there are, and which it is.
        provider, device, memory_bytes: what it runs on.
        threads: within a run on the CPU.
        max_batch_steps: padded steps in a run.
        max_run_seconds: how long a run may take before the process ends itself for hung.
        wait_seconds: before it begins, if the one before it ended soon.
        log_level, log_format: as the service's.
    """

    listener: int
    board: int
    owners: int
    number: int
    provider: Device
    device: int
    memory_bytes: int
    threads: int
    max_batch_steps: int
    max_run_seconds: float
    wait_seconds: float
    log_level: str
    log_format: Form

    def write(self) -> str:
        """Return what `main` reads."""
        return json.dumps(asdict(self))


class Owner:
    """Takes channels, and what is asked on them."""

    def __init__(self, options: Options) -> None:
        """Start the threads that run things.

        Raises:
            StartupError: the device cannot be used.
        """
        self._options = options
        self._cuda = CudaOptions(options.device, options.memory_bytes)
        if options.provider == "cuda":
            self._load(PROBE, "the probe")
        self._merger = Merger(options.provider, Region(options.board), options.owners, options.number)
        self._graphs: dict[str, Graph] = {}
        self._loading, self._counting = threading.Lock(), threading.Lock()
        self._channels = 0
        self._selector = selectors.DefaultSelector()

    def run(self, listener: socket.socket, link: socket.socket) -> None:
        """Serve until the first process has gone."""
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(link, selectors.EVENT_READ, lambda _: os._exit(0))
        while True:
            for key, _ in self._selector.select(CHECK_SECONDS):
                key.data(key.fileobj)
            if self._merger.seconds_since_start(time.perf_counter()) > self._options.max_run_seconds:
                logger.error("A run has taken over %g s, and this process ends", self._options.max_run_seconds)
                os._exit(1)

    def _load(self, content: bytes, file: str) -> LocalRuntime:
        options = self._options
        return LocalRuntime(content, file, options.provider, options.threads, self._cuda)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if not is_own(connection) or self._channels >= MOST_CHANNELS:
            connection.close()
            return
        connection.setblocking(False)
        self._channels += 1
        self._selector.register(connection, selectors.EVENT_READ, partial(self._hear, Channel(connection)))

    def _hear(self, channel: Channel, _: object) -> None:
        """Take what a channel's process says; whatever makes no sense ends the channel."""
        fds: list[int] = []
        try:
            said, fds, *_ = socket.recv_fds(channel.socket, MESSAGE_BYTES, 1)
            regions = [Region(fds.pop()) for _ in range(len(fds))]
            if not said or channel.is_busy:  # it ended, or does not wait for an answer
                self._part(channel)
                return
            channel.is_busy = True
            if channel.graph is None:
                (content,) = regions
                threading.Thread(target=self._greet, args=(channel, said, content), daemon=True).start()
                return
            if regions:
                (channel.region,) = regions
            *asked, due = ASKED.unpack(said)
            urgent = min(due, time.perf_counter() + PATIENCE_SECONDS)
            self._merger.add(Block.of(channel, channel.graph, (*asked,), urgent))
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 - it ended, or is none of ours
            if not isinstance(error, OSError):
                logger.warning("A channel is closed: %s", error)
            for fd in fds:
                os.close(fd)
            self._part(channel)

    def _part(self, channel: Channel) -> None:
        """Forget a channel, and its graph if no other asks for it."""
        self._selector.unregister(channel.socket)
        self._channels -= 1
        self._merger.drop(channel)
        with self._counting:
            channel.socket.close()
            self._leave(channel)

    def _leave(self, channel: Channel) -> None:
        graph, channel.graph, channel.region = channel.graph, None, None
        if graph is not None:
            graph.channels -= 1
            if not graph.channels:
                self._graphs = {known: other for known, other in self._graphs.items() if other is not graph}

    def _greet(self, channel: Channel, said: bytes, content: Region) -> None:
        """Load the graph that a channel is for, unless it is known, and tell of it."""
        try:
            greeting = json.loads(said)
            artifact = content.content()
            name = hashlib.sha256(artifact).hexdigest()
            graph = self._join(channel, name)
            if graph is None:
                with self._loading:  # one at a time
                    graph = self._join(channel, name) or self._open(channel, name, artifact, content, greeting)
            fds, answer = [graph.content.fd, graph.description.fd], b"{}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said
            reason = getattr(error, "reason", str(error)) or type(error).__name__
            fds, answer = [], json.dumps({"error": reason[:1000]}).encode()
        channel.is_busy = False
        with suppress(OSError):  # it ended, which the selector tells
            socket.send_fds(channel.socket, [answer], fds)

    def _open(self, channel: Channel, name: str, artifact: bytes, content: Region, greeting: dict[str, Any]) -> Graph:
        measured = {(int(rows), int(steps)): float(cost) for rows, steps, cost in greeting["measured"]}
        runtime = self._load(artifact, greeting["file"])
        graph = Graph(content, runtime, measured, self._options.max_batch_steps, self._merger.device)
        with self._counting:
            self._graphs[name] = graph
        self._join(channel, name)
        return graph

    def _join(self, channel: Channel, name: str) -> Graph | None:
        """Count a channel as one of a graph's, if that is known."""
        with self._counting:
            graph = self._graphs.get(name)
            if graph is not None:
                graph.channels += 1
                channel.graph = graph
                if channel.socket.fileno() < 0:  # it ended meanwhile
                    self._leave(channel)
            return graph


def main(arguments: list[str]) -> None:
    """Own a device until the first process has gone.

    Args:
        arguments: the options.
    """
    options = Options(**json.loads(arguments[0]))
    dictConfig(logs.configure(options.log_level, options.log_format))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process says when to end
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    link = socket.socket(fileno=os.dup(0))
    time.sleep(options.wait_seconds)
    try:
        owner = Owner(options)
    except LengthwiseError as error:
        link.send(json.dumps({"error": str(error)}).encode())
        sys.exit(1)
    link.send(b"{}")
    owner.run(socket.socket(fileno=options.listener), link)


if __name__ == "__main__":
    main(sys.argv[1:])
