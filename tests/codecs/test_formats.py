"""A body format is one file and one line: a service that has one more of them is tried in a process of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import orjson

FILE = '''
"""CSV: one sequence, a step a line; the embeddings, one a line."""

import numpy as np

from service.codecs.binary.arrays import read_steps
from service.codecs.question import Format
from service.encoder.sequences import Sequences


def read(body, spec, _limit):
    values = np.array([line.split(",") for line in body.decode().splitlines()], np.float64)
    return Sequences(read_steps(values, "The lines", spec), np.array([len(values)]))


def write(answer, _options):
    rows = [",".join(map(str, row)) for row in answer.embeddings]
    return "\\n".join(rows).encode(), [(b"content-type", b"text/csv")]


FORMAT = Format("text/csv", body="One sequence, a step a line.", answer="An embedding a line.", read=read, write=write)
'''

# The line that enters it, beside its import.
LINES = {
    "from service.codecs.binary import arrow, npy, npz\n": "from service.codecs.binary import arrow, csv, npy, npz\n",
    "    npz.FORMAT,\n": "    npz.FORMAT,\n    csv.FORMAT,\n",
}

SCRIPT = """
import json, sys
from pathlib import Path

import orjson
from starlette.testclient import TestClient
from service.app import create_app
from service.settings import Settings

with TestClient(create_app(Settings(model=Path(sys.argv[1])))) as client:
    expected = client.post("/encode", json={"sequences": [[[1, 2, 3], [4, 5, 6]]]}).json()["embeddings"]
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    found = client.post("/encode?normalize=false", content=b"1,2,3\\n4,5,6\\n", headers=headers)
    wrong = client.post("/encode", content=b"1,2\\n", headers=headers)
    other = client.post("/encode", content=b"", headers={"Content-Type": "text/plain"})
    unwelcome = client.post("/encode", json={}, headers={"Accept": "text/html"})
    operation = client.get("/openapi.json").json()["paths"]["/encode"]["post"]
print(json.dumps({
    "same": [[float(number) for number in found.text.split(",")]] == expected,
    "kind": found.headers["content-type"],
    "wrong": wrong.json()["detail"],
    "offered": ["text/csv" in answer.json()["detail"] for answer in (other, unwelcome)],
    "body": operation["requestBody"]["content"]["text/csv"]["schema"]["description"],
    "answer": operation["responses"]["200"]["content"]["text/csv"]["schema"]["description"],
}))
"""


def test_a_format_is_added_in_one_file_and_one_line(artifact: Path, tmp_path: Path) -> None:
    """Bodies and answers, what is refused, what is offered in its place and the document all follow from these."""
    shutil.copytree("service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "service/codecs/binary/csv.py").write_text(FILE)
    formats = tmp_path / "service/codecs/formats.py"
    text = formats.read_text()
    for line, changed in LINES.items():
        assert text.count(line) == 1
        text = text.replace(line, changed)
    formats.write_text(text)
    command = [sys.executable, "-c", SCRIPT, str(artifact.resolve())]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert orjson.loads(ran.stdout) == {
        "same": True,
        "kind": "text/csv",
        "wrong": "The lines has 2 features: the model reads 3 in each step.",
        "offered": [True, True],
        "body": "One sequence, a step a line.",
        "answer": "An embedding a line.",
    }
