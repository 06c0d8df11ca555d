"""Reads the settings, loads the encoder, and serves until a signal says stop."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from logging.config import dictConfig
from types import FrameType
from typing import TYPE_CHECKING, cast

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.api.crowd import SPARE, allow_files
from service.api.endpoints import repository
from service.api.front import Front
from service.api.worker import Staff, Worker
from service.app import create_app
from service.catalogue.ahead import NOTHING, Ahead, load_ahead
from service.codecs.question import can_import
from service.costs.memory import share_heap, spare_collector
from service.errors import LengthwiseError, StartupError
from service.observing import logs
from service.server import check
from service.server.choosing import choose_staff
from service.server.greeting import write_greeting
from service.server.owner.keeping import Keeper, start_owners
from service.server.port import Port
from service.server.rpc.reserving import reserve_port
from service.server.transport import WatchingProtocol
from service.server.workers import HANDLED, STOPPING, supervise
from service.settings import MISUSED, Settings, tell_faults, unknown_variables, variable_of

if TYPE_CHECKING:  # it needs the extra `grpc`
    from service.server.rpc.listening import Listener

# How long a thread that needs the interpreter waits for one that has it; the default, 5 ms, is many runs long.
SWITCH_SECONDS = 0.00005
FILES = 100  # that a process has open beside its connections, at most
LAST_TURNS = 10  # of the event loop, in which what a connection has sent is read; three do


class DrainingServer(uvicorn.Server):
    """On a signal, refuse new requests before the ones in flight are awaited and the listener closes."""

    def __init__(self, config: uvicorn.Config, app: Front, keeper: Keeper | None, worker: Worker | None) -> None:
        super().__init__(config)
        self._app, self._service = app, app.state.service
        self._calls: Listener | None = None  # of gRPC
        self._keeper = keeper
        self._worker = worker
        self._changed = asyncio.Event()  # fewer connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections as uvicorn does; one of several workers takes them from the first process instead."""
        if not self._worker and check.can_be_asked():
            checked = check.Listener()
            asyncio.get_running_loop().add_reader(checked.socket, checked.answer, self._tell)
        await super().startup(sockets)
        if sockets:
            self._log_started_message(sockets)
        if self._worker:
            await repository.catch_up(self._service)
        if self._service.settings.grpc_port is not None:
            await self._take_calls()
        if self._keeper and not self._worker:
            loop = asyncio.get_running_loop()
            self._keeper.attend(loop.add_reader, loop.remove_reader)
        if self._worker:
            leave = partial(self.handle_exit, signal.SIGTERM, None)
            attending = self._worker.attend(self._adopt, self._count, self._changed, leave)
            self._attending = asyncio.create_task(attending)
        if sys.stderr.isatty():
            self._greet()

    def _greet(self) -> None:
        """Tell a person at the terminal what is served; of several workers the first one does."""
        settings = self._service.settings
        if not self._worker and self.servers:
            host, port, *_ = self.servers[0].sockets[0].getsockname()
        elif self._worker and self._worker.number == 0 and settings.port:
            host, port = settings.host, settings.port
        else:
            return
        sys.stderr.write(write_greeting(self._service, host, port))

    async def _take_calls(self) -> None:
        """Listen for calls of gRPC, and answer those under way before what encodes is ended.

        Raises:
            SystemExit: that cannot be; one sentence says why.
        """
        settings, end = self._service.settings, self.lifespan.shutdown
        calls = import_module("service.server.rpc.listening").Listener(self._service, self._app.fallback)
        try:
            await calls.start()
        except StartupError as error:
            await end()
            sys.exit(logs.write_ending(error.tell(variable_of), settings.log_format))

        async def end_after_calls() -> None:
            await self._calls_ended
            await end()

        self._calls, self.lifespan.shutdown = calls, end_after_calls

    def _tell(self) -> str:
        """Say whether this process takes requests."""
        if not self.started:
            return "it is starting."
        try:
            self._service.require_ready()
        except LengthwiseError as error:
            return str(error)
        return check.READY

    def _count(self) -> int | None:
        return None if self._service.is_draining else len(self.server_state.connections)

    async def _adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        protocol = cast("type[WatchingProtocol]", self.config.http_protocol_class)
        make = partial(protocol, self.config, self.server_state, self.lifespan.state)
        with suppress(OSError):  # it hung up, or speaks no TLS
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(make, on_lost=self._changed.set), connection, ssl=self.config.ssl
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, over HTTP and gRPC at the same time, and what waits to be accepted or read.

        The kernel resets a connection that waits when the listener closes, or that is closed before it is read.
        """
        if self._calls:
            self._calls_ended = asyncio.create_task(self._calls.stop())
        adopting = [asyncio.create_task(self._adopt(connection)) for connection in self._stop_listening()]
        for _ in range(LAST_TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)
        for task in adopting:
            task.cancel()  # it never came to speak TLS

    def _stop_listening(self) -> Iterator[socket.socket]:
        """Close the listeners, and yield the connections that wait to be accepted, while files may be opened."""
        for server in self.servers:
            for listener in server.sockets:
                with suppress(OSError), socket.socket(fileno=os.dup(listener.fileno())) as waiting:
                    while True:
                        yield waiting.accept()[0]
            server.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Mark the service as draining, then shut down as uvicorn does."""
        self._service.is_draining = True
        super().handle_exit(sig, frame)


def main(arguments: list[str]) -> None:
    """Run the service; exit with one sentence if it cannot start.

    Args:
        arguments: the flags of the command line.
    """
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        dictConfig(logs.configure(settings.log_level, settings.log_format))
        for variable in unknown_variables():
            logging.getLogger("lengthwise").warning("%s is set, and there is no such setting", variable)
        sys.setswitchinterval(SWITCH_SECONDS)
        _forget_inherited_signals()
        share_heap()
        _require_grpc(settings)
        keeper = start_owners(settings)
        settings = keeper.settings if keeper else settings
        staff = choose_staff(settings)
        settings = settings.model_copy(update={"processes": staff.number})
        logging.getLogger("lengthwise").info("Workers: %d, since %s", staff.number, staff.why)
        _allow_files(settings)
        if staff.number > 1:
            # Several threads in a run would be those of all workers at the same time.
            settings = settings.model_copy(update={"threads": settings.threads or 1})
            if settings.grpc_port is not None:
                _kept, port = reserve_port(settings)  # until this process ends
                settings = settings.model_copy(update={"grpc_port": port})
            _mind_signals()
            ahead = NOTHING if keeper else load_ahead(settings)
            spare_collector()  # what is there stays shared, too
            supervise(settings, staff, lambda worker: serve(settings, staff, keeper, worker, ahead), keeper)
        else:
            serve(settings, staff, keeper)
    except StartupError as error:
        sys.exit(logs.write_ending(error.tell(variable_of), settings.log_format))
    except ValidationError as error:
        sys.stderr.write(logs.write_ending(tell_faults(error), logs.find_log_format(arguments)) + "\n")
        sys.exit(MISUSED)
    except Exception:
        logging.getLogger("lengthwise").exception("The service ended by what nobody foresaw")
        sys.exit(1)


def _forget_inherited_signals() -> None:
    """Hear what says stop, and wait for children: whoever started this process may have blocked and ignored that."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _mind_signals() -> None:
    """Until the first process obeys signals, end by one that says stop, also in a container, and by no other.

    Whatever SIGHUP tells of, workers read the files after it.
    """
    for known in STOPPING:
        signal.signal(known, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, lambda *_: None)


def _require_grpc(settings: Settings) -> None:
    """See that what gRPC needs is installed, if it is asked for.

    Raises:
        StartupError: it is not.
    """
    if settings.grpc_port is not None and not can_import("grpc_reflection"):
        raise StartupError("gRPC needs the extra grpc: from a checkout, pip install '.[grpc]'.")


def _allow_files(settings: Settings) -> None:
    """Let a process have as many files open as its connections need, or warn."""
    doors = 1 if settings.grpc_port is None else 2  # HTTP and gRPC have as many connections each
    wanted = doors * settings.connections + SPARE + FILES
    if (allowed := allow_files(wanted)) < wanted:
        logging.getLogger("lengthwise").warning(
            "The system lets a process open %d files (ulimit -n), too few for LENGTHWISE_MAX_CONNECTIONS=%d",
            allowed,
            settings.max_connections,
        )


def serve(
    settings: Settings,
    staff: Staff,
    keeper: Keeper | None = None,
    worker: Worker | None = None,
    ahead: Ahead = NOTHING,
) -> None:
    """Serve until a signal says stop.

    Args:
        settings: the service's settings.
        staff: how many workers there are, and why.
        keeper: of the processes that own the GPUs, if there are any.
        worker: what this process is, if it is one of several.
        ahead: what was loaded before this process was forked.

    Raises:
        SystemExit: it cannot start; one sentence says why.
    """
    try:
        app = create_app(settings, worker, keeper.owners if keeper else None, ahead, staff)
    except StartupError as error:
        sys.exit(logs.write_ending(error.tell(variable_of), settings.log_format))
    service = app.state.service
    config = uvicorn.Config(
        app,
        http=partial(WatchingProtocol, crowd=service.crowd, unread=service.unread),  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        log_config=None,  # it is configured
        access_log=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
        server_header=False,
        proxy_headers=False,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        sentence = f"TLS cannot be spoken with {settings.ssl_certfile}: {error}"
        sys.exit(logs.write_ending(sentence, settings.log_format))
    if config.ssl:
        # Some builds of Python leave older ones on; OpenSSL's configuration may ask for newer ones only.
        config.ssl.minimum_version = max(ssl.TLSVersion.TLSv1_2, config.ssl.minimum_version)
    spare_collector()
    DrainingServer(config, app, keeper, worker).run([] if worker else Port(settings).take())
