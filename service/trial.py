"""`python -m service.trial BOUNDS`: the process that `service.examine` starts, and that artifacts may kill.

Where there is fork, each file is tried in a process forked for it from this one, which has all modules loaded: none
finds what another left behind, and its end is told by the kernel. Elsewhere this process tries one file, and ends.
"""

import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from service.codecs.texts import describe_input
from service.errors import ArtifactError, StartupError
from service.onnx_structure import check_structure
from service.session import EncoderSession
from service.verdict import (
    ANSWERS,
    LENGTH_BYTES,
    MAX_ANSWER_BYTES,
    READY,
    UNFORESEEN,
    Answer,
    Bounds,
    Examined,
    Refused,
)

if sys.platform == "linux":
    import resource

FILE = "it"  # the artifact's name in what is said of it
TEXTS = ["", "so it is", "\N{GRINNING FACE} \N{LATIN SMALL LETTER E WITH ACUTE}" * 20]
MEMORY_FACTOR = 4  # a file is parsed and its weights are copied: twice was enough for each one tried
MAX_DESCRIPTOR = 256
NICE = 10  # whoever is served meanwhile comes first


def try_file(content: bytes) -> Answer:
    """Check an artifact's structure, load it, try it, and replay its golden vectors, here."""
    try:
        check_structure(content, FILE)
        before = _read_memory()
        session = EncoderSession(content, FILE)
        difference = session.replay_golden()
        _try_tokenizer(session)
        taken = _read_memory() - before
    except ArtifactError as error:
        return Refused(error.reason)
    except StartupError as error:
        return Refused(str(error).rstrip("."))
    except MemoryError:
        return Refused("trying it takes more memory than it may")
    except Exception as error:  # noqa: BLE001 - nobody foresaw it, and the file is the culprit
        return Refused(f"{UNFORESEEN} {type(error).__name__}: {error}")
    manifest = session.manifest
    return Examined(
        sha256=session.sha256,
        name=None if manifest is None else manifest.name,
        version=None if manifest is None else manifest.version,
        difference=difference,
        memory_bytes=len(content) + max(0, taken),  # ONNX Runtime's session keeps the file
    )


def _try_tokenizer(session: EncoderSession) -> None:
    """Build the tokenizer, where there is one, and use it."""
    tokenize = describe_input(session).tokenize
    if tokenize is None:
        return
    try:
        tokenize(TEXTS)
    except Exception as error:
        raise ArtifactError(FILE, f"its tokenizer fails on short texts: {error}") from error


def try_apart(content: bytes, bounds: Bounds) -> Answer:
    """Try a file in a process of its own, forked from this one, within bounds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):  # what is not foreseen ends this process, and says nothing but that
            os.closerange(3, writing)  # the pipes to the service, which only its own child may use
            os.closerange(writing + 1, MAX_DESCRIPTOR)
            _confine(bounds, len(content))
            answer = ANSWERS.dump_json(try_file(content))
            gc.collect()  # so that freeing it is tried, too
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        line = pipe.read(MAX_ANSWER_BYTES)
    _, status = os.waitpid(child, 0)
    with suppress(ValueError):
        if status == 0:
            return ANSWERS.validate_json(line)
    return Refused(_tell_end(os.waitstatus_to_exitcode(status), bounds))


def _tell_end(code: int, bounds: Bounds) -> str:
    """Say how a process ended, as Python's subprocess numbers it, that gave no answer."""
    if code == -signal.SIGALRM:
        return f"trying it was not over after {bounds.seconds} s"
    if code == -signal.SIGXCPU:
        return f"trying it took over {bounds.cpu_seconds} s of processor time"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    hint = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
    return f"it ended the process that tried it ({how}{hint})"


def _confine(bounds: Bounds, size: int) -> None:
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
    """Keep the pipes from whatever prints, and be the first to go where memory or processor time is short.

    Returns:
        Where files come from, and where answers go.
    """
    files, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # what goes to stderr, the service has sent nowhere
        os.dup2(nowhere, descriptor)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if hasattr(os, "nice"):
        os.nice(NICE)
    return files, answers


def main() -> None:
    """Try files until there are no more."""
    bounds = Bounds(**json.loads(sys.argv[1]))
    files, answers = _step_back()
    can_fork = sys.platform == "linux"
    while True:
        answers.write(READY)
        answers.flush()
        length = files.read(LENGTH_BYTES)
        if len(length) < LENGTH_BYTES:
            return
        content = files.read(int.from_bytes(length, "little"))
        answer = try_apart(content, bounds) if can_fork else try_file(content)
        del content
        answers.write(ANSWERS.dump_json(answer) + b"\n")
        answers.flush()
        if not can_fork:
            return


def _read_memory() -> int:
    """Return the bytes of memory that are this process's own, or 0 where the kernel does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
