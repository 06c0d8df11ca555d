"""Bodies of every format, damaged: sequences or an error on purpose come of them, and nothing else."""

import json
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from bench.stress.fuzz import SPECS, fuzz, make_targets, try_body
from service.app import create_app
from service.settings import Settings
from tests.conftest import ARTIFACTS

TARGETS = make_targets()
CASES = 400  # of each; `python -m bench fuzz` tries millions


@pytest.mark.parametrize("name", TARGETS)
def test_valid_bodies_are_read(name: str) -> None:
    """What is damaged was whole before: each seed gives sequences, so that the cases reach past the first check."""
    for spec, seeds in zip(SPECS, TARGETS[name].seeds, strict=True):
        readable = [try_body(TARGETS[name], body, spec) for body in seeds]
        assert all(readable)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_bodies_are_refused_on_purpose(name: str) -> None:
    """Of every case come sequences that a session can run, or an error of ours."""
    tally = fuzz(TARGETS[name], iter(range(CASES)), time.perf_counter() + 600)
    assert tally.cases == CASES
    assert tally.escapes == {}


@pytest.fixture(scope="module")
def reader() -> Iterator[TestClient]:
    """A service of an encoder that reads texts."""
    app = create_app(Settings(model=ARTIFACTS / "texts.onnx"))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


HALF = r"\ud800"
TENSOR = '{"name": "texts", "shape": [1], "datatype": "BYTES", "data": ["%s"]}'


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/encode", f'{{"texts": ["so", "{HALF}"]}}', "texts[1]"),
        ("/encode", f'{{"texts": ["so"], "{HALF.upper().replace("U", "u")}": 1}}', "the name of a field of the body"),
        ("/v1/embeddings", f'{{"model": "made", "input": "so {HALF}"}}', "input"),
        ("/v2/models/made/infer", f'{{"inputs": [{TENSOR % HALF}]}}', "inputs[0].data[0]"),
        ("/v2/models/made/infer", f'{{"id": "{HALF}", "inputs": [{TENSOR % "so"}]}}', "id"),
    ],
)
def test_half_a_character_is_malformed(path: str, body: str, place: str, reader: TestClient) -> None:
    """An escape of half a surrogate pair, once a 500, is refused with its place; a whole one is read."""
    refused = reader.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == (422 if path == "/encode" else 400)
    sentence = refused.json().get("detail") or refused.json()["error"]
    sentence = sentence if isinstance(sentence, str) else sentence["message"]
    assert sentence == f"The body is not valid JSON: {place} holds {HALF}, which alone is half a character."
    whole = json.loads(body.replace(HALF, r"\ud83d\ude00")) if HALF in body else None
    if whole is not None:
        assert reader.post(path, json=whole).status_code == 200


def test_a_body_in_another_encoding_is_told_its_first_wrong_byte(reader: TestClient) -> None:
    """Latin-1 is no JSON, and the sentence is not Python's."""
    refused = reader.post("/encode", content='{"texts": ["café"]}'.encode("latin-1"))
    assert refused.json()["detail"] == "The body is not valid JSON: its byte 15 is not UTF-8."


def test_half_a_character_in_a_stream_ends_nothing(reader: TestClient) -> None:
    """Its line has a problem, and the next its embedding."""
    lines = f'"{HALF}"\n"so"\n'
    answer = reader.post("/encode", content=lines, headers={"Content-Type": "application/x-ndjson"})
    first, second = map(json.loads, answer.text.splitlines())
    assert first["problem"]["detail"] == (
        f"The body is not valid JSON: the string holds {HALF}, which alone is half a character."
    )
    assert len(second["embedding"]) == 8
