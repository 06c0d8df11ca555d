"""What managed clouds call, in process and through a socket: SageMaker, Vertex AI and KServe's first version."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import StartupError
from service.settings import Settings, variable_of
from tests.api.test_encode import PAIR, Serve, embed
from tests.api.test_monitoring import Scrape
from tests.conftest import ARTIFACTS
from tests.listening import listen
from tests.made import take

# What Vertex AI tells a container that serves one model of an endpoint.
HEALTH = "/v1/endpoints/12/deployedModels/34"
PREDICT = f"{HEALTH}:predict"
PATH = "/v1/models/made:predict"


def predict(client: TestClient, body: object, path: str = PATH) -> Any:
    """Post a body; return the predictions."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    (predictions,) = response.json().values()
    return predictions


def test_sagemaker_is_answered_as_encode_is(client: TestClient) -> None:
    """`/ping` says that requests may be sent, `/invocations` takes and gives what `/encode` does, in any format."""
    assert client.get("/ping").json() == {"status": "ready"}
    body = {"sequences": PAIR, "normalize": True}
    native, invoked = (client.post(path, json=body) for path in ("/encode", "/invocations"))
    assert invoked.json()["embeddings"] == native.json()["embeddings"]
    wanted = {"Accept": "application/x-npy"}
    assert client.post("/invocations", json=body, headers=wanted).content[:6] == b"\x93NUMPY"


def test_ping_follows_readiness(client: TestClient) -> None:
    """While the service drains, `/ping` is 503, and so is the path that Vertex AI asks."""
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    assert client.get("/ping").status_code == 503


def test_an_instance_gives_a_prediction(client: TestClient) -> None:
    """Predictions are the embeddings of `/encode`, in order, and what other servers know is passed over."""
    assert predict(client, {"instances": PAIR}) == embed(client, PAIR)
    assert predict(client, {"instances": PAIR, "signature_name": "any", "parameters": None}) == embed(client, PAIR)
    scaled = predict(client, {"instances": PAIR, "parameters": {"normalize": True}})
    assert scaled == embed(client, PAIR, normalize=True)


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """The service of another artifact, named by the test's parameter."""
    with TestClient(create_app(Settings(model=ARTIFACTS / request.param))) as client:
        yield client


@pytest.mark.parametrize("other", ["texts.onnx"], indirect=True)
def test_texts_are_instances_too(other: TestClient) -> None:
    """A model with a tokenizer takes strings, and only strings beside them."""
    client, name = other, other.get("/v1/models").json()["models"][0]
    path = f"/v1/models/{name}:predict"
    texts = ["one text", "another"]
    native = client.post("/encode", json={"texts": texts}).json()["embeddings"]
    assert predict(client, {"instances": texts}, path) == native
    response = client.post(path, json={"instances": ["one", [1, 2]]})
    assert (response.status_code, "instances[1]" in response.json()["error"]) == (400, True)


@pytest.mark.parametrize("other", ["parts-lstm.onnx"], indirect=True)
def test_predictions_hold_what_is_asked_for(other: TestClient) -> None:
    """With other outputs than the embedding a prediction is an object of them, in decimal or base64."""
    client, (model,) = other, other.get("/info").json()["models"]
    sequences = np.random.default_rng(0).random((2, 3, model["features"])).round(3).tolist()
    sequences[1].pop()
    outputs = ["embedding", "steps", "state"]
    for form in ("float", "base64"):
        options = {"outputs": outputs, "encoding_format": form}
        native = client.post("/encode", json={"sequences": sequences, **options}).json()
        body = {"instances": sequences, "parameters": options}
        first, second = predict(client, body, f"/v1/models/{model['name']}:predict")
        assert (first["embedding"], second["embedding"]) == tuple(native["embeddings"])
        assert (first["steps"], second["steps"]) == tuple(native["steps"])
        assert first["state"] == {name: rows[0] for name, rows in native["state"].items()}
        assert second["state"] == {name: rows[1] for name, rows in native["state"].items()}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "instances is missing"),
        ({"instances": []}, "at least one sequence"),
        ({"instances": "text"}, "instances is the string"),
        ({"instances": [{"values": [1]}]}, "instances[0]"),
        ({"instances": [[[0.1, 0.2, "x"]]]}, "instances[0][0][2]"),
        ({"instances": PAIR, "parameters": {"normalise": True}}, "expected one of model, outputs, normalize, "),
        ({"instances": PAIR, "parameters": {"outputs": ["all"]}}, "parameters.outputs[0]"),
        ({"instances": PAIR, "parameters": {"model": "other"}}, "'other' in the body and 'made' in the path"),
        ({"instances": ["text"]}, "instances asks for a tokenizer"),
    ],
)
def test_a_faulty_body_is_told_by_its_place(client: TestClient, body: object, words: str) -> None:
    """The answer is 400 and KServe's own shape of error."""
    response = client.post(PATH, json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_an_unknown_model_and_a_long_request_are_refused(serve: Serve) -> None:
    """As in other dialects: 404 with the names there are, 413 with the setting."""
    client = serve(max_request_steps=3, max_sequence_steps=3)
    unknown = client.post("/v1/models/other:predict", json={"instances": PAIR})
    assert (unknown.status_code, "made" in unknown.json()["error"]) == (404, True)
    long = client.post(PATH, json={"instances": PAIR})
    assert (long.status_code, "LENGTHWISE_MAX_REQUEST_STEPS" in long.json()["error"]) == (413, True)
    texts = client.post(PATH, json={"instances": ["a"] * 4})
    assert texts.status_code == 413


def test_openais_list_of_models_is_kserves_too(client: TestClient) -> None:
    """Both ask `/v1/models`: one answer has what each looks for."""
    assert client.get("/v1/models").json()["models"] == ["made"]
    model = client.get("/v1/models/made").json()
    assert (model["name"], model["ready"], model["id"], model["object"]) == ("made", True, "made", "model")


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that Vertex AI sets."""
    for name, value in {"HTTP_PORT": "8080", "HEALTH_ROUTE": HEALTH, "PREDICT_ROUTE": PREDICT}.items():
        monkeypatch.setenv(f"AIP_{name}", value)


@pytest.mark.usefixtures("vertex")
def test_vertex_ai_names_port_and_paths(artifact: Path) -> None:
    """Through a socket: health and predictions at the paths of its variables, counted under them, and documented."""
    settings = Settings(model=artifact)
    assert settings.port == 8080
    assert CliApp.run(Settings, cli_args=["--port", "9000"]).port == 9000
    with listen(create_app(settings)) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert client.get(HEALTH).json() == {"status": "ready"}
        native = client.post("/encode", json={"sequences": PAIR}).json()["embeddings"]
        assert client.post(PREDICT, json={"instances": PAIR}).json() == {"predictions": native}
        assert client.post(PREDICT, json={"instances": [[]]}).json()["error"].startswith("instances[0]")
        assert (
            client.get("/ping").status_code == client.post("/invocations", json={"sequences": PAIR}).status_code == 200
        )
        paths = client.get("/openapi.json").json()["paths"]
        assert {"get", "post"} == {*paths[HEALTH], *paths[PREDICT]}
        assert f'route="{PREDICT}"' in client.get("/metrics").text


def test_a_prediction_is_counted_and_limited_as_others_are(serve: Serve) -> None:
    """The route has its counts, and a deadline that cannot be met is refused."""
    client = serve()
    predict(client, {"instances": PAIR})
    late = client.post(PATH, json={"instances": PAIR}, headers={"X-Request-Timeout-Ms": "0"})
    assert late.status_code == 400
    scrape = Scrape(client)
    assert scrape.read("requests_total", route="/v1/models/{model}:predict", code="200") == 1
    assert scrape.read("steps_total", kind="valid") == 4


def test_a_named_path_may_say_the_model(tmp_path: Path) -> None:
    """With several models and no default, `parameters` names one; without, the answer names those there are."""
    for name in ("one", "two"):
        take("pairs", tmp_path / f"{name}.onnx", name=name)
    settings = Settings(models=tmp_path, predict_route="/score")
    with TestClient(create_app(settings)) as client:
        sequences = [[[0.5, 0.25]]]
        body = {"instances": sequences, "parameters": {"model": "two"}}
        assert client.post("/score", json=body).status_code == 200
        refused = client.post("/score", json={"instances": sequences})
        assert (refused.status_code, "one" in refused.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("setting", "path"), [("predict_route", "/encode"), ("health_route", "/metrics"), ("health_route", "/info")]
)
def test_a_path_that_is_taken_is_refused_at_the_start(artifact: Path, setting: str, path: str) -> None:
    """The sentence names the setting; a path that tells of health already is left as it is."""
    with pytest.raises(StartupError) as caught:
        create_app(Settings(model=artifact, **{setting: path}))  # type: ignore[arg-type]
    assert caught.value.tell(variable_of).startswith(f"{variable_of(setting)} is {path}, and ")
    with TestClient(create_app(Settings(model=artifact, health_route="/health/ready"))) as client:
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("path", ["predict", "/a b", "/{model}", ""])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    """It begins with a slash, and has no space and no braces."""
    with pytest.raises(ValidationError):
        Settings(predict_route=path)


def test_instances_are_read_the_same_fast_and_exactly(client: TestClient) -> None:
    """A body with parameters is read by the exact reader, one without by the fast one; both give the same bits."""
    plain = client.post(PATH, content=json.dumps({"instances": PAIR})).content
    exact = client.post(PATH, content=json.dumps({"instances": PAIR, "parameters": {}})).content
    assert plain == exact
