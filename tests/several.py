"""Starts a service of two workers that does the same on a machine that is busy as on one that is not."""

import subprocess
import sys
from contextlib import AbstractContextManager

from bench.load.launch import start_service

# A worker that was not heard of for a second is passed over when connections are shared out, and one that does not
# answer for as long is left out of what the others tell of it. Here nothing is late.
PATIENT = """
from service.api import fellows
from service.server import handing, workers

handing.LATE_SECONDS = workers.LATE_SECONDS = fellows.ASK_SECONDS = 60.0
fellows.ask_others.__defaults__ = fellows.ask.__defaults__ = (None, 60.0)
from service.__main__ import main

main()
"""


def start_two(*flags: str, first: str = "") -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """Start two workers, and stop them at the end.

    Args:
        flags: more flags of the service.
        first: Python that runs in the first process before anything else.

    Returns:
        What yields the process and its base URL, as soon as it says that it listens.
    """
    return start_service("--processes", "2", *flags, program=(sys.executable, "-c", f"{first}\n{PATIENT}"))
