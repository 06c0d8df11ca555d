"""Health, information, and an OpenAPI document that tells the truth."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import onnx
import onnxruntime
import pytest
from openapi_spec_validator import validate
from starlette.testclient import TestClient
from starlette.types import Receive, Scope
from tokenizers import Tokenizer

from service.api import problems
from service.api.routing import DirectRequest
from service.app import create_app
from service.codecs.json import exact
from service.costs.calibrate import COARSE_STEPS
from service.errors import (
    GoldenMismatch,
    LengthwiseError,
    ModelRefused,
    QueueFull,
    StartupError,
    TooManyCalls,
    WorkersBehind,
)
from service.settings import Settings
from tests.api.test_encode import PAIR, REFUSALS, Serve
from tests.conftest import draw_sequences
from tests.encoder.test_session import edit
from tests.made import take


def test_a_started_service_is_live_and_ready(client: TestClient) -> None:
    """Both answer 200 once the app exists: it exists only if its golden vectors were reproduced."""
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"])
def test_a_stuck_service_is_not_live(path: str, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests wait and nothing moves, the orchestrator is told to start it anew."""
    assert client.get(path).status_code == 200
    monkeypatch.setattr(client.app.state.service.engine, "is_stuck", lambda _now: True)  # type: ignore[attr-defined]
    assert client.get(path).status_code == 503


def test_what_a_refused_request_held_is_let_go_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error holds frames by its traceback, and these may hold it: all they hold would wait for the collector."""
    client = serve()
    queues = client.app.state.service.engine.queues  # type: ignore[attr-defined]

    def refuse(*_arguments: object) -> None:
        kept = QueueFull(1.0, 1.0, "seconds", 1.0)
        raise kept

    monkeypatch.setattr(queues, "submit", refuse)

    def find_refusals() -> list[object]:
        return [one for one in gc.get_objects() if type(one) is QueueFull]

    gc.collect()
    gc.disable()
    try:
        others = find_refusals()  # what earlier tests may have kept
        assert client.post("/encode", json={"sequences": PAIR}).status_code == 503
        assert len(find_refusals()) == len(others)
    finally:
        gc.enable()


def test_what_an_answered_request_held_is_let_go_at_once(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cycle holds it: the collector, which the service calls seldom, is never needed for requests."""
    made: list[weakref.ref[DirectRequest]] = []

    class Watched(DirectRequest):
        """A request that is known to the test."""

        def __init__(self, scope: Scope, receive: Receive) -> None:
            super().__init__(scope, receive)
            made.append(weakref.ref(self))

    async def ask() -> list[object]:
        app = create_app(Settings(model=artifact))
        transport = httpx.ASGITransport(app)
        async with (
            app.fallback.router.lifespan_context(app.fallback),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            response = await http.post("/encode", json={"sequences": PAIR})
            assert response.status_code == 200
            return [request() for request in made]

    monkeypatch.setattr("service.api.front.DirectRequest", Watched)
    gc.disable()
    try:
        assert asyncio.run(ask()) == [None]
    finally:
        gc.enable()


def test_an_app_whose_golden_vectors_differ_does_not_exist(artifact: Path, tmp_path: Path) -> None:
    """Readiness cannot be reached with a file that is not the proven one."""

    def spoil(model: onnx.ModelProto) -> None:
        model.graph.node[0].input.reverse()  # mean - x in place of x - mean

    (tmp_path / "spoiled.onnx").write_bytes(edit(artifact, spoil))
    with pytest.raises(GoldenMismatch):
        create_app(Settings(model=tmp_path / "spoiled.onnx"))


def test_info_tells_model_proof_and_every_setting(client: TestClient, artifact: Path) -> None:
    """What is served, on what, how well proven, and each limit in force."""
    info = client.get("/info").json()
    assert info["versions"]["onnxruntime"] == onnxruntime.__version__
    assert set(info["settings"]) == set(Settings.model_fields)
    assert info["settings"]["model"] == str(artifact)
    (model,) = info["models"]
    assert (model["version"], model["names"], model["provider"]) == ("1", ["made", "made@1"], "cpu")
    assert info["default_model"] == "made"
    assert info["refused"] == []
    assert 0 <= model["memory_bytes"] < 2**30
    assert (model["name"], model["features"], model["dim"], model["verified"]) == ("made", 3, 16, True)
    assert model["golden_difference"] <= 1e-5
    assert all(check["max_difference"] <= check["tolerance"] for check in model["manifest"]["parity"])
    assert "golden" not in model["manifest"]


def test_info_tells_what_was_measured(client: TestClient) -> None:
    """The choice of runners and threads with the figures behind it, and predicted against actual run times."""
    before = client.get("/info").json()["models"][0]["performance"]
    assert before["runners"] >= 1
    assert before["arrangements"][0]["runners"] == before["runners"]
    assert before["shapes_measured"] >= len(COARSE_STEPS)
    assert (before["runs"], before["waiting_sequences"], before["wait_seconds"]) == (0, 0, 0)
    client.post("/encode", json={"sequences": PAIR})
    after = client.get("/info").json()["models"][0]["performance"]
    assert after["runs"] >= 1
    assert (after["correction"], after["loaded_correction"]) != (1, 1)  # of a lone runner's run the second
    assert after["prediction_error"] > 0


def test_info_says_when_nothing_was_verified(artifact: Path, tmp_path: Path) -> None:
    """A file without manifest is served under its own name, and `/info` owns up."""
    (tmp_path / "plain.onnx").write_bytes(edit(artifact, lambda model: model.ClearField("metadata_props")))
    with TestClient(create_app(Settings(model=tmp_path / "plain.onnx"))) as client:
        model = client.get("/info").json()["models"][0]
        assert (model["name"], model["verified"], model["manifest"]) == ("plain", False, None)
        assert client.post("/encode", json={"sequences": PAIR, "model": "plain"}).status_code == 200


def test_the_docs_page_is_there(client: TestClient) -> None:
    """`/docs` shows the OpenAPI document."""
    assert "openapi.json" in client.get("/docs").text


@pytest.fixture
def document(serve: Serve) -> Any:
    """The OpenAPI document as clients get it, if there are admins."""
    return serve(admin_key="a-key-of-admins-only").get("/openapi.json").json()


def test_the_openapi_document_is_valid(document: Any) -> None:
    """It satisfies the OpenAPI schema, and each operation has an id of its own."""
    validate(document)
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    names = ("infer", "model", "model_ready", "model_stats")
    versioned = [f"v2_{name}{suffix}" for name in names for suffix in ("", "_version")]
    openai = ["create_embeddings", "get_model", "list_models"]
    clouds = ["invocations", "ping", "v1_predict"]
    assert sorted(ids) == sorted(
        [
            "debug_batches",
            "encode",
            "info",
            "live",
            "metrics",
            "ready",
            *openai,
            *clouds,
            "v2_live",
            "tokenizer",
            "v2_models",
            "v2_ready",
            "v2_repository_index",
            "v2_repository_load",
            "v2_repository_unload",
            "v2_server",
            "v2_stats",
            *versioned,
        ]
    )


def test_a_tokenizer_is_told_of_a_model_that_reads_texts(serve: Serve, tmp_path: Path) -> None:
    """Its ids are those that the service makes; a model of numbers has none, and an unknown one is named."""
    with TestClient(create_app(Settings(model=take("texts", tmp_path / "texts.onnx")))) as client:
        response = client.get("/tokenizer")
        assert response.headers["x-model-sha"] == client.get("/info").json()["models"][0]["sha256"]
        ids = Tokenizer.from_str(response.text).encode("so it goes").ids
        asked = ({"texts": ["so it goes"]}, {"sequences": [ids]})
        answers = [client.post("/encode", json=body).json()["embeddings"] for body in asked]
        assert client.get("/tokenizer", params={"model": "other"}).status_code == 404
    assert answers[0] == answers[1]
    assert serve().get("/tokenizer").json() is None


def test_every_problem_is_in_the_table_and_the_document(document: Any) -> None:
    """Each request error has an answer, and `/encode` documents all but those of admins and of gRPC."""

    def leaves(kind: type[LengthwiseError]) -> set[type[LengthwiseError]]:
        below = kind.__subclasses__()
        return set().union(*map(leaves, below)) if below else {kind}

    request_errors = leaves(LengthwiseError) - leaves(StartupError)
    assert set(problems.REFUSALS) == request_errors
    responses = document["paths"]["/encode"]["post"]["responses"]
    documented = {
        slug
        for response in responses.values()
        for slug in response["content"].get(problems.MEDIA_TYPE, {}).get("examples", {})
    }
    elsewhere = {ModelRefused, WorkersBehind, TooManyCalls}
    assert documented == {problems.name_problem(kind) for kind in request_errors - elsewhere}


@pytest.mark.parametrize("slug", REFUSALS)
def test_refusals_are_as_documented(slug: str, document: Any, serve: Callable[..., TestClient]) -> None:
    """A real refusal has a documented status, media type and example, and only documented fields."""
    client = serve(max_body_bytes=2000, max_sequence_steps=5, max_request_steps=12)
    body, _, _ = REFUSALS[slug]
    response = client.post("/encode", content=body, headers={"Content-Type": "application/json"})
    documented = document["paths"]["/encode"]["post"]["responses"][str(response.status_code)]
    media = documented["content"][response.headers["content-type"]]
    problem, example = response.json(), media["examples"][slug]["value"]
    assert (problem["type"], problem["title"]) == (example["type"], example["title"])
    schema = document["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
    assert set(schema["required"]) <= set(problem) <= set(schema["properties"])


def test_answers_are_as_documented(document: Any, client: TestClient) -> None:
    """The documented example is accepted in form, and the answer has the documented fields and headers."""
    response = client.post("/encode", json={"sequences": [steps.tolist() for steps in draw_sequences([2])]})
    documented = document["paths"]["/encode"]["post"]["responses"]["200"]
    schema = document["components"]["schemas"]["EncodeResponse"]
    assert (
        set(schema["required"]) | {"embeddings"}
        == set(response.json())
        == set(schema["properties"]) - {"steps", "state", "prediction"}
    )
    assert {name.lower() for name in documented["headers"]} <= set(response.headers)
    request = document["components"]["schemas"]["EncodeRequest"]
    assert set(request["properties"]) == set(exact.FIELDS)
    assert request["anyOf"] == [{"required": ["sequences"]}, {"required": ["texts"]}]
