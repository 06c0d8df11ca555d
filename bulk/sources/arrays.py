"""Arrays of numpy, read by rows from their files unless they are compressed; a shard is rows."""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bulk.mistakes import BadInput, BulkError
from bulk.plan import Shard
from bulk.rows import Rows, check, split
from bulk.sources import wanted as bounds
from bulk.sources.wanted import Wanted
from bulk.stores import Place

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Ends: TypeAlias = npt.NDArray[np.int64]  # where each of n sequences begins, and the last one ends


@dataclass(frozen=True, slots=True)
class Stored:
    """An array as it lies in a file, its rows one after the other.

    Attributes:
        path: the file.
        offset: the byte at which the first row begins.
        shape: of all of it.
        dtype: of its numbers.
    """

    path: Place
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Read rows, and no other part of the file."""
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open() as file:
            file.seek(self.offset + rows.start * width)
            found = file.read_buffer((rows.stop - rows.start) * width)
        return np.frombuffer(found, self.dtype).reshape(-1, *self.shape[1:])

    def reshape(self, shape: tuple[int, ...]) -> "Stored":
        """Return the same numbers, as `numpy.reshape` would."""
        return replace(self, shape=shape)


class ArraySource:
    """Arrays of numpy, end to end; a shard is rows."""

    def __init__(self, path: Place, wanted: Wanted) -> None:
        self._wanted = wanted
        if wanted.columns:
            raise BadInput(path, f"there is no column {wanted.columns[0]!r} to keep: arrays hold sequences only")
        kind = path.suffixes[-1]
        try:
            with path.open() as file:
                self._values, self._ends = read_npy(path, file) if kind == ".npy" else read_npz(path, file)
        except BulkError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds if bytes are damaged
            raise BadInput(path, f"it cannot be read as {kind}: {error}") from error
        features, shape, dtype = wanted.spec.kind.features, self._values.shape, self._values.dtype
        kinds = "iu" if features is None else "iuf"
        width = shape[1] if len(shape) == 2 else None
        if dtype.kind not in kinds or width != features:
            expected = "(S,) token ids" if features is None else f"(S, {features}) numbers"
            raise BadInput(path, f"it holds {shape} {dtype}, and the model reads {expected}")
        self._path = path
        self._step_bytes = math.prod(shape[1:]) * dtype.itemsize or 1

    def survey(self) -> Iterator[tuple[int, int, int]]:
        """Yield shards of rows that take some 16 MB."""
        row, rows = 0, len(self._ends) - 1
        while row < rows:
            full = self._ends[row] + bounds.SHARD_BYTES // self._step_bytes
            stop = int(np.searchsorted(self._ends, full, side="right")) - 1
            stop = min(rows, max(row + 1, min(stop, row + bounds.SHARD_ROWS)))
            yield stop - row, row, stop
            row = stop

    def read(self, shard: Shard) -> Rows:
        """Read rows."""
        ends = self._ends[shard.first : shard.last + 1]
        if len(ends) <= shard.rows:
            raise BadInput(self._path, "it cannot be read: it ends too early", f"rows {shard.start} and on")
        kind = np.int64 if self._wanted.spec.kind.features is None else np.float32
        try:
            values = self._values[int(ends[0]) : int(ends[-1])]
        except (OSError, ValueError) as error:
            raise BadInput(self._path, f"it cannot be read: {error}", f"rows {shard.start} and on") from error
        with np.errstate(over="ignore"):
            whole = np.ascontiguousarray(values, kind)
        return check([*split(whole, ends - ends[0])], self._wanted.spec, self._wanted.limits, None, [whole])


def read_npy(path: Place, file: Any) -> tuple[Stored | npt.NDArray[Any], Ends]:
    """Return all steps, end to end, of an array of sequences of one length.

    Raises:
        BadInput: it has another number of dimensions.
    """
    array = _read_array(path, file, 0)
    if len(array.shape) not in (2, 3):
        raise BadInput(path, f"its shape is {array.shape}, and n sequences are (n, T, F), or (n, T) of ids")
    rows, length, *width = array.shape
    return array.reshape((rows * length, *width)), np.arange(rows + 1, dtype=np.int64) * length


def read_npz(path: Place, file: Any) -> tuple[Stored | npt.NDArray[Any], Ends]:
    """Return all steps, end to end, of `values` and `lengths`.

    Raises:
        BadInput: they do not fit together.
    """
    found = []
    with zipfile.ZipFile(file) as archive:
        for name in ("values", "lengths"):
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type == zipfile.ZIP_STORED:
                found.append(_read_array(path, file, _find_member(file, member.header_offset)))
            else:
                with archive.open(member) as stream:
                    found.append(np.lib.format.read_array(stream, allow_pickle=False))
    values, shape = found[0], found[1].shape
    if not values.shape or len(shape) != 1:
        raise BadInput(path, f"the shape of values is {values.shape}, of lengths {shape}: (S, ...) and (n,) are read")
    if found[1].dtype.kind not in "iu":
        raise BadInput(path, f"the lengths are {found[1].dtype}, and must be integers")
    lengths = np.asarray(found[1][0 : shape[0]])
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if ((lengths < 0) | (lengths > values.shape[0])).any():  # which also keeps the sum far from overflow
        raise BadInput(path, f"a length is below 0 or over {values.shape[0]}, the steps there are")
    if ends[-1] != values.shape[0]:
        raise BadInput(path, f"the lengths sum to {ends[-1]}, and there are {values.shape[0]} steps")
    return values, ends


def _find_member(file: Any, offset: int) -> int:
    """Return where the bytes of a member begin; the local header's own lengths count, not those of the directory."""
    file.seek(offset + 26)
    names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return offset + 30 + names + extra


def _read_array(path: Place, file: Any, offset: int) -> Stored | npt.NDArray[Any]:
    """Return an array that lies in a file, to be read by rows, or as a whole if its rows are not in order."""
    file.seek(offset)
    version = np.lib.format.read_magic(file)
    shape, is_fortran, dtype = HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    stored = Stored(path, file.tell(), shape, dtype)
    if stored.offset + math.prod(shape) * dtype.itemsize > file.size():
        raise ValueError("it ends too early")
    if not is_fortran:
        return stored
    file.seek(offset)
    whole: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return whole
