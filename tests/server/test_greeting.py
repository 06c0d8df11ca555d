"""What a person at a terminal is told once the service listens."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from bench.load.servers import find_port
from service.app import create_app
from service.server.greeting import write_greeting
from service.settings import Settings
from tests.conftest import ARTIFACTS
from tests.made import make_wide


def greet(model: Path, host: str = "127.0.0.1", key: str | None = None) -> str:
    """Return what is told of a service that is not running."""
    settings = Settings(model=model, api_keys=None if key is None else SecretStr(key))
    return write_greeting(create_app(settings).state.service, host, 8000)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_terminal_is_greeted_with_a_request_that_works(processes: str, artifact: Path) -> None:
    """Where it listens, what it serves, its proof and what was measured; and a line to copy that gets an answer."""
    port = str(find_port())
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "lengthwise",
        "serve",
        "--port",
        port,
        "--processes",
        processes,
        "--model",
        str(artifact),
    ]
    with subprocess.Popen(command, stderr=theirs) as process:
        os.close(theirs)
        told = ""
        try:
            while not ("curl " in told and "running on" in told and told.endswith("\n")):
                assert select.select([ours], [], [], 60)[0], told
                told += os.read(ours, 2**16).decode().replace("\r\n", "\n")
            threading.Thread(target=drain, args=(ours,), daemon=True).start()
            (url,) = re.findall(r"listens on (http://127\.0\.0\.1:\d+);", told)
            assert re.search(r"\n  \S+@1: 3 numbers a step in, embeddings of \d+ numbers out\n", told)
            assert re.search(r"\n    proof     golden vectors replayed here, within ", told)
            assert re.search(r"\n    measured  a run of 1 sequence of 32 steps takes [\d.e-]+ ms, of 32 ", told)
            (line,) = re.findall(r"^ +curl (.*)$", told, re.MULTILINE)
            _, target, _, header, _, body = shlex.split(line)
            name, _, value = header.partition(": ")
            assert target == f"{url}/encode"
            assert httpx.post(target, content=body, headers={name: value}).json()["usage"]["sequences"] == 1
        finally:
            process.terminate()


def drain(terminal: int) -> None:
    """Read a terminal to its end."""
    try:
        while os.read(terminal, 2**16):
            pass
    except OSError:  # the other side is closed
        os.close(terminal)


def test_machines_are_not_greeted(artifact: Path, tmp_path: Path) -> None:
    """If stderr is not a terminal, each line is a JSON document, as ever."""
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "lengthwise", "serve", "--port", "0", "--model", str(artifact)]
        with subprocess.Popen(command, stderr=log) as process:
            while "running on" not in (tmp_path / "log").read_text():
                assert process.poll() is None
            process.terminate()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines
    assert all(line.startswith("{") for line in lines)


def test_a_greeting_names_what_it_cannot_know(artifact: Path) -> None:
    """With keys the line to copy has a place for one; an address of IPv6 stands in brackets."""
    told = greet(artifact, "::1", "a-key-of-a-caller")
    assert "listens on http://[::1]:8000;" in told
    assert "-H 'Authorization: Bearer KEY' -d " in told


def test_a_greeting_of_texts_asks_for_one() -> None:
    """A model that reads texts is tried with them, which nobody has to look up."""
    told = greet(ARTIFACTS / "texts.onnx")
    assert ": texts in, embeddings of " in told
    assert """-d '{"texts": ["a text of several words", "and another"]}'\n""" in told


def test_a_greeting_has_no_line_that_nobody_would_copy(tmp_path: Path) -> None:
    """A model whose steps are very wide is told of without a request, and one without a manifest as unverified."""
    told = greet(make_wide(tmp_path / "wide.onnx", features=1000, hidden=2))
    assert "curl" not in told
    assert "proof     none: the file carries no manifest" in told
