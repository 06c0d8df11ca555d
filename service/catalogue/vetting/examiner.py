"""Tries an artifact in a fresh process, so that the artifact may crash, hang or fill that process."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from service.catalogue.vetting.findings import FINDINGS, MAX_FINDING_BYTES, READY, Finding, Proven, TrialBounds, Unfit
from service.errors import ArtifactError

PROGRAM = ("-m", "service.catalogue.vetting.trial")
MAX_REASON = 500  # characters of a reason, which a file may have written, in a log
GRACE_SECONDS = 5.0  # the process ends itself when its time is up; if it does not, it is killed this much later
ROOT = Path(__file__).resolve().parents[3]
ENDING = "the service is ending, and examines nothing any more"
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")  # none of the service's own, which hold keys
DEFAULT_BOUNDS = TrialBounds()


class Examiner:
    """Examines artifacts, one at a time, each in a process of its own.

    So no file finds anything that another left behind. If the service dies, the process ends after its file.
    """

    def __init__(self, bounds: TrialBounds = DEFAULT_BOUNDS) -> None:
        """Prepare; no process is started yet.

        Args:
            bounds: the time and the memory that a file may take.
        """
        self._bounds = bounds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def examine(self, content: bytes, file: str) -> Proven:
        """Check an artifact's structure, load it, run it and replay its golden vectors, in another process.

        Blocks for as long as the bounds allow; other calls wait.

        Args:
            content: the whole file. These bytes were examined, whatever becomes of the file on the disk.
            file: the file's name, for the error.

        Raises:
            ArtifactError: the artifact cannot be served; says why.
        """
        with self._lock:
            finding = self._try(content)
        if isinstance(finding, Unfit):
            raise ArtifactError(file, _clean(finding.reason))
        return finding

    def close(self) -> None:
        """End the process that tries a file, if there is one; later files are refused."""
        self._is_closed = True
        if (process := self._process) is not None:
            _kill(process)
        with self._lock:
            pass  # until the thread that waits for that process has noticed

    def _try(self, content: bytes) -> Finding:
        """Start a process for one file, and return what it found, or how it ended."""
        try:
            process = self._process = _start(self._bounds, len(content))
        except OSError as error:
            return Unfit(f"the process that would examine it cannot be started: {error.strerror}")
        is_late = threading.Event()

        def end_late() -> None:
            is_late.set()
            _kill(process)

        watch = threading.Timer(self._bounds.seconds + GRACE_SECONDS, end_late)
        watch.daemon = True
        watch.start()
        if self._is_closed:
            _kill(process)
        try:
            said = _tell(process, content)
        finally:
            watch.cancel()
            self._process = None
        if self._is_closed:
            return Unfit(ENDING)
        if is_late.is_set():
            return Unfit(f"trying it was not over after {self._bounds.seconds} s")
        return _judge(said, process.returncode, content, self._bounds)


def _start(bounds: TrialBounds, size: int) -> "subprocess.Popen[bytes]":
    """Start the process, away from the service's log, standard input, keys and sockets."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, *PROGRAM, json.dumps(asdict(bounds)), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**kept, "PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # so that it can be killed with all it started, and gets no signal that is meant for us
    )


def _tell(process: "subprocess.Popen[bytes]", content: bytes) -> bytes:
    """Give a process its file, return what it says, and end it and all that it started."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):  # it may have ended by now
        process.stdin.write(content)
    with suppress(OSError):
        process.stdin.close()
    with process.stdout as taken:
        said = taken.read(len(READY) + MAX_FINDING_BYTES)
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number is given away only once it is reaped
        _kill(process)
    process.wait()
    return said


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, unless it was reaped: then its number may be another's."""
    if process.returncode is not None:
        return
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _judge(said: bytes, code: int, content: bytes, bounds: TrialBounds) -> Finding:
    """Return what a process found, if it ended well and read this very file."""
    if not said.startswith(READY):
        return Unfit("the process that would examine it does not start")
    if code:
        return Unfit(_tell_end(code, bounds))
    with suppress(ValueError):  # what it said is not a finding
        finding = FINDINGS.validate_json(said.removeprefix(READY))
        if isinstance(finding, Unfit) or finding.sha256 == hashlib.sha256(content).hexdigest():
            return finding
    return Unfit("the process that tried it gave no answer that makes sense")


def _tell_end(code: int, bounds: TrialBounds) -> str:
    """Say how a process failed, by its exit code as Python's subprocess gives it."""
    if code == -signal.SIGALRM:
        return f"trying it was not over after {bounds.seconds} s"
    if code == -signal.SIGXCPU:
        return f"trying it took over {bounds.cpu_seconds} s of processor time"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    hint = ", as the kernel does if memory runs out" if code == -signal.SIGKILL else ""
    return f"it ended the process that tried it ({how}{hint})"


def _clean(reason: str) -> str:
    """Make a reason, which a file may have written, one short line of printable characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}..."
