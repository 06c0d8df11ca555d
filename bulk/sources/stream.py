"""The bytes of a file, plain or compressed, from any place on.

A compressed file is read from its beginning up to that place, once for all places in turn.
"""

from typing import Any

import pyarrow as pa

from bulk.sources import wanted as bounds
from bulk.stores import Place

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


class Stream:
    """A file that is read in pieces, best in their order."""

    def __init__(self, path: Place) -> None:
        self._path = path
        self._codec = next((COMPRESSED[end] for end in path.suffixes[-1:] if end in COMPRESSED), None)
        self._file: Any = None
        self._place = 0  # in bytes as they are when decompressed

    def open(self) -> Any:
        """Open the file anew, from its beginning."""
        file = self._path.open()
        return pa.CompressedInputStream(file, self._codec) if self._codec else file

    def read(self, first: int, last: int) -> bytes:
        """Read what lies between two places.

        Raises:
            OSError: the file ends before the second.
        """
        if self._file is None or self._place > first:
            self._file, self._place = self.open(), 0
        if self._place < first and not self._codec:
            self._file.seek(first)
            self._place = first
        while self._place < first:
            if not (piece := self._file.read(min(bounds.SHARD_BYTES, first - self._place))):
                raise OSError("it ends too early")
            self._place += len(piece)
        text: bytes = self._file.read(last - first)
        self._place = first + len(text)
        if len(text) < last - first:
            raise OSError("it ends too early")
        return text
