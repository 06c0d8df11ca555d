"""Options in the query: they count whatever a body is written in, and may not contradict it."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from service.codecs.json import ragged
from service.codecs.json.plain import Bounds
from service.codecs.options import read_query
from service.settings import Settings
from tests.api.test_encode import PAIR


def test_options_in_the_query_count_for_json_too(client: TestClient) -> None:
    """What the query asks is done, and the answer is the one to the same fields in the body."""
    padded = [PAIR[0], [*PAIR[1], [0, 0, 0], [0, 0, 0]]]
    expected = client.post("/encode", json={"sequences": PAIR, "normalize": True, "encoding_format": "base64"}).json()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("normalize=true&encoding_format=base64&model=made", {}),
        ("normalize=true", {"encoding_format": "base64"}),
        ("normalize=true&model=made", {"normalize": True, "encoding_format": "base64", "model": None}),
        ("normalize=true&model=made", {"encoding_format": "base64", "model": "made", "outputs": ["embedding"]}),
        ("encoding_format=base64&outputs=embedding", {"normalize": True, "lengths": [3, 1], "sequences": padded}),
    ]
    for query, fields in cases:
        response = client.post(f"/encode?{query}", json={"sequences": PAIR, **fields})
        assert (response.status_code, response.json()["embeddings"]) == (200, expected["embeddings"])


@pytest.fixture(params=["plain", "exact"])
def either(request: pytest.FixtureRequest, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The app, reading JSON by the fast way or by the exact one alone."""
    if request.param == "exact":
        monkeypatch.setattr(ragged, "parse_plain", lambda *_, **__: None)
    return client


@pytest.mark.parametrize(
    ("query", "fields", "status", "detail"),
    [
        ("normalize=2", {}, 422, "normalize is the string '2': expected a valid boolean."),
        ("pooling=max", {}, 422, "'pooling' is not a field of this request"),
        ("model=nothing", {}, 404, "There is no model 'nothing' here"),
        ("model=nothing", {"model": "made"}, 422, "model is 'made' in the body and 'nothing' in the query: expected"),
        ("normalize=true", {"normalize": False}, 422, "normalize is false in the body and true in the query: expected"),
        (
            "outputs=embedding,steps",
            {"outputs": ["embedding"]},
            422,
            "outputs is embedding in the body and embedding,steps in the query: expected the same in both",
        ),
        (
            "encoding_format=float",
            {"encoding_format": "base64"},
            422,
            "encoding_format is 'base64' in the body and 'float' in the query: expected",
        ),
    ],
)
def test_a_query_beside_json_may_not_be_wrong(
    query: str, fields: dict[str, Any], status: int, detail: str, either: TestClient
) -> None:
    """An option that is unknown, or that the body contradicts, is refused, and both places are named."""
    response = either.post(f"/encode?{query}", json={"sequences": PAIR, **fields})
    assert (response.status_code, response.json()["detail"][: len(detail)]) == (status, detail)
    assert response.json()["path"] == ("'pooling'" if "pooling" in query else query.partition("=")[0])


def test_outputs_in_another_order_are_no_contradiction() -> None:
    """Query and body ask for the same outputs, however they are ordered."""
    body = b'{"sequences": [[[1, 2, 3]]], "outputs": ["steps", "embedding"]}'
    query = read_query(b"outputs=embedding,steps")
    options, _ = ragged.parse(body, query, Settings().limits, Bounds())
    assert sorted(options.outputs) == ["embedding", "steps"]
