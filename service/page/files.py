"""Static files as they are answered: read once, compressed once, and known by a tag."""

import gzip
import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is answered.

    Attributes:
        content: its bytes.
        compressed: the same by gzip.
        media_type: what it is.
        tag: its ETag, without quotation marks; it changes with the content.
    """

    content: bytes = field(repr=False)
    compressed: bytes = field(repr=False)
    media_type: str
    tag: str


def list_files(folder: str) -> list[str]:
    """Return the names of the files in `page` or `docs`, those in its folders too, as `vendor/preact.js`."""
    root = HERE / folder
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in TYPES)


@cache
def read_file(folder: str, name: str) -> StaticFile:
    """Read a file that `list_files` names; it is read when it is first asked for."""
    path = HERE / folder / name
    content = path.read_bytes()
    return StaticFile(
        content,
        gzip.compress(content, mtime=0),
        TYPES[path.suffix],
        hashlib.sha256(content).hexdigest()[:20],
    )
