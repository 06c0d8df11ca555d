"""Reads an artifact whole, or not at all."""

import os
import stat
from pathlib import Path

from service.errors import ArtifactError
from service.errors.base import spell

MAX_FILE_BYTES = 2**31 - 1  # the most that protobuf reads, and so ONNX


def read_file(path: Path) -> bytes:
    """Read an artifact whole, or not at all.

    Raises:
        ArtifactError: the file cannot be read, is not a regular file, is too large, or is still being written; or its
            name is such that neither JSON nor a metric could tell it.
    """
    if spell(str(path)) != str(path):
        raise ArtifactError(str(path), "its name is not UTF-8")
    try:
        _require_regular(path.stat(), path)  # before it is opened: opening alone starts some devices
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            _require_regular(before, path)
            content = file.read(before.st_size)
            after = os.fstat(descriptor)
    except OSError as error:
        raise ArtifactError(str(path), f"it cannot be read: {error.strerror}") from error
    sizes = {before.st_size, after.st_size, len(content)}
    if not content or len(sizes) > 1 or before.st_mtime_ns != after.st_mtime_ns:
        raise ArtifactError(str(path), "it is empty, or still being written")
    return content


def _require_regular(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(str(path), "it is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise ArtifactError(str(path), f"it has {found.st_size} bytes, and an ONNX file has {MAX_FILE_BYTES} at most")
