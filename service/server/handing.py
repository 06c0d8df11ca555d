"""Which worker a connection goes to."""

import logging
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

from service.api.worker import REPORT_SECONDS

logger = logging.getLogger("lengthwise")

LATE_SECONDS = 1.0  # without a report, before others are preferred
MOST_HANDED = 200  # connections on their way to a process; a channel holds some more


@dataclass(slots=True, eq=False)
class Process:
    """A process as the first one knows it.

    Attributes:
        number: the worker's number.
        pid: the number by which the kernel knows it.
        channel: where it is handed connections, and reports.
        heard: when its last report came, or it was started.
        is_ready: whether it has ever reported, which it does once it takes connections.
        is_leaving: whether it takes no more of them.
        counted: connections that it had at its last report.
        taken: connections that had reached it by then, of all that it was ever handed.
        handed: connections that it was ever handed.
    """

    number: int
    pid: int
    channel: socket.socket
    heard: float
    is_ready: bool = False
    is_leaving: bool = False
    counted: int = 0
    taken: int = 0
    handed: int = 0

    @property
    def is_able(self) -> bool:
        """Whether it takes connections now."""
        return self.is_ready and not self.is_leaving

    @property
    def on_their_way(self) -> int:
        """Connections that it was handed and has not told of yet."""
        return self.handed - self.taken

    @property
    def connections(self) -> int:
        """Connections that it has, or will have."""
        return self.counted + self.on_their_way


def accept(listener: socket.socket, processes: Iterable[Process]) -> bool:
    """Hand a connection to the process that has fewest; to one that has not reported lately only if no other takes it.

    Args:
        listener: where a connection waits.
        processes: the processes of all workers.

    Returns:
        Whether one was handed on.
    """
    able = [one for one in processes if one.is_able and one.on_their_way < MOST_HANDED]
    if not able:
        time.sleep(REPORT_SECONDS / 10)  # they are on their way, and connections wait meanwhile
        return False
    try:
        connection, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):  # it hung up already
        return False
    except OSError as error:
        logger.error("No connection can be accepted: %s", error)  # noqa: TRY400 - the machine's fault
        time.sleep(REPORT_SECONDS)
        return False
    late = time.monotonic() - LATE_SECONDS
    with connection:
        for process in sorted(able, key=lambda one: (one.heard < late, one.connections)):
            try:
                socket.send_fds(process.channel, [b"c"], [connection.fileno()])
            except OSError:  # it has just ended
                continue
            process.handed += 1
            return True
    return False
