"""What goes between the service and the process that tries artifacts for it: bounds, files, and what became of each.

Over the pipes go READY, then a file behind its length, little-endian, then an answer, a line of JSON; and again.
"""

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import TypeAdapter

READY = b"ready\n"
LENGTH_BYTES = 8
MAX_ANSWER_BYTES = 2**21  # twice what the manifest may say of itself
UNFORESEEN = "trying it raises"  # begins a reason that no check of ours gave


@dataclass(frozen=True, slots=True)
class Bounds:
    """What trying one file may take.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of processor time.
        memory_bytes: of address space, beside four times the file.
    """

    seconds: int = 120
    cpu_seconds: int = 60
    memory_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class Examined:
    """What was learned of a file that can be served.

    Attributes:
        sha256: of the whole file.
        name: what its manifest calls it; None where it has no manifest, and then nothing was proven.
        version: as its manifest says.
        difference: the largest between its golden vectors and what it gives here.
        memory_bytes: what loading it and replaying them took and kept, the file itself included; where the kernel
            does not tell, the file alone.
    """

    sha256: str
    name: str | None
    version: str | None
    difference: float | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a file cannot be served."""

    reason: str


Answer: TypeAlias = Examined | Refused
ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
