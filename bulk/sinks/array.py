"""One array of numpy, mapped into memory while it fills."""

import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from bulk.encoder import Encoded
from bulk.mistakes import BulkError
from bulk.plan import PART, Plan
from bulk.rows import Rows
from bulk.sinks.sink import Sink
from bulk.stores import Place


class NumpySink(Sink):
    """One array `(rows, D)` in `embeddings.npy`, mapped into memory; a row without an embedding is NaN."""

    suffix = ".done"

    def __init__(self, folder: Place, plan: Plan, dim: int, model: str) -> None:
        super().__init__(folder, plan, dim, model)
        self._file = Path((folder / "embeddings.npy").path)

    def prepare(self) -> None:
        """Make the array, its size that of all rows; marks of parts that were in another one are removed."""
        marks = [
            file for file in self.folder.list_files() if PART.fullmatch(file.name) and file.name.endswith(self.suffix)
        ]
        if not self._has_array():
            for mark in marks:
                mark.remove()
            draft = self._file.with_name(f".embeddings.{secrets.token_hex(4)}.npy")
            try:
                array = np.lib.format.open_memmap(draft, "w+", np.float32, (self.plan.rows, self.dim))
                if hasattr(os, "posix_fallocate"):  # or a disk that is full later would end the program without a word
                    with draft.open("r+b") as file:
                        os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
                self._file.hardlink_to(draft)  # of several that start at once, one makes it
            except FileExistsError:
                pass
            except OSError as error:
                raise BulkError(f"{self._file} cannot be made: {error}") from error
            finally:
                draft.unlink(missing_ok=True)

    def select_done(self, parts: list[int]) -> list[int]:
        """Return the parts that are done, of those with a mark: none if the array has gone."""
        return parts if self._has_array() else []

    def _has_array(self) -> bool:
        """Whether the array is there.

        Raises:
            BulkError: another one is.
        """
        if not self._file.exists():
            return False
        try:
            found = np.lib.format.open_memmap(self._file, "r")
        except (OSError, ValueError) as error:
            raise BulkError(f"{self._file} cannot be read: {error}") from error
        wanted = (self.plan.rows, self.dim)
        if found.shape != wanted or found.dtype != np.float32:
            reason = f"holds {found.shape} {found.dtype}, and the output is {wanted} float32"
            raise BulkError(f"{self._file} {reason}: encode into another folder, or remove it")
        return True

    def make(self, _stream: Any, number: int, rows: Rows, encoded: Encoded) -> None:
        """Write rows of the array; the mark that they are there is empty."""
        found = encoded.embeddings.copy()
        found[[*rows.errors]] = np.nan
        if len(found):
            array = np.lib.format.open_memmap(self._file, "r+")
            start = self.starts[number]
            array[start : start + len(found)] = found
            array.flush()
