"""Bodies that ask for far more work or memory than their bytes: refused before they are parsed, or read in bounds."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.codecs.json import ndjson, plain, ragged
from service.codecs.json.plain import Bounds, holds_too_much
from service.codecs.json.ragged import EncodeOptions
from service.codecs.kserve import inference, tensor_json
from service.codecs.kserve.schemas import InferHeader
from service.codecs.options import AnswerOptions, validate
from service.encoder.sequences import Features, InputSpec, Sequences, Tokens
from service.errors import InvalidField, RequestTooLong
from service.settings import Limits
from tests.memory import run_within

Serve = Callable[..., TestClient]

LIMITS = Limits(
    max_sequence_steps=9,
    max_request_steps=10,
    empty_allowed=False,
    max_text_characters=20,
    max_request_characters=20,
)
STEP = [[0, 0, 0]]


def test_what_is_right_never_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps, as many of padding, a length and a state for each, and texts of commas or quotes are let through."""
    monkeypatch.setattr(plain, "OTHER_VALUES", 8)
    body = {"sequences": [[[0, 0, 0]] * 2] * 10, "lengths": [1] * 10, "outputs": ["embedding", "state"], "model": "m"}
    assert not holds_too_much(json.dumps(body).encode(), LIMITS, Bounds.of([InputSpec(Features(3))]))
    monkeypatch.setattr(plain, "OTHER_VALUES", 16)
    spec = InputSpec(Features(3), state_names=("h", "c"), state_shape=(2, 2, 4))
    state = np.zeros((10, 2, 2, 4)).tolist()
    body = {"sequences": [[[0, 0, 0]] * 2] * 10, "lengths": [1] * 10, "state": {"h": state, "c": state}}
    assert not holds_too_much(json.dumps(body).encode(), LIMITS, Bounds.of([spec]))
    for sign in (",", '"'):
        texts = {"texts": [sign * 20, *[""] * 9], "model": "m", "outputs": ["embedding", "steps", "state"]}
        assert not holds_too_much(json.dumps(texts).encode(), LIMITS, Bounds.of([InputSpec(Tokens())]))


@pytest.mark.parametrize("part", ["1,", '"ab",', '"",', "{},", "[],"])
def test_many_values_are_refused_unparsed(part: str, serve: Serve) -> None:
    """Whatever they are and wherever they stand, a body of more values than a request can have is 413, even no JSON."""
    client = serve(max_request_steps=10, max_sequence_steps=10, max_text_characters=20, max_request_characters=20)
    many = part * 1200 + "junk"
    tensor = '{"inputs": [{"name": "sequences", "datatype": "FP32", "shape": [1, 1, 3], "data": ['
    for path, body in (
        ("/encode", '{"sequences": [[' + many),
        ("/encode", f'{{"sequences": {json.dumps([STEP])}, "lengths": [{many}'),
        ("/v1/embeddings", '{"model": "made", "input": [' + many),
        ("/v2/models/made/infer", tensor + many),
    ):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, (path, answer.text)
        assert "LENGTHWISE_MAX_REQUEST_STEPS" in answer.text


def test_a_line_of_many_values_is_refused_unparsed() -> None:
    """In a stream it has its own error, and the lines around it are read."""
    lines = [ndjson.Line(row + 1, row, text) for row, text in enumerate([b"[[1,2]]", b"[[" + b"1," * 1200, b"[[3,4]]"])]
    first, error, last = ndjson.decode(lines, InputSpec(Features(2)), LIMITS, 10**6)
    assert (np.array(first).tolist(), type(error), np.array(last).tolist()) == ([[1, 2]], RequestTooLong, [[3, 4]])


MANY = 50_000


@pytest.mark.parametrize(
    ("kind", "fields", "path"),
    [
        (EncodeOptions, {"lengths": [""] * MANY}, "lengths[0]"),
        (EncodeOptions, {"outputs": ["a"] * MANY}, "outputs[0]"),
        (AnswerOptions, {str(number): 0 for number in range(MANY)}, "'0'"),
        (InferHeader, {"inputs": [{}] * MANY}, "inputs[0].name"),
        (InferHeader, {"inputs": [], "outputs": [{}] * MANY}, "outputs[0].name"),
        (InferHeader, {"inputs": [{"name": "a", "datatype": "FP32", "shape": [""] * MANY}]}, "inputs[0].shape[0]"),
    ],
)
def test_the_first_of_many_faults_is_the_only_one_looked_for(kind: Any, fields: dict[str, Any], path: str) -> None:
    """However many values are wrong, what is told of them takes the memory of one: it took a kilobyte for each."""

    def refuse() -> str | None:
        with pytest.raises(InvalidField) as found:
            validate(kind, fields, ["model"])
        return found.value.path

    assert run_within(2**18, refuse) == path


def test_objects_of_many_fields_are_left_to_the_exact_reader() -> None:
    """The fast one would look through all fields for each of them; such a body is read the same, or its fault named."""
    parameters = {str(number): 0 for number in range(100)}
    fields = {"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}], "parameters": parameters}
    assert tensor_json.read_plain(json.dumps(fields).encode()) is None
    header, (array,) = tensor_json.read_exact(json.dumps(fields).encode())
    assert (header.inputs[0].name, np.array(array).tolist()) == ("a", [1.0])
    body = json.dumps({"sequences": [STEP], **parameters}).encode()
    assert plain.parse_plain(body) is None
    with pytest.raises(InvalidField, match="'0' is not a field of this request"):
        ragged.parse(body, None, LIMITS, Bounds())


def test_more_raw_texts_than_steps_are_not_read() -> None:
    """Each costs a step, so that their bytes need not be looked at."""
    tensor = {"name": "texts", "shape": [11], "datatype": "BYTES", "parameters": {"binary_data_size": 44}}
    head = json.dumps({"inputs": [tensor]}).encode()
    spec = InputSpec(Tokens(), tokenize=lambda _: pytest.fail("they were tokenised"))
    signature = inference.Signature(spec, {"embedding": "embedding"}, "made", "1", LIMITS)
    with pytest.raises(RequestTooLong):
        inference.parse(head + 44 * b"\xff", len(head), signature)


def test_many_empty_sequences_are_refused_by_their_number() -> None:
    """Their lengths are not even made Python's own."""
    many = Sequences(np.empty((0, 3), np.float32), np.zeros(10**6, np.int64))

    def refuse() -> None:
        with pytest.raises(RequestTooLong):
            many.check(LIMITS)

    run_within(2**16, refuse)
