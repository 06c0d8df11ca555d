"""API keys: the known ones, and whether a request brings one of them. `lengthwise keys FILE` makes one.

Keys are random and long, so that a plain SHA-256 hides them; nothing here stores, logs or repeats a key itself.
"""

import argparse
import hashlib
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from hmac import compare_digest
from pathlib import Path

from service.errors import InvalidKey, KeysUnusable
from service.settings import Settings

logger = logging.getLogger("lengthwise")

SHORTEST = 16  # characters in a key: too many to be tried one after another
KEY = re.compile(rf"[\x21-\x2b\x2d-\x7e]{{{SHORTEST},}}")  # visible, no comma
LINE = re.compile(r"sha256:([0-9a-f]{64})(\s.*)?")
SCHEME = b"bearer "
LOOK_SECONDS = 1.0  # how often the file is looked at

Headers = Iterable[tuple[bytes, bytes]]
Mark = tuple[int, ...]  # what tells one version of a file from another; empty without a file


class KeyRing:
    """Knows keys by their hashes: those of a setting, and those of a file, which may change at any time.

    If the file cannot be read any more, its keys stay as they were, and that is logged: a slip of an editor locks
    nobody out. A file without keys lets nobody in.

    Attributes:
        fixed: hashes of the keys of a setting.
    """

    def __init__(
        self,
        keys: str = "",
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        setting: str = "LENGTHWISE_API_KEYS",
        also: "KeyRing | None" = None,
    ) -> None:
        """Read the keys.

        Args:
            keys: the keys themselves, separated by commas.
            file: a file of hashes, one a line.
            clock: a clock in seconds.
            setting: the variable that gave the keys, to be named if one cannot be used.
            also: a ring whose keys of a setting are known here, too.

        Raises:
            KeysUnusable: a key is too short, or the file is not as `lengthwise keys` writes it.
        """
        self.fixed: list[bytes] = _hash_keys(keys, setting) + (also.fixed if also else [])
        self._file = file
        self._clock = clock
        self._mark = _mark(file)
        self._digests = self.fixed + ([] if file is None else _read_file(file))
        self._looked = clock()
        self._recent: dict[bytes, bytes] = {}  # headers that brought a key, with its hash

    def recognize(self, headers: Headers) -> bytes:
        """Return the hash of the key that a request brings, as `Authorization: Bearer KEY`.

        How long this takes tells nothing of the known keys but their number: hashes are compared in constant time,
        and what was compared before is looked up by a hash whose seed nobody knows. To hash and compare each time took
        10 us of a request, most of it to have that code in the CPU's caches.

        Raises:
            InvalidKey: the request brings no key, or an unknown one.
        """
        if self._file is not None and self._clock() - self._looked >= LOOK_SECONDS:
            self._look(self._file)
        value = next((value for name, value in headers if name == b"authorization"), b"")
        return self._recent.get(value) or self._compare(value)

    def _compare(self, value: bytes) -> bytes:
        """Hash what a header brings, compare it with all keys, and keep it for the next time if it is one."""
        offered = hashlib.sha256(value[len(SCHEME) :].strip()).digest()
        is_known = False
        for digest in self._digests:
            is_known |= compare_digest(digest, offered)
        if not is_known or value[: len(SCHEME)].lower() != SCHEME:
            raise InvalidKey
        if len(self._recent) < len(self._digests):  # or spaces before a key would fill the memory
            self._recent[value] = offered
        return offered

    def _look(self, file: Path) -> None:
        """Read the file again if it has changed."""
        self._looked = self._clock()
        mark = _mark(file)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._digests = self.fixed + _read_file(file)
        except KeysUnusable as error:
            logger.error("%s The keys stay as they were.", error)  # noqa: TRY400 - the sentence says it all
        else:
            self._recent.clear()
            logger.info("%s was read again: %d keys", file, len(self._digests) - len(self.fixed))


def read_keys(settings: Settings) -> tuple[KeyRing | None, KeyRing | None]:
    """Return the keys of requests, the admin's among them, and the admin's alone; None in place of either without any.

    Raises:
        KeysUnusable: a key or the file of keys is not as it must be.
    """
    given = settings.api_keys.get_secret_value() if settings.api_keys else ""
    admin = settings.admin_key.get_secret_value() if settings.admin_key else ""
    admins = KeyRing(admin, setting="LENGTHWISE_ADMIN_KEY") if admin else None
    return KeyRing(given, settings.api_keys_file, also=admins) if settings.has_keys else None, admins


def _hash_keys(keys: str, setting: str) -> list[bytes]:
    split = [key.strip() for key in keys.split(",")] if keys else []
    for number, key in enumerate(split, start=1):
        if not KEY.fullmatch(key):
            raise KeysUnusable(f"key {number} of {setting}", _find_fault(key))
    return [hashlib.sha256(key.encode()).digest() for key in split]


def _find_fault(key: str) -> str:
    """Say what is wrong with a key without repeating any of it."""
    if len(key) < SHORTEST:
        return f"{len(key)} characters long: {SHORTEST} or more are needed, so that nobody can guess it"
    return "not of visible ASCII characters alone: spaces and other alphabets cannot be sent as a key"


def _read_file(file: Path) -> list[bytes]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysUnusable(str(file), f"unreadable ({type(error).__name__})") from None
    digests = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if not (found := LINE.fullmatch(line)):
            raise KeysUnusable(f"line {number} of {file}", "not `sha256:` and 64 hexadecimal digits")
        digests.append(bytes.fromhex(found[1]))
    return digests


def _mark(file: Path | None) -> Mark:
    try:
        status = os.stat(file) if file is not None else None  # noqa: PTH116 - half the time of Path.stat
    except OSError:
        return ()
    return () if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


def main(arguments: list[str]) -> None:
    """Make a key: print it, this once, and append its hash to a file."""
    parser = argparse.ArgumentParser(prog="lengthwise keys", description=main.__doc__)
    parser.add_argument("file", type=Path, help="the file of LENGTHWISE_API_KEYS_FILE; made if there is none")
    parser.add_argument("--name", default="", help="whose key it is: kept beside the hash, read by nobody but you")
    options = parser.parse_args(arguments)
    key = f"lw-{secrets.token_urlsafe(32)}"
    line = f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {' '.join(options.name.split())}".strip()
    try:
        is_cut = options.file.exists() and options.file.read_bytes()[-1:] not in (b"", b"\n")
        with options.file.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if is_cut else f"{line}\n")
    except OSError as error:
        sys.exit(f"lengthwise: {options.file} cannot be written: {error.strerror}")
    sys.stdout.write(f"{key}\n")
