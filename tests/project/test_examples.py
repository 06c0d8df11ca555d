"""The examples run as they stand, against the service itself."""

import base64
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.load.launch import start_service
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.settings import SHIPPED_MODEL


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of the shipped encoder's service."""
    with start_service() as (_, url):
        yield url


def run(*command: str) -> str:
    """Run an example and return what it printed."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example_encodes_a_request_and_a_stream(url: str) -> None:
    """The request has README's answer; of the stream two lines are embeddings, and the third names its fault."""
    whole, *lines = run("sh", "examples/encode.sh", url).splitlines()
    request = json.loads(Path("examples/two-utterances.json").read_text(encoding="utf-8"))
    expected = open_session(SHIPPED_MODEL).run(pad_batch([np.array(s, np.float32) for s in request["sequences"]]))
    assert np.array(json.loads(whole)["embeddings"], np.float32).tobytes() == expected.tobytes()
    answers = list(map(json.loads, lines))
    assert [len(base64.b64decode(answer["embedding"])) for answer in answers[:2]] == [1024, 1024]
    assert answers[2]["problem"]["detail"] == "sequences[0][1] is a number: expected a step: a list of 12 numbers."


def test_the_python_example_encodes_in_binary(url: str) -> None:
    """Two embeddings of norm 1."""
    assert run(sys.executable, "examples/encode.py", url) == "(2, 256) float32 [1. 1.]\n"


@pytest.mark.parametrize(
    ("library", "printed"),
    [
        ("pandas", "(2, 256) ['ann', 'bob']\n"),
        ("polars", "(2, 2) ['ann', 'bob'] Array(Float32, shape=(256,))\n"),
    ],
)
def test_the_examples_of_frames_encode_a_group_of_rows_each(
    library: str, printed: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One embedding for each of two people, with their names beside it."""
    pytest.importorskip(library)
    monkeypatch.setenv("PYTHONPATH", str(Path("client").resolve()))
    assert run(sys.executable, f"examples/encode_{library}.py", url) == printed


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_javascript_example_encodes_with_fetch(url: str) -> None:
    """Two embeddings as Float32Array, with the numbers the session gives."""
    printed = run("node", "examples/encode.mjs", url).split()
    steps = np.array([[math.sin(t + f) for f in range(12)] for t in range(7)], np.float32)
    expected = open_session(SHIPPED_MODEL).run(pad_batch([steps]))[0, 0]
    assert printed[:6] == ["2", "256", "[", "19,", "7", "]"]
    assert float(printed[6]) == pytest.approx(float(expected), abs=1e-5)  # sines may differ by a bit
