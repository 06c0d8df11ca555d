"""The first process's side of the owners: one is started for each GPU, and started anew when it ends.

Where they listen outlives them: what asks while one is away waits for the next.
"""

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeAlias

import onnxruntime

from service.encoder.providers import CUDA_PROVIDER
from service.encoder.region import Region
from service.encoder.remote import Owners, read_board
from service.encoder.runtime import Device
from service.errors import ProviderUnavailable
from service.server.owner.process import Options
from service.settings import Settings

logger = logging.getLogger("lengthwise")

ROOT = Path(__file__).parents[3]
PROGRAM = ("-m", "service.server.owner.process")
BACKLOG = 4096
START_SECONDS = 60.0  # for an owner to start CUDA
SOON_SECONDS = 5.0  # one that ends so soon is started again only after a while
WAIT_SECONDS = 1.0
# What a GPU takes in place of the defaults: a step costs it the same for one row as for hundreds.
LARGER = {"max_batch_sequences": 512, "max_batch_steps": 131_072}

Watch: TypeAlias = Callable[[socket.socket, Callable[[], None]], object]


class Place(NamedTuple):
    """Where an owner runs things."""

    provider: Device
    device: int


@dataclass(slots=True, eq=False)
class _Seat:
    """One owner's place, whichever process has it.

    Attributes:
        options: what it is started with.
        listener: where it listens.
        process: the one that has it.
        link: to that; it is closed when the process ends.
        began: when it was started.
    """

    options: Options
    listener: socket.socket
    process: "subprocess.Popen[bytes]"
    link: socket.socket
    began: float


class Keeper:
    """Keeps an owner for each place.

    Attributes:
        settings: the service's settings, fitted to what owners run.
        owners: how others find them.
    """

    def __init__(self, settings: Settings, places: Sequence[Place]) -> None:
        """Start them.

        Raises:
            ProviderUnavailable: one cannot use its device.
        """
        self.settings = settings = fit(settings)
        board = Region.of(8 * len(places))
        self._board = read_board(board, len(places))
        name = secrets.token_hex(8)
        addresses = tuple(f"\0lengthwise-{name}-owner-{number}" for number in range(len(places)))
        self.owners = Owners(addresses, board, settings.max_run_seconds)
        self._seats: list[_Seat] = []
        for number, (address, place) in enumerate(zip(addresses, places, strict=True)):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(address)
            listener.listen(BACKLOG)
            options = Options(
                listener=listener.fileno(),
                board=board.fd,
                owners=len(places),
                number=number,
                provider=place.provider,
                device=place.device,
                memory_bytes=settings.cuda_memory_bytes,
                threads=settings.threads or 1,
                max_batch_steps=settings.max_batch_steps,
                max_run_seconds=settings.max_run_seconds,
                wait_seconds=0.0,
                log_level=settings.log_level,
                log_format=settings.log_format,
            )
            self._seats.append(_Seat(options, listener, *_start(options), time.monotonic()))
        try:
            for seat in self._seats:
                self._await(seat)
        except BaseException:
            self.close()
            raise

    def attend(self, watch: Watch, unwatch: Callable[[socket.socket], object]) -> None:
        """Start whichever ends anew, as long as the process lasts.

        Args:
            watch: has something called whenever a socket can be read.
            unwatch: undoes that.
        """

        def attend_to(seat: _Seat) -> None:
            watch(seat.link, lambda: hear(seat))

        def hear(seat: _Seat) -> None:
            if seat.link.recv(2**16):  # it is ready
                return
            unwatch(seat.link)
            self._replace(seat)
            attend_to(seat)

        for seat in self._seats:
            attend_to(seat)

    def close(self) -> None:
        """End them."""
        for seat in self._seats:
            seat.link.close()
            seat.process.kill()
            seat.process.wait()
            seat.listener.close()

    def _await(self, seat: _Seat) -> None:
        """Wait until an owner says that it is ready."""
        seat.link.settimeout(START_SECONDS)
        try:
            said = json.loads(seat.link.recv(2**16) or b'{"error": "its process ended while it started"}')
        except TimeoutError:
            said = {"error": f"its process was not ready within {START_SECONDS:g} s"}
        if "error" in said:
            raise ProviderUnavailable(
                seat.options.provider, f"the GPU {seat.options.device} cannot be used: {said['error']}"
            )
        seat.link.settimeout(None)

    def _replace(self, seat: _Seat) -> None:
        """Start a process in place of one that ended."""
        seat.link.close()
        code = seat.process.wait()
        logger.error("The process %d that owns a GPU ended with code %d, and is started anew", seat.process.pid, code)
        self._board[seat.options.number] = inf  # until it says otherwise, whoever can asks another
        now = time.monotonic()
        is_soon = now - seat.began < SOON_SECONDS
        options = replace(seat.options, wait_seconds=WAIT_SECONDS if is_soon else 0.0)
        seat.process, seat.link = _start(options)
        seat.began = now


def start_owners(settings: Settings) -> Keeper | None:
    """Start an owner for each GPU if there are any to use; None if the encoder runs where it is asked.

    Raises:
        ProviderUnavailable: CUDA was asked for and cannot be used.
    """
    places = find_places(settings)
    if not places:
        return None
    try:
        return Keeper(settings, places)
    except ProviderUnavailable as error:
        if settings.provider != "auto":
            raise
        logger.warning("The CPU is used: %s", error)
        return None


def fit(settings: Settings) -> Settings:
    """Return settings for a service whose runs a GPU's owner does: batches are larger unless they are set."""
    return settings.model_copy(
        update={name: value for name, value in LARGER.items() if name not in settings.model_fields_set}
    )


def find_places(settings: Settings) -> list[Place]:
    """Return where owners are wanted."""
    is_there = sys.platform == "linux" and CUDA_PROVIDER in onnxruntime.get_available_providers()
    if settings.provider == "cpu" or not is_there:
        return []
    return [Place("cuda", device) for device in settings.cuda_devices]


def _start(options: Options) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Start an owner, and return it with a socket to it."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, *PROGRAM, options.write()],
            stdin=theirs.fileno(),
            pass_fds=(options.listener, options.board),
            env={**os.environ, "PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"},
            start_new_session=True,  # a terminal's signals are for the first process
        )
    return process, link
