"""What the service and the process that tries a file for it tell each other.

The process gets the bounds and the file's size as arguments, and the file as its standard input. It writes `READY`
once it has started, then one finding as JSON, and ends.
"""

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import TypeAdapter

READY = b"ready\n"
MAX_FINDING_BYTES = 2**21  # twice what the manifest may say of itself
UNFORESEEN = "trying it raises"  # begins a reason that no check of ours gave


@dataclass(frozen=True, slots=True)
class TrialBounds:
    """What trying one file may take.

    Attributes:
        seconds: time by the clock.
        cpu_seconds: processor time.
        memory_bytes: address space, beside four times the file.
    """

    seconds: int = 120
    cpu_seconds: int = 60
    memory_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class Proven:
    """What is known of a file that can be served.

    Attributes:
        sha256: the hash of the whole file.
        name: the manifest's name for it; None if there is no manifest, and then nothing was proven.
        version: the manifest's version; None likewise.
        difference: the largest difference between the golden vectors and what the file gives here.
        memory_bytes: what loading and running it took and kept, the file itself included; the file alone if the
            kernel does not tell.
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
