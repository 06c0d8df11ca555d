"""The messages between the service and the process that tries a file for it.

The process gets the bounds and the file's size as arguments, and the file as its standard input. It writes `READY`
once it has started, then one finding as JSON, and ends.
"""

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import TypeAdapter

READY = b"ready\n"
MAX_FINDING_BYTES = 2**21  # twice what a manifest may put into one
UNFORESEEN = "trying it raises"  # begins a reason that none of our checks gave


@dataclass(frozen=True, slots=True)
class TrialBounds:
    """The most that trying one file may take.

    Attributes:
        seconds: seconds by the clock.
        cpu_seconds: seconds of processor time.
        memory_bytes: bytes of address space, beside four times the file's size.
    """

    seconds: int = 120
    cpu_seconds: int = 60
    memory_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class Proven:
    """A file that can be served.

    Attributes:
        sha256: the hash of the whole file.
        name: the manifest's name for it; None if it has no manifest, and so nothing was proven.
        version: the manifest's version; None if it has no manifest.
        difference: the largest difference between the golden vectors and what the file gives here.
        memory_bytes: the memory that loading and running it took and kept, with the file itself; the file's size alone
            if the kernel does not tell.
    """

    sha256: str
    name: str | None
    version: str | None
    difference: float | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a file cannot be served."""

    reason: str


Finding: TypeAlias = Proven | Unfit
FINDINGS: TypeAdapter[Finding] = TypeAdapter(Finding)
