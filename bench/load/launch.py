"""Makes the models, and starts the service as users do, for those who measure or test it."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVICE = (sys.executable, "-m", "service")


def make_models(folder: Path, *flags: str) -> None:
    """Write the models that servers are measured with, in a process of its own: this one never imports torch.

    Args:
        folder: is made if it is not there.
        flags: more of `python -m bench models`.

    Raises:
        SystemExit: it failed, and has said why.
    """
    ended = subprocess.run([sys.executable, "-m", "bench", "models", str(folder), *flags], check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


@contextmanager
def start_service(*flags: str, program: Sequence[str] = SERVICE) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the service on a free port, and stop it at the end.

    Args:
        flags: the flags of the service.
        program: what serves.

    Yields:
        The process and its base URL, as soon as it says that it listens.

    Raises:
        RuntimeError: it ended before it listened; carries what it wrote.
    """
    command = [*program, "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = process.stderr
    assert log is not None
    try:
        written: list[str] = []
        for line in log:
            written.append(line)
            if found := re.search(r"running on (https?://\S+)", line):
                break
        else:
            raise RuntimeError(f"the service did not start: {''.join(written)}")
        threading.Thread(target=log.read, daemon=True).start()  # or its log would fill the pipe and stop it
        yield process, found[1]
    finally:
        process.terminate()
        process.wait()
        log.close()
