"""What an artifact that carries its head predicts, over every wire that holds more than embeddings."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from starlette.testclient import TestClient

from service.api.encoding import ROW_BYTES
from service.app import create_app
from service.encoder.manifest import METADATA_KEY, Prediction
from service.encoder.prediction import SHOWN_TOKENS, Predictor
from service.encoder.session import EncoderSession, open_session
from service.errors import ArtifactError
from service.settings import Settings
from tests import oracle
from tests.conftest import ARTIFACTS, draw_sequences

Serve = Callable[[str], TestClient]
SEQUENCES = draw_sequences([1, 7, 3])
BODY = {"sequences": [steps.tolist() for steps in SEQUENCES]}


@pytest.fixture
def serve_kind() -> Iterator[Serve]:
    """Serve the artifact of a kind."""
    with ExitStack() as stack:

        def start(kind: str) -> TestClient:
            return stack.enter_context(TestClient(create_app(Settings(model=ARTIFACTS / f"{kind}.onnx"))))

        yield start


def expect_logits(kind: str) -> npt.NDArray[np.float64]:
    """Return the logits of `SEQUENCES` by a numpy loop over the artifact's own weights."""
    weights = oracle.read_weights(ARTIFACTS / f"{kind}.onnx")
    embeddings = np.stack([oracle.encode(weights, steps) for steps in SEQUENCES])
    return embeddings @ weights["head.weight"].astype(np.float64) + weights["head.bias"]


def predict(client: TestClient, **body: Any) -> Any:
    """Post a request and return its answer."""
    response = client.post("/encode", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_class_comes_with_the_probability_of_each(serve_kind: Serve) -> None:
    """They are those of the head over the sequence's embedding, alone and in any batch to the last digit."""
    client = serve_kind("classes")
    answer = predict(client, **BODY, outputs=["embedding", "prediction"])
    logits = expect_logits("classes")
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for found, row, steps in zip(answer["prediction"], expected, BODY["sequences"], strict=True):
        assert found["label"] == ("no", "yes", "perhaps")[row.argmax()]
        assert list(found["scores"]) == ["no", "yes", "perhaps"]
        np.testing.assert_allclose(list(found["scores"].values()), row, rtol=0, atol=5e-6)  # see export.verify
        assert predict(client, sequences=[steps], outputs=["prediction"])["prediction"] == [found]
    assert answer["embeddings"] == predict(client, **BODY)["embeddings"]
    assert client.get("/info").json()["models"][0]["outputs"] == ["embedding", "prediction"]


def test_a_number_comes_in_the_units_of_the_targets(serve_kind: Serve) -> None:
    """The scaling that training learns in is undone inside the graph; nothing but the number is answered."""
    answer = predict(serve_kind("numbers"), **BODY, outputs=["prediction"])
    np.testing.assert_allclose(answer["prediction"], expect_logits("numbers")[:, 0], rtol=5e-6)
    assert "embeddings" not in answer


def test_the_next_token_comes_by_its_name(serve_kind: Serve) -> None:
    """Texts are answered by texts, the likeliest first, and padding has no chance."""
    answer = predict(serve_kind("next-tokens"), texts=["so it", "it"], outputs=["prediction"])
    for found in answer["prediction"]:
        scores = found["scores"]
        assert set(scores) == {"[PAD]", "[UNK]", "so", "it"}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert found["label"] == next(iter(scores))
        assert scores["[PAD]"] == 0
        assert sum(scores.values()) == pytest.approx(1, abs=1e-6)


def test_of_a_vocabulary_only_the_likeliest_are_told() -> None:
    """Ids without a tokenizer are named by their numbers."""
    logits = np.zeros((1, 500), dtype=np.float32)
    logits[0, 321] = 9.0
    (found,) = Predictor(Prediction(kind="token"), 500).describe(logits)
    assert found["label"] == "321"
    assert len(found["scores"]) == SHOWN_TOKENS


def test_v2_gives_the_logits_as_a_tensor(serve_kind: Serve) -> None:
    """It is described with the others, given if nothing is said of outputs, and may be asked for alone."""
    client = serve_kind("classes")
    outputs = client.get("/v2/models/made").json()["outputs"]
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, 3]} in outputs
    steps = SEQUENCES[1]
    tensor = {"name": "sequences", "datatype": "FP32", "shape": [1, *steps.shape], "data": steps.ravel().tolist()}
    for asked in ({}, {"outputs": [{"name": "logits"}]}):
        answer = client.post("/v2/models/made/infer", json={"inputs": [tensor], **asked}).json()
        named = {output["name"]: output for output in answer["outputs"]}
        assert set(named) == ({"logits"} if asked else {"embedding", "logits"})
        np.testing.assert_allclose(named["logits"]["data"], expect_logits("classes")[1], rtol=0, atol=5e-6)


@pytest.mark.parametrize("accept", ["application/x-npy", "application/vnd.apache.arrow.stream"])
def test_formats_of_embeddings_alone_refuse_predictions(accept: str, serve_kind: Serve) -> None:
    """The sentence names what holds them."""
    headers = {"Accept": accept}
    response = serve_kind("classes").post("/encode?outputs=prediction", json=BODY, headers=headers)
    assert (response.status_code, response.json()["path"]) == (422, "outputs")


def test_a_model_without_a_head_refuses_to_predict(serve_kind: Serve) -> None:
    """It names what it gives instead."""
    response = serve_kind("triples").post("/encode", json={**BODY, "outputs": ["prediction"]})
    assert (response.status_code, response.json()["path"]) == (422, "outputs")
    assert "gives embedding" in response.json()["detail"]


def test_requests_for_embeddings_and_predictions_share_their_batches(serve_kind: Serve) -> None:
    """What a mate asks for changes nothing: base64 holds the embedding, and the prediction stands beside it."""
    client = serve_kind("classes")
    packed = predict(client, **BODY, outputs=["embedding", "prediction"], encoding_format="base64")
    plain = predict(client, **BODY, outputs=["embedding", "prediction"])
    assert packed["prediction"] == plain["prediction"]
    assert isinstance(packed["embeddings"][0], str)


def change_manifest(kind: str, **changes: Any) -> bytes:
    """Return an artifact's bytes with other fields in its manifest."""
    model = onnx.load(ARTIFACTS / f"{kind}.onnx")
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | changes)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [
        ("classes", {"kind": "class", "labels": ["no", "yes"]}),
        ("classes", {"kind": "number"}),
        ("triples", {"kind": "number"}),
        ("numbers", {"kind": "token"}),
    ],
)
def test_a_manifest_that_promises_other_predictions_is_refused(kind: str, prediction: dict[str, Any]) -> None:
    """Graph and manifest must agree on what is predicted, or the artifact is not served."""
    with pytest.raises(ArtifactError, match="its manifest says that it predicts"):
        EncoderSession(change_manifest(kind, prediction=prediction), "odd.onnx")


def test_logits_that_nothing_is_said_of_are_left_alone() -> None:
    """A graph of another tool may have an output of that name: only embeddings are served of it."""
    session = EncoderSession(change_manifest("classes", prediction=None), "foreign.onnx")
    assert session.outputs == ("embedding",)
    assert session.predictor is None


def test_a_large_answer_is_foreseen() -> None:
    """The bytes of a prediction in JSON are no more than what is counted for it."""
    session = open_session(ARTIFACTS / "classes.onnx")
    assert session.predictor is not None
    written = json.dumps(session.predictor.describe(np.zeros((1, 3), np.float32)), default=float)
    assert len(written) <= session.predictor.row_bytes + ROW_BYTES
