"""`lengthwise ready`, or `python -m service check`: whether the service that runs here takes requests.

It needs no address, certificate, key or flag of the service: the first process of each answers on a socket of Linux
that has a name and no file. What is said there is one line, whoever asks; nothing is read.
"""

import argparse
import errno
import os
import re
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

NAME = "lengthwise-check-"
READY = "ready"
ANSWER_SECONDS = 2.0  # that an answer may take; the event loop of a service stands still no longer than that
PAUSE_SECONDS = 0.01  # between two tries to accept what cannot be
SOCKETS = Path("/proc/net/unix")


def can_be_asked() -> bool:
    """Whether this is Linux, whose sockets can have a name without a file."""
    return SOCKETS.exists()


class Listener:
    """Where `find` finds this service.

    Attributes:
        socket: is readable if somebody asks; then `answer` is to be called.
    """

    def __init__(self) -> None:
        """Begin to listen."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.bind(f"\0{NAME}{secrets.token_hex(8)}")
        self.socket.listen()
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def answer(self, tell: Callable[[], str]) -> None:
        """Tell whoever has connected what `tell` returns: `READY`, or a sentence that says why it is not.

        A process that may open no more files gives up a spare one for as long as that takes. It could not accept the
        connection otherwise, and would be told of it again and again.
        """
        with suppress(OSError):  # it has gone again
            try:
                asking, _ = self.socket.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                asking = self._accept_for_spare()
            with asking:
                asking.setblocking(False)
                asking.sendall(tell().encode())
        if self._spare is None:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _accept_for_spare(self) -> socket.socket:
        """Accept a connection in place of the spare file, if that is there."""
        if self._spare is None:
            time.sleep(PAUSE_SECONDS)  # another thread has taken its place
        else:
            os.close(self._spare)
            self._spare = None
        return self.socket.accept()[0]


def find() -> Iterator[tuple[int, socket.socket]]:
    """Yield the process id of each service that this process can see, and a connection to it.

    Containers that share a network see each other's sockets, but not each other's processes: those are left out.
    """
    there = SOCKETS.read_text(encoding="utf-8", errors="replace")  # what other programs call theirs is any bytes
    for name in sorted(set(re.findall(rf"@({NAME}[0-9a-f]+)$", there, re.MULTILINE))):
        asking = socket.socket(socket.AF_UNIX)
        asking.settimeout(ANSWER_SECONDS)
        with ExitStack() as stack:
            stack.enter_context(asking)
            with suppress(OSError):  # it has just ended
                asking.connect(f"\0{name}")
                pid, *_ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if pid:
                    stack.pop_all()
                    yield pid, asking


def check(pid: int | None = None) -> tuple[bool, str]:
    """Ask a service whether it takes requests.

    Args:
        pid: the service's first process; None if it is the only service here.

    Returns:
        Whether it does, and a sentence.
    """
    if not can_be_asked():
        return False, "This needs Linux; elsewhere ask /health/ready."
    with ExitStack() as opened:
        found = {one: opened.enter_context(asking) for one, asking in find()}
        if pid is not None:
            found = {one: asking for one, asking in found.items() if one == pid}
        if not found:
            return False, "No service runs here." if pid is None else f"Process {pid} is not a service."
        if len(found) > 1:
            pids = " and ".join(map(str, sorted(found)))
            return False, f"Several services run here: name the process, one of {pids}."
        ((pid, asking),) = found.items()
        try:
            said = asking.recv(2**12).decode()
        except OSError:
            said = f"it did not answer within {ANSWER_SECONDS:g} s."
        if said == READY:
            return True, "The service is ready."
        return False, f"The service is not ready: {said or 'it has just ended.'}"


def main(arguments: list[str]) -> None:
    """Print a sentence, and exit with 0 if the service is ready, with 1 if it is not.

    Args:
        arguments: the command line, without the program.
    """
    parser = argparse.ArgumentParser("lengthwise ready", description="Ask whether the service is ready.")
    parser.add_argument("pid", nargs="?", type=int, help="the service's process; needed if there are several services")
    is_ready, sentence = check(parser.parse_args(arguments).pid)
    sys.stdout.write(f"{sentence}\n")
    sys.exit(0 if is_ready else 1)
