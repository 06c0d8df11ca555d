"""Several workers behind one port, since one does its Python on little more than one CPU, whatever its threads do.

The first process accepts connections, hands each to the worker that has fewest, and starts anew whichever ends. Workers
are whole services, each with its own models, queue and runners. They are forked, and share memory until they write it.
"""

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from service.api.worker import REPORT, REPORT_SECONDS, TAKES_NONE, Shared, Staff, Worker
from service.errors import StartupError
from service.server import check
from service.server.handing import LATE_SECONDS, Process, accept
from service.server.owner.keeping import Keeper
from service.server.port import WAITING, Port
from service.settings import Settings

logger = logging.getLogger("lengthwise")

HUNG_SECONDS = 30.0  # without a report, before a process is ended: its event loop stands still
START_SECONDS = 300.0  # before one is ended that takes the place of another and does not come to serve
AGAIN_SECONDS = 1.0  # before a process is started anew that could not be, or ended while it started
END_SECONDS = 15.0  # after the time to drain, before what is left is ended
STOPPING = (signal.SIGTERM, signal.SIGINT)
HANDLED = (*STOPPING, signal.SIGHUP)


@dataclass(slots=True)
class _Supervisor:
    """Starts processes, hands them connections, and ends them.

    Attributes:
        settings: the service's settings.
        staff: how many workers there are.
        shared: what they share.
        port: bound, and not listened on yet.
        serve: serves as that worker until a signal says stop.
        keeper: of the processes that own the GPUs, if there are any.
    """

    settings: Settings
    staff: Staff
    shared: Shared
    port: Port
    serve: Callable[[Worker], None]
    keeper: Keeper | None
    _processes: dict[int, Process] = field(default_factory=dict)  # by their numbers
    _due: dict[int, float] = field(default_factory=dict)  # seats that are empty, and when they are taken again
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _checked: check.Listener = field(default_factory=check.Listener)
    _ended_by: signal.Signals | None = None
    _ended_at: float = 0.0
    _last: Counter[object] = field(default_factory=Counter)  # connections handed on since then, by their listeners
    _told: socket.socket = field(init=False)  # signals, by number
    _telling: socket.socket = field(init=False)  # where the interpreter writes them

    def run(self) -> signal.Signals:
        """Serve until a signal says stop and all processes have ended.

        Returns:
            That signal.

        Raises:
            StartupError: others listen there, or the first process was killed.
            SystemExit: none could be started; why has been said.
        """
        self._told, self._telling = socket.socketpair()
        self._telling.setblocking(False)
        signal.set_wakeup_fd(self._telling.fileno())
        for known in HANDLED:
            signal.signal(known, lambda *_: None)  # the number comes by the socket
        self._selector.register(self._told, selectors.EVENT_READ, self._obey)
        self._selector.register(self._checked.socket, selectors.EVENT_READ, lambda _: self._checked.answer(self._tell))
        if self.keeper:
            self.keeper.attend(self._watch, self._selector.unregister)
        self._start(0)  # alone, since it measures what the others then find measured
        while self._ended_by is None or self._processes:
            before = time.monotonic()
            ready = self._selector.select(AGAIN_SECONDS if self._ended_by is None else REPORT_SECONDS)
            for key, _ in ready:
                key.data(key.fileobj)
            now = time.monotonic()
            if now - before > HUNG_SECONDS / 2:  # this process stood still itself, and maybe all of them did
                for process in self._processes.values():
                    process.heard = now
            self._end_hung(now)
            self._take_seats(now)
            if self._ended_by is not None:
                self._lead_out(now - self._ended_at, [key.fileobj for key, _ in ready])
        return self._ended_by

    def _watch(self, opened: socket.socket, call: Callable[[], None]) -> None:
        self._selector.register(opened, selectors.EVENT_READ, lambda _: call())

    def _end_hung(self, now: float) -> None:
        for process in self._processes.values():
            # Only the first one measures, which may take as long as it does.
            most = HUNG_SECONDS if process.is_ready else START_SECONDS if self.port.is_listening else inf
            if now - process.heard > most:
                logger.error("Process %d was not heard of for %g s, and is ended", process.pid, most)
                process.heard, process.is_leaving = inf, True
                os.kill(process.pid, signal.SIGKILL)

    def _take_seats(self, now: float) -> None:
        for number in [number for number, due in self._due.items() if due <= now]:
            try:
                self._start(number)
            except OSError as error:
                logger.error("A process cannot be started: %s", error)  # noqa: TRY400 - the machine's fault
                self._due[number] = now + AGAIN_SECONDS
            else:
                del self._due[number]

    def _start(self, number: int) -> None:
        """Fork a process."""
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # what comes in between is for the right one of the two
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                self._serve(number, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        ours.setblocking(False)
        self._processes[number] = process = Process(number, pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._hear(process))

    def _serve(self, number: int, channel: socket.socket) -> None:
        """Serve as a worker, in the process that was forked for it, and end that."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)  # asyncio has done so from Python 3.12 on, and returns nothing to close
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # what a terminal may send who writes to it in the background
            for known in HANDLED:
                signal.signal(known, lambda number, _: sys.exit(128 + number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            os.setpgid(0, 0)  # what a terminal sends, the first process passes on
            for opened in self._opened():
                opened.close()
            self._selector.close()
            channel.setblocking(False)
            inherited = self.shared.recall(number)
            self.serve(Worker(number, channel, self.shared, self.shared.board.view(number), inherited))
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
            if isinstance(exit_.code, str):
                sys.stderr.write(exit_.code + "\n")
        except BaseException:
            logger.exception("A process ended by what nobody foresaw")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _opened(self) -> Iterator[socket.socket]:
        """Yield what only this process needs."""
        yield self._told
        yield self._telling
        yield self._checked.socket
        yield from self.port.listeners
        yield from (process.channel for process in self._processes.values())

    def _hear(self, process: Process) -> None:
        """Learn how many connections a process has, or that it ended."""
        try:
            told = process.channel.recv(REPORT.size)
        except OSError:
            told = b""
        if not told:
            self._end(process)
            return
        process.heard, process.is_ready = time.monotonic(), True
        process.counted, process.taken = REPORT.unpack(told)
        process.is_leaving = process.counted == TAKES_NONE
        if not self.port.is_listening and self._ended_by is None:
            self._listen()

    def _listen(self) -> None:
        """Listen, since there is one to serve, and start the others, since that one has measured."""
        self.port.listen(self._selector, self._hand, self.staff.number)
        self._due |= dict.fromkeys(range(1, self.staff.number), 0.0)

    def _end(self, process: Process) -> None:
        """Take leave of a process, and see that another takes its place."""
        self._selector.unregister(process.channel)
        process.channel.close()
        del self._processes[process.number]
        self.shared.board.view(process.number).clear()
        code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        if self._ended_by is not None:
            return
        is_last = not self._processes and not process.is_ready
        if not self.port.is_listening or is_last:  # there is none left, and it could not even start
            if code > 0:
                sys.exit(code)  # it has said why
            raise StartupError(f"The first process ended by signal {-code} while it started.")
        logger.error("Process %d ended with code %d, and is started anew", process.pid, code)
        self._due[process.number] = 0.0 if process.is_ready else time.monotonic() + AGAIN_SECONDS

    def _hand(self, listener: socket.socket) -> None:
        if accept(listener, self._processes.values()) and self._ended_by is not None:
            self._last[listener] += 1

    def _tell(self) -> str:
        """Say whether any process takes requests."""
        if self._ended_by is not None:
            return "it is shutting down."
        late = time.monotonic() - LATE_SECONDS
        if any(one.is_able and one.heard > late for one in self._processes.values()):
            return check.READY
        return "none of its processes takes requests now." if self.port.is_listening else "it is starting."

    def _obey(self, _: object) -> None:
        """Do what signals say."""
        for number in self._told.recv(2**6):
            wanted = signal.Signals(number)
            if wanted in STOPPING and self._ended_by is None:
                self._ended_by, self._ended_at = wanted, time.monotonic()
                self._due.clear()
            else:
                self._signal(wanted)

    def _lead_out(self, seconds: float, asked: list[object]) -> None:
        """Hand on the connections that wait, then have the processes end.

        No more are handed on than may have waited when this began, so that those that come later cannot put it off, and
        none once the time to drain is over, or if no process takes them. The time that this takes has no bound of its
        own: many wait because the machine is busy.

        Args:
            seconds: how long ago this began.
            asked: the listeners at which a connection waited just now, among others.
        """
        if self.port.listeners:
            may_wait = seconds < self.settings.drain_seconds and any(one.is_able for one in self._processes.values())
            self.port.close(self._selector, [one for one in asked if may_wait and self._last[one] <= WAITING])
            if not self.port.listeners:
                self._dismiss()
        if seconds > self.settings.drain_seconds + END_SECONDS:
            self._signal(signal.SIGKILL)

    def _dismiss(self) -> None:
        """Have the processes end: by the end of the channel, so that each takes what it was handed before."""
        for process in self._processes.values():
            with suppress(OSError):  # it has just ended
                process.channel.shutdown(socket.SHUT_WR)
            if not process.is_ready:  # it may listen to the channel only much later, or miss the signal and do so then
                os.kill(process.pid, signal.SIGTERM)

    def _signal(self, wanted: signal.Signals) -> None:
        """Pass a signal on; what a change of the artifacts means, one that only starts need not be told."""
        for process in self._processes.values():
            if process.is_ready or wanted != signal.SIGHUP:
                os.kill(process.pid, wanted)


def supervise(settings: Settings, staff: Staff, serve: Callable[[Worker], None], keeper: Keeper | None = None) -> None:
    """Serve by several workers until a signal says stop, and end by that signal, as a single one does.

    Args:
        settings: say where to listen.
        staff: how many workers there are.
        serve: serves as that worker until a signal says stop; called in each process.
        keeper: of the processes that own the GPUs, if there are any.

    Raises:
        StartupError: this is not Linux, or the address cannot be listened on.
    """
    if not sys.platform.startswith("linux"):
        raise StartupError("Several workers need Linux; elsewhere LENGTHWISE_PROCESSES is 1.")
    shared = Shared.among(staff, has_rates=settings.steps_per_second > 0)
    ended_by = _Supervisor(settings, staff, shared, Port(settings), serve, keeper).run()
    signal.signal(ended_by, signal.SIG_DFL)
    signal.raise_signal(ended_by)
