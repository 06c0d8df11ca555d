"""Arrays of numpy, mapped from their files unless they are compressed; a shard is rows."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bulk.mistakes import BadInput
from bulk.plan import Shard
from bulk.rows import Rows, check, split
from bulk.sources import wanted as bounds
from bulk.sources.wanted import Wanted


class ArraySource:
    """Arrays of numpy, mapped from the file unless they are compressed; a shard is rows."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._path = path
        self._wanted = wanted
        try:
            if path.suffix == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                if array.ndim not in (2, 3):
                    raise BadInput(path, f"its shape is {array.shape}, and n sequences are (n, T, F), or (n, T) of ids")
                values = array.reshape(-1, *array.shape[2:])
                self._ends = np.arange(len(array) + 1, dtype=np.int64) * array.shape[1]
            else:
                values = _map_member(path, "values")
                lengths = np.asarray(_map_member(path, "lengths"))
                self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
                if lengths.ndim != 1 or (lengths < 0).any() or self._ends[-1] != len(values):
                    raise BadInput(path, f"the lengths sum to {self._ends[-1]}, and there are {len(values)} steps")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadInput(path, f"it cannot be read as {path.suffix}: {error}") from error
        spec = wanted.spec
        kinds = "iu" if spec.kind.features is None else "iuf"
        width = values.shape[1] if values.ndim == 2 else None
        if values.dtype.kind not in kinds or width != spec.kind.features:
            expected = "(S,) token ids" if spec.kind.features is None else f"(S, {spec.kind.features}) numbers"
            raise BadInput(path, f"it holds {values.shape} {values.dtype}, and the model reads {expected}")
        self._step_bytes = values[:1].nbytes or 1
        # What is mapped is mapped anew for each shard: else all pages that were read would stay in memory.
        self._whole: npt.NDArray[Any] | None = None if isinstance(values, np.memmap) else values

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
        kind = np.int64 if self._wanted.spec.kind.features is None else np.float32
        with np.errstate(over="ignore"):
            whole = np.array(self._map()[ends[0] : ends[-1]], dtype=kind)
        return check([*split(whole, ends - ends[0])], self._wanted.spec, self._wanted.limits, None, whole)

    def _map(self) -> npt.NDArray[Any]:
        """Return all steps, end to end."""
        if self._whole is not None:
            return self._whole
        if self._path.suffix == ".npz":
            return _map_member(self._path, "values")
        array: npt.NDArray[Any] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return array.reshape(-1, *array.shape[2:])


def _map_member(path: Path, name: str) -> npt.NDArray[Any]:
    """Return an array of an NPZ, mapped from the file if it is stored as it is, else read whole."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as stream:
            if member.compress_type != zipfile.ZIP_STORED:
                found: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
                return found
            version = np.lib.format.read_magic(stream)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read_header[version](stream)
            header_bytes = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    with path.open("rb") as file:  # the local header's own lengths count, not those of the directory
        file.seek(member.header_offset + 26)
        names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    offset = member.header_offset + 30 + names + extra + header_bytes
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")
