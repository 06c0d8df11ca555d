"""Several processes behind one port, since one does its Python on little more than one CPU, whatever its threads do.

The first process accepts connections, hands each to the one that has fewest, and starts anew whichever ends. The others
are whole services, each with its own models, queue and runners. They are forked, and share memory until they write it.
"""

import asyncio
import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from service.errors import StartupError
from service.settings import Settings

logger = logging.getLogger("lengthwise")

REPORT_SECONDS = 0.1  # between two counts of its connections that a process sends
HUNG_SECONDS = 30.0  # without any, before a process is ended: its event loop stands still
AGAIN_SECONDS = 1.0  # before a process is started anew that ended while it started
COUNT_BYTES = 4
STOPPING = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one of several processes.

    Attributes:
        number: from 0.
        channel: to the first process. Connections come by it, and how many there are goes back.
        folder: of the sockets by which they ask each other.
    """

    number: int
    channel: socket.socket
    folder: Path

    @property
    def path(self) -> Path:
        """Where the others ask this one."""
        return self.folder / str(self.number)

    def others(self) -> dict[int, Path]:
        """Return where to ask each of the others there have been."""
        return {int(path.name): path for path in sorted(self.folder.iterdir()) if path != self.path}

    async def attend(
        self, adopt: Callable[[socket.socket], Awaitable[None]], count: Callable[[], int], leave: Callable[[], None]
    ) -> None:
        """Take connections in, and tell how many there are, until this is cancelled.

        Args:
            adopt: takes a connection.
            count: those there are.
            leave: is called when the first process has gone.
        """
        loop = asyncio.get_running_loop()
        adopting: set[asyncio.Future[None]] = set()

        def take() -> None:
            message, handles, *_ = socket.recv_fds(self.channel, 1, 1)
            if not message:
                loop.remove_reader(self.channel)
                leave()
            for handle in handles:
                task = asyncio.ensure_future(adopt(socket.socket(fileno=handle)))
                adopting.add(task)
                task.add_done_callback(adopting.discard)

        loop.add_reader(self.channel, take)
        try:
            while True:
                self.channel.send(count().to_bytes(COUNT_BYTES, "big"))
                await asyncio.sleep(REPORT_SECONDS)
        except OSError:
            leave()
        finally:
            loop.remove_reader(self.channel)


@dataclass(slots=True, eq=False)
class _Process:
    """A process as the first one knows it; `heard` is when it last was, and None before it is ready."""

    seat: int
    pid: int
    channel: socket.socket
    connections: int = 0
    heard: float | None = None


@dataclass(slots=True)
class _Supervisor:
    """Starts processes, hands them connections, and ends them.

    Attributes:
        settings: say how many.
        listener: bound, and not listening yet.
        serve: serves at a seat until a signal says stop.
        folder: for `Seat`.
    """

    settings: Settings
    listener: socket.socket
    serve: Callable[[Seat], None]
    folder: Path
    _processes: dict[int, _Process] = field(default_factory=dict)  # by seat
    _due: dict[int, float] = field(default_factory=dict)  # seats that are empty, and when they are taken again
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _is_listening: bool = False
    _ended_by: signal.Signals | None = None
    _told: socket.socket = field(init=False)  # signals, by number

    def run(self) -> signal.Signals:
        """Serve until a signal says stop and all processes have ended.

        Returns:
            That signal.

        Raises:
            SystemExit: the first of them could not start, and has said why.
        """
        told, telling = socket.socketpair()
        telling.setblocking(False)
        self._told = told
        signal.set_wakeup_fd(telling.fileno())
        for known in (*STOPPING, signal.SIGHUP):
            signal.signal(known, lambda *_: None)  # the number comes by the socket
        self._selector.register(told, selectors.EVENT_READ, self._obey)
        self._start(0)  # it measures what the others then find measured
        while self._ended_by is None or self._processes:
            for key, _ in self._selector.select(AGAIN_SECONDS):
                key.data(key.fileobj)
            now = time.monotonic()
            for process in self._processes.values():
                if process.heard is not None and now - process.heard > HUNG_SECONDS:
                    logger.error("Process %d was not heard of for %g s, and is ended", process.pid, HUNG_SECONDS)
                    process.heard = inf
                    os.kill(process.pid, signal.SIGKILL)
            for seat in [seat for seat, due in self._due.items() if due <= now]:
                del self._due[seat]
                self._start(seat)
        return self._ended_by

    def _start(self, seat: int) -> None:
        """Fork a process."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            try:
                signal.set_wakeup_fd(-1)
                for known in (*STOPPING, signal.SIGHUP):
                    signal.signal(known, signal.SIG_DFL)
                os.setpgid(0, 0)  # what a terminal sends, the first process passes on
                for key in [*self._selector.get_map().values()]:
                    key.fileobj.close()  # type: ignore[union-attr]
                self._selector.close()
                self.listener.close()
                ours.close()
                theirs.setblocking(False)
                self.serve(Seat(seat, theirs, self.folder))
                code = 0
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else 1
                if isinstance(exit_.code, str):
                    sys.stderr.write(exit_.code + "\n")
            except BaseException:
                logger.exception("A process ended by what nobody foresaw")
                code = 1
            sys.stderr.flush()
            os._exit(code)
        theirs.close()
        ours.setblocking(False)
        self._processes[seat] = process = _Process(seat, pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._hear(process))

    def _hear(self, process: _Process) -> None:
        """Learn how many connections a process has, or that it ended."""
        try:
            counts = process.channel.recv(2**12)
        except OSError:
            counts = b""
        if not counts:
            self._end(process)
            return
        process.connections = int.from_bytes(counts[-COUNT_BYTES:], "big")
        process.heard = time.monotonic()
        if not self._is_listening and self._ended_by is None:
            self._listen()

    def _listen(self) -> None:
        """Listen, since there is one to serve, and start the others, since that one has measured."""
        self.listener.listen(2**11)
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self._is_listening = True
        host, port, *_ = self.listener.getsockname()
        scheme = "https" if self.settings.ssl_certfile else "http"
        named = f"[{host}]" if ":" in host else host
        logger.info(
            "%d processes running on %s://%s:%d (Press CTRL+C to quit)", self.settings.processes, scheme, named, port
        )
        self._due |= dict.fromkeys(range(1, self.settings.processes), 0.0)

    def _end(self, process: _Process) -> None:
        """Take leave of a process, and see that another takes its seat."""
        self._selector.unregister(process.channel)
        process.channel.close()
        del self._processes[process.seat]
        code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        if self._ended_by is not None:
            return
        if not self._is_listening:
            sys.exit(code or 1)
        logger.error("Process %d ended with code %d, and is started anew", process.pid, code)
        self._due[process.seat] = 0.0 if process.heard else time.monotonic() + AGAIN_SECONDS

    def _accept(self, _: object) -> None:
        """Hand a connection to the process that has fewest."""
        ready = [process for process in self._processes.values() if process.heard is not None]
        if not ready:
            time.sleep(REPORT_SECONDS)  # they are on their way, and connections wait meanwhile
            return
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it hung up already
            return
        with connection:
            process = min(ready, key=lambda one: one.connections)
            try:
                socket.send_fds(process.channel, [b"c"], [connection.fileno()])
            except OSError:  # it has ended, or takes nothing any more
                return
            process.connections += 1

    def _obey(self, _: object) -> None:
        """Do what signals say."""
        for number in self._told.recv(2**6):
            wanted = signal.Signals(number)
            if wanted in STOPPING and self._ended_by is None:
                self._ended_by, wanted = wanted, signal.SIGTERM
                self._due.clear()
                if self._is_listening:
                    self._selector.unregister(self.listener)
                self.listener.close()
            for process in self._processes.values():
                os.kill(process.pid, wanted)


def supervise(settings: Settings, serve: Callable[[Seat], None]) -> None:
    """Serve by several processes until a signal says stop, and end by that signal, as a single one does.

    Args:
        settings: say how many, and where to listen.
        serve: serves at a seat until a signal says stop; called in each process.

    Raises:
        StartupError: this is not Linux, or the address cannot be listened on.
    """
    if not sys.platform.startswith("linux"):
        raise StartupError("Several processes need Linux; elsewhere LENGTHWISE_PROCESSES is 1.")
    host, port = settings.host, settings.port
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise StartupError(f"{host}:{port} cannot be listened on: {error.strerror}.") from error
    with tempfile.TemporaryDirectory(prefix="lengthwise-") as folder:
        ended_by = _Supervisor(settings, listener, serve, Path(folder)).run()
    signal.signal(ended_by, signal.SIG_DFL)
    signal.raise_signal(ended_by)
