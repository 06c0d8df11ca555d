"""Artifacts are examined before they are served: read whole, then tried in a process that may die of them.

`python -m service.examine FILE ...` says of each file what the service would say.
"""

import argparse
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from service.errors import ArtifactError
from service.verdict import ANSWERS, LENGTH_BYTES, MAX_ANSWER_BYTES, READY, Answer, Bounds, Examined, Refused

MAX_FILE_BYTES = 2**31 - 1  # of protobuf, and so of ONNX
MAX_REASON = 500  # characters of what a file gets into a log
GRACE_SECONDS = 5.0  # the other process keeps the time itself; should it not, it is killed this much later
ROOT = Path(__file__).resolve().parents[1]
ENDING = "the service is ending, and examines nothing any more"
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")  # none of the service's own, where keys are
DEFAULT_BOUNDS = Bounds()


def read_file(path: Path) -> bytes:
    """Read an artifact whole, or not at all.

    Raises:
        ArtifactError: it cannot be read, is no regular file, is too large, or is still being written.
    """
    try:
        _require_regular(path.stat(), path)  # before it is opened: that alone sets some devices going
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
        raise ArtifactError(str(path), "it is no regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise ArtifactError(str(path), f"it has {found.st_size} bytes, and an ONNX file {MAX_FILE_BYTES} at most")


class Examiner:
    """Tries artifacts in another process, one at a time; that process may die, hang, or take what it likes.

    It is started for the first file, ends a while after the last, and is started anew where it died. Should this
    process die, the other ends after the file it has.
    """

    def __init__(self, bounds: Bounds = DEFAULT_BOUNDS, idle_seconds: float = 30.0) -> None:
        """Prepare; nothing is started yet.

        Args:
            bounds: what a file may take.
            idle_seconds: how long the process waits for another file.
        """
        self._bounds, self._idle_seconds = bounds, idle_seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._idle: threading.Timer | None = None
        self._is_closed = False

    def examine(self, content: bytes, file: str) -> Examined:
        """Check an artifact's structure, load it, try it and replay its golden vectors, in the other process.

        Blocks for as long as the bounds allow; other calls wait.

        Args:
            content: the whole file. What was examined is this, whatever becomes of the file.
            file: its name, for the error.

        Raises:
            ArtifactError: it cannot be served; says why.
        """
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            answer = self._ask(content)
            self._idle = _start_timer(self._idle_seconds, self._rest)
        if isinstance(answer, Refused):
            raise ArtifactError(file, _clean(answer.reason))
        return answer

    def close(self) -> None:
        """End the other process, and what it is at; what is examined later is refused."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            self._end()

    def _ask(self, content: bytes) -> Answer:
        """Have one file tried."""
        if self._is_closed:
            return Refused(ENDING)
        began = time.monotonic()
        try:
            child = self._ready_child()
        except OSError as error:
            return Refused(f"the process that would examine it cannot be started: {error.strerror}")
        watch = _start_timer(self._bounds.seconds + GRACE_SECONDS, child.kill)
        try:
            line = child.ask(content)
        finally:
            watch.cancel()
        with suppress(ValueError):  # where it is no answer
            answer = ANSWERS.validate_json(line)
            if isinstance(answer, Refused) or answer.sha256 == hashlib.sha256(content).hexdigest():
                return answer
        self._end()
        return Refused(self._tell_end(child, time.monotonic() - began))

    def _tell_end(self, child: "_Child", took_seconds: float) -> str:
        """Say why a file got no answer."""
        if self._is_closed:
            return ENDING
        if took_seconds >= self._bounds.seconds:
            return f"trying it was not over after {self._bounds.seconds} s"
        if not child.is_started:
            return "the process that would examine it does not start"
        return "the process that tried it ended, or gave no answer that makes sense"

    def _ready_child(self) -> "_Child":
        """Return the other process, a new one where there is none that lives."""
        if self._child is None or not self._child.is_alive():
            self._end()
            self._child = _Child(self._bounds)
        return self._child

    def _rest(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None


class _Child:
    """The other process, away from the service's log, standard input, keys and sockets."""

    def __init__(self, bounds: Bounds) -> None:
        self.is_started = False
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "service.trial", json.dumps(asdict(bounds))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**kept, "PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # to be killed with what it forked, and by no signal that is meant for us
        )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, content: bytes) -> bytes:
        """Return what it says of a file, a line; or what there was of that when it ended."""
        given, taken = self._process.stdin, self._process.stdout
        assert given is not None
        assert taken is not None
        if taken.readline(len(READY)) != READY:
            return b""
        self.is_started = True
        with suppress(OSError):  # it may have ended by now
            given.write(len(content).to_bytes(LENGTH_BYTES, "little"))
            given.write(content)
            given.flush()
        return taken.readline(MAX_ANSWER_BYTES)

    def kill(self) -> None:
        """End it, and what it forked; until its end was noticed, its number is no other's."""
        if self._process.returncode is not None:
            return
        with suppress(OSError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        with suppress(OSError):  # of what was not written any more
            self._process.communicate()


def _start_timer(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _clean(reason: str) -> str:
    """Make one short line of printable characters of what a file, and what it did to a process, had to say."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}..."


def main(arguments: list[str] | None = None) -> None:
    """Examine files, and exit with 1 where one cannot be served."""
    parser = argparse.ArgumentParser(prog="python -m service.examine", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    is_good = True
    with closing(Examiner()) as examiner:
        for path in parser.parse_args(arguments).files:
            try:
                found = examiner.examine(read_file(path), str(path))
            except ArtifactError as error:
                is_good = False
                sys.stdout.write(f"{error}\n")
                continue
            proof = "unverified" if found.difference is None else f"golden vectors within {found.difference:.2g}"
            taken = f"{found.memory_bytes / 2**20:.1f} MiB"
            sys.stdout.write(f"{path} can be served: {found.name or path.stem}, {proof}, {taken}\n")
    sys.exit(int(not is_good))


if __name__ == "__main__":
    main()
