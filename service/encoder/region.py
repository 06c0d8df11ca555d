"""Memory that two processes share, and what they say of it to each other: numbers and arrays only, nothing to unpickle.

A region has no name and no file: it is gone once the last process that has it is.
"""

import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from math import prod
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.encoder.runtime import DEADLINES, Tensor

LEAST_BYTES, MOST_BYTES = 2**16, 2**32  # of a region
ALIGN = 64  # of each array in it
MESSAGE_BYTES = 2**16  # at most

OUTPUTS = ("embedding", "steps", "state_h", "state_c", "logits")  # what may be asked for, a bit each

# A run that is asked for: its number, rows, steps, outputs, whether rows have deadlines, and when the first of them is.
ASKED = Struct("=QIIBBd")
ANSWERED = Struct("=QB")  # the number, and what became of it; the shapes of the outputs follow, or what went wrong
DONE, FAILED = 0, 1
LENGTH = Struct("=Q")  # of what a region holds
SHAPE = Struct("=4I")  # of an array of up to four axes, zero for those it has not

try:
    SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
except AttributeError:  # not Linux
    SEALS = 0


class Place(NamedTuple):
    """Where an array lies in a region."""

    name: str
    start: int
    shape: tuple[int, ...]
    kind: type[np.generic]


class Region:
    """Shared memory of a size that never changes, so that no process can pull it away under another.

    Attributes:
        fd: hands it to another process.
        size: in bytes.
    """

    def __init__(self, fd: int) -> None:
        """Map what a file descriptor, which is taken over, stands for.

        Raises:
            OSError, ValueError: it is not a region, or too large.
        """
        self.fd = fd
        self.size = os.fstat(fd).st_size
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS or not 0 < self.size <= MOST_BYTES:
            raise ValueError(f"shared memory of {self.size} bytes is not sealed, or too large")
        self._map = mmap.mmap(fd, self.size)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    @classmethod
    def of(cls, size: int) -> "Region":
        """Make one of at least so many bytes.

        Raises:
            MemoryError: that is too many.
        """
        if size > MOST_BYTES:
            raise MemoryError(f"{size} bytes are too many to hand to another process, {MOST_BYTES} are the most")
        fd = os.memfd_create("lengthwise", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, max(LEAST_BYTES, 1 << (size - 1).bit_length()))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def holding(cls, content: bytes) -> "Region":
        """Make one that holds some bytes, after their number."""
        region = cls.of(LENGTH.size + len(content))
        region.write(LENGTH.pack(len(content)) + content)
        return region

    def write(self, content: bytes) -> None:
        """Write bytes from the beginning on."""
        self._map[: len(content)] = content

    def content(self) -> bytes:
        """Return the bytes that it was made to hold."""
        (size,) = LENGTH.unpack(self._map[: LENGTH.size])
        return self._map[LENGTH.size : LENGTH.size + size]

    def array(self, place: Place) -> npt.NDArray[Any]:
        """Return the array at a place.

        Raises:
            ValueError: it would not lie inside.
        """
        try:
            return np.ndarray(place.shape, place.kind, self._map, place.start)
        except TypeError as error:
            raise ValueError(f"{place.name} of {list(place.shape)} is over the {self.size} bytes shared") from error


def place_inputs(inputs: Sequence[Tensor], rows: int, steps: int, *, dated: bool) -> tuple[list[Place], int]:
    """Return where the inputs of a run lie, its rows' deadlines before them if they have any, and the bytes of all."""
    wanted: list[tuple[str, tuple[int, ...], type[np.generic]]] = [(DEADLINES, (rows,), np.float64)] if dated else []
    for tensor in inputs:
        free = (rows, steps) if tensor.name == "sequences" else (rows,)
        rest = tensor.shape[len(free) :]
        sizes = tuple(size for size in rest if isinstance(size, int))
        if len(sizes) < len(rest):
            raise ValueError(f"the input {tensor.name} has no fixed size")
        wanted.append((tensor.name, (*free, *sizes), np.int64 if tensor.type == "tensor(int64)" else np.float32))
    return _place(wanted)


def place_outputs(shapes: Iterable[tuple[int, ...]]) -> tuple[list[Place], int]:
    """Return where the outputs of a run lie, which are float32, and the bytes of all."""
    return _place([("", shape, np.float32) for shape in shapes])


def _place(wanted: list[tuple[str, tuple[int, ...], type[np.generic]]]) -> tuple[list[Place], int]:
    places, end = [], 0
    for name, shape, kind in wanted:
        places.append(Place(name, end, shape, kind))
        end += -(-prod(shape) * np.dtype(kind).itemsize // ALIGN) * ALIGN
    return places, end
