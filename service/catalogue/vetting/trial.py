"""`python -m service.catalogue.vetting.trial BOUNDS BYTES`: the process that an artifact may kill.

A fresh one is started for each file. It bounds itself, then tries the file that its standard input holds.
"""

import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from service.catalogue.vetting.findings import FINDINGS, READY, UNFORESEEN, Finding, Proven, TrialBounds, Unfit
from service.catalogue.vetting.structure import check_structure
from service.costs.memory import trim_heap
from service.encoder.session import EncoderSession
from service.encoder.tokenizer import describe_input
from service.errors import ArtifactError, StartupError

if sys.platform == "linux":
    import resource

FILE = "it"  # the artifact's name in reasons
TEXTS = ["", "so it is", "\N{GRINNING FACE} \N{LATIN SMALL LETTER E WITH ACUTE}" * 20]
MEMORY_FACTOR = 4  # a file is parsed and its weights are copied: twice was enough for each one tried
NICE = 10  # requests that are served meanwhile come first


def try_file(content: bytes) -> Finding:
    """Check an artifact's structure, load it, try it, and replay its golden vectors, here."""
    try:
        check_structure(content, FILE)
        before = _read_memory()
        session = EncoderSession(content, FILE)
        difference = session.replay_golden()
        _try_tokenizer(session)
        taken = _read_memory() - before
    except ArtifactError as error:
        return Unfit(error.reason)
    except StartupError as error:
        return Unfit(str(error).rstrip("."))
    except MemoryError:
        return Unfit("trying it takes more memory than it may")
    except Exception as error:  # noqa: BLE001 - whatever it is, the file is the culprit
        return Unfit(f"{UNFORESEEN} {type(error).__name__}: {error}")
    manifest = session.manifest
    return Proven(
        sha256=session.sha256,
        name=None if manifest is None else manifest.name,
        version=None if manifest is None else manifest.version,
        difference=difference,
        memory_bytes=len(content) + max(0, taken),  # ONNX Runtime's session keeps the file
    )


def _try_tokenizer(session: EncoderSession) -> None:
    """Build the tokenizer, if there is one, and use it."""
    tokenize = describe_input(session).tokenize
    if tokenize is None:
        return
    try:
        tokenize(TEXTS)
    except Exception as error:
        raise ArtifactError(FILE, f"its tokenizer fails on short texts: {error}") from error


def _confine(bounds: TrialBounds, size: int) -> None:
    """Bound this process's memory and time, and let it write no file and no core."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    memory = pages * resource.getpagesize() + bounds.memory_bytes + MEMORY_FACTOR * size
    for kind, soft in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, bounds.cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    signal.setitimer(signal.ITIMER_REAL, bounds.seconds)


def _step_back() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes from code that prints, and be the first to go if memory or processor time is short.

    Returns:
        The stream that the file comes from, and the stream that the finding goes to.
    """
    file, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # the service has sent stderr nowhere
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if hasattr(os, "nice"):
        os.nice(NICE)
    return file, answers


def main() -> None:
    """Try the one file that standard input holds, within bounds, and say what was found."""
    bounds, size = TrialBounds(**json.loads(sys.argv[1])), int(sys.argv[2])
    file, answers = _step_back()
    answers.write(READY)
    answers.flush()
    with file:
        content = file.read(size)
    _confine(bounds, size)
    finding = FINDINGS.dump_json(try_file(content))
    gc.collect()  # so that freeing the session is tried, too
    answers.write(finding)
    answers.flush()
    os._exit(0)


def _read_memory() -> int:
    """Return the bytes of memory that are this process's own, or 0 if the kernel does not tell."""
    trim_heap()  # freed memory does not count
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
