"""Files and folders, of this machine or of an object store, by one name each: a path, or an address as `s3://bucket/x`.

What is put somewhere is never found there by half: S3 and Google Cloud Storage show an object once it is uploaded to
its end, and everywhere else, in Azure's stores too, a file is written under a draft's name and renamed.
"""

import ctypes
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, Self

import pyarrow as pa
from pyarrow import fs

from bulk.addresses import AZURE, open_store
from bulk.mistakes import BadInput, BulkError

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://([^/?]*)(/?[^?]*)(\?.*)?")
SHOWN_WHOLE = (fs.S3FileSystem, fs.GcsFileSystem)  # an object, once its upload is complete
HELD_BYTES, PIECE_BYTES = 2**26, 2**20  # of an object: in memory until it is uploaded, and sent at once
FAULTS = OSError, pa.ArrowException, UnicodeDecodeError  # Azure without a key raises the second, a name the third
SECOND = 10**9  # in nanoseconds: what stores keep of when an object was written
SECRET = re.compile(r"[?&][^=&]*(secret|password|token|key|sig)[^=&]*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder, which need not be there.

    Attributes:
        text: its name as people write it.
        path: its name within the file system.
        files: the file system, one of pyarrow's.
    """

    text: str
    path: str
    files: Any

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Self:
        """Return what has this name within the folder."""
        folder, mark, query = self.text.partition("?") if "://" in self.text else (self.text, "", "")
        return type(self)(f"{folder.rstrip('/')}/{name}{mark}{query}", f"{self.path.rstrip('/')}/{name}", self.files)

    @property
    def name(self) -> str:
        """The last part of its name."""
        return PurePosixPath(self.path).name

    @property
    def suffixes(self) -> list[str]:
        """What its name ends with: `.jsonl` and `.gz`, say."""
        return PurePosixPath(self.path).suffixes

    @property
    def is_local(self) -> bool:
        """Whether it is of this machine."""
        return isinstance(self.files, fs.LocalFileSystem)

    def locate(self, other: "Place") -> str | None:
        """Return the name of another place within this folder, empty if it is this one; None if it is elsewhere."""
        if self.files != other.files:
            return None
        real = (os.path.realpath(one.path) if one.is_local else one.path for one in (self, other))
        own, its = map(PurePosixPath, real)
        return "/".join(its.relative_to(own).parts) if its.is_relative_to(own) else None

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        try:
            return bool(self.files.get_file_info(self.path).type != fs.FileType.NotFound)
        except FAULTS as error:
            raise BulkError(f"{self} cannot be looked at: {error}") from error

    def open(self) -> Any:
        """Open the file, to read any part of it."""
        return self.files.open_input_file(self.path)

    def read(self) -> bytes:
        """Read the whole file."""
        with self.open() as file:
            content: bytes = file.read()
            return content

    def list_files(self) -> list[Self]:
        """List the files in the folder; none if it is not there."""
        try:
            return [self / name for name, one in self._select(recursive=False) if one.type == fs.FileType.File]
        except FAULTS as error:
            raise BulkError(f"{self} cannot be looked at: {error}") from error

    def find(self, ending: str, *, recursive: bool = True) -> list[tuple[str, int, int]]:
        """List files: itself if it is one, else those in it whose names end so.

        Args:
            ending: of their names.
            recursive: whether those in folders of the folder count, however deep; links to folders are not followed.

        Returns:
            For each its name within the folder, empty for itself; its size; and when it was written, in nanoseconds.

        Raises:
            BadInput: it is not there, or cannot be looked at.
        """
        try:
            own = self.files.get_file_info(self.path)
            if own.type == fs.FileType.NotFound:
                raise BadInput(self, "No such file or directory")
            if own.type == fs.FileType.Unknown:
                raise BadInput(self, "it is neither a file nor a folder")
            if own.type == fs.FileType.File:
                return [("", own.size, self._read_time(own))]
            found = [
                (name, one.size, self._read_time(one))
                for name, one in self._select(recursive=recursive)
                if one.type == fs.FileType.File and name.endswith(ending)
            ]
        except FAULTS as error:
            raise BadInput(self, str(error)) from error
        return sorted(found, key=lambda one: one[0].split("/"))

    def make_folder(self) -> None:
        """Make the folder; a store of objects has none, so there is nothing to make."""
        if not isinstance(self.files, SHOWN_WHOLE):
            try:
                self.files.create_dir(self.path, recursive=True)
            except FAULTS as error:
                raise BulkError(f"{self} cannot be made: {error}") from error

    def put(self, content: Iterable[Any], *, replaces: bool = True) -> None:
        """Write the file as `create` does.

        Args:
            content: pieces of bytes.
            replaces: whether it takes the place of a file that is there by its end; on this machine alone, such a file
                can be left.

        Raises:
            BulkError: it cannot be written.
        """
        with self.create(replaces=replaces) as stream:
            for piece in content:
                stream.write(piece)

    @contextmanager
    def create(self, *, replaces: bool = True) -> Iterator[Any]:
        """Yield a stream to write the file to; whatever ends the program meanwhile, it is not there by half.

        Raises:
            BulkError: it cannot be written.
        """
        if isinstance(self.files, SHOWN_WHOLE):
            write = self._upload()
        else:
            write = self._write(self._link if self.is_local and not replaces else self._rename)
        try:
            with write as stream:
                yield stream
        except FAULTS as error:
            raise BulkError(f"{self} cannot be written: {error}") from error

    @contextmanager
    def _upload(self) -> Iterator[Any]:
        """Upload what was written once all is at hand, since whatever closes a store's stream shows the object."""
        with SpooledTemporaryFile(HELD_BYTES if _has_disk() else 0) as held:
            yield held
            held.seek(0)
            stream = self.files.open_output_stream(self.path, compression=None)
            try:
                while piece := held.read(PIECE_BYTES):
                    stream.write(piece)
            except BaseException:
                _keep_open(stream)
                raise
            stream.close()

    @contextmanager
    def _write(self, show: Callable[[str], None]) -> Iterator[Any]:
        """Write under a draft's name, and show it by its own."""
        folder, _, name = self.path.rpartition("/")
        draft = f"{folder}/.{name}.{secrets.token_hex(4)}"
        with self.files.open_output_stream(draft, compression=None) as stream:
            yield stream
        try:
            if self.is_local:
                _sync(Path(draft))
            show(draft)
        except OSError:
            is_cleared = self.files.get_file_info(draft).type == fs.FileType.NotFound
            if not (is_cleared and self.exists):  # by another program, which wrote it too and ended all shards
                raise

    def _rename(self, draft: str) -> None:
        """Give a draft its name; an account of Azure without folders copies it, and shows the copy once it is whole."""
        try:
            self.files.move(draft, self.path)
        except NotImplementedError:
            self.files.copy_file(draft, self.path)
            self.files.delete_file(draft)

    def _link(self, draft: str) -> None:
        """Give a draft its name, unless there is such a file; a disk without links has it replaced."""
        try:
            Path(self.path).hardlink_to(draft)
        except OSError:
            if not self.exists:
                self._rename(draft)
        Path(draft).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the file; another program may have done so."""
        try:
            self.files.delete_file(self.path)
        except FileNotFoundError:
            return

    def _select(self, *, recursive: bool) -> Iterator[tuple[str, Any]]:
        """Yield what is in the folder, with its name there."""
        folder, found = self.path.strip("/"), fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        if recursive and self.is_local:  # pyarrow follows links to folders, round and round
            found = [require_text(f"{inner}/{name}") for inner, _, names in os.walk(self.path) for name in names]
        for one in self.files.get_file_info(found):
            yield one.path.strip("/").removeprefix(folder).lstrip("/"), one

    def _read_time(self, one: Any) -> int:
        """Return when a file was written, in nanoseconds; 0 if the store does not say."""
        if self.is_local:
            return int(one.mtime_ns)
        time = one.mtime
        if time is None and isinstance(self.files, fs.PyFileSystem):
            try:
                time = self.files.handler.fs.modified(one.path)
            except (NotImplementedError, KeyError):  # the store keeps no times, or keeps none of this file
                return 0
        return int(time.timestamp()) * SECOND if isinstance(time, datetime) else 0


def require_text(path: str) -> str:
    """Return a path, unless its bytes are not a text: pyarrow opens no such file.

    Raises:
        BadInput: they are not.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise BadInput(ascii(path), "its name is not UTF-8") from None
    return path


def open_place(name: str | Path) -> Place:
    """Return the place of this name.

    Raises:
        BulkError: it is in a store that nothing here can open.
    """
    if not (found := ADDRESS.fullmatch(str(name))):
        path = require_text(str(Path(name)))
        return Place(path, path, open_store("file", "", "")[0])
    scheme, host, path, query = (part or "" for part in found.groups())
    if ":" in host.rpartition("@")[0] or SECRET.search(query):
        raise BulkError(f"{scheme}://{host.rpartition('@')[2]}{path}: the plan repeats addresses, so leave out the key")
    if scheme == "file":
        return open_place(path)
    files, root = open_store(scheme, host, query)
    path = f"{root}{path}".rstrip("/")
    return Place(str(name), path.lstrip("/") if scheme in AZURE else path, files)


def _keep_open(stream: Any) -> None:
    """Keep a stream from ever being closed, by the end of the program too: that would show half an object as all."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def _sync(path: Path) -> None:
    """See that what was written outlives the machine's power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _has_disk() -> bool:
    """Whether there is a folder for temporary files."""
    try:
        return bool(gettempdir())
    except FileNotFoundError:
        return False
