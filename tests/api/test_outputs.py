"""What an artifact may give and take besides features and embeddings, over HTTP: steps, states, token ids, texts."""

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.encoder.session import EncoderSession, open_session
from service.errors import ArtifactError
from service.settings import Settings
from tests import oracle
from tests.conftest import ARTIFACTS, draw_sequences

Serve = Callable[[str], TestClient]


@pytest.fixture
def serve_kind() -> Iterator[Serve]:
    """Serve the artifact of a kind."""
    with ExitStack() as stack:

        def start(kind: str) -> TestClient:
            return stack.enter_context(TestClient(create_app(Settings(model=ARTIFACTS / f"{kind}.onnx"))))

        yield start


def encode(client: TestClient, **body: Any) -> Any:
    """Post a request and return its answer."""
    response = client.post("/encode", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_sequence_sent_in_parts_is_encoded_as_a_whole(cell: Any, serve_kind: Serve) -> None:
    """Each part starts from the state the one before ended in, and its steps are those of the whole, bit for bit."""
    client = serve_kind(f"parts-{cell}")
    sequences = [steps.tolist() for steps in draw_sequences([9, 6])]
    whole = encode(client, sequences=sequences, outputs=["steps", "state"])
    first = encode(client, sequences=[steps[:4] for steps in sequences], outputs=["steps", "state"])
    second = encode(
        client, sequences=[steps[4:] for steps in sequences], outputs=["steps", "state"], state=first["state"]
    )
    for row in range(2):
        assert first["steps"][row] + second["steps"][row] == whole["steps"][row]
    assert second["state"] == whole["state"]
    assert set(whole["state"]) == ({"h", "c"} if cell == "lstm" else {"h"})
    assert "embeddings" not in whole


def test_each_direction_starts_from_the_state_it_is_given(serve_kind: Serve) -> None:
    """The first is forward's, as `initial_state_fw`; the second, backward's, is met at a row's own last step."""
    client = serve_kind("parts-both")
    sequences = [steps.tolist() for steps in draw_sequences([6, 2])]
    zero = np.zeros((2, 1, 2, 4))
    plain = encode(client, sequences=sequences, outputs=["steps"])["steps"]
    for place, own, end in ((0, slice(0, 4), 0), (1, slice(4, 8), -1)):
        h = zero.copy()
        h[:, :, place] = 0.5
        state = {"h": h.tolist(), "c": zero.tolist()}
        found = encode(client, sequences=sequences, outputs=["steps"], state=state)["steps"]
        for before, after in zip(plain, found, strict=True):
            change = np.abs(np.array(after) - np.array(before))
            assert change[end, own].min() > 0
            assert change[end].sum() > change[-1 - end].sum()  # it wears off on the way to the other end
            assert np.delete(change, own, axis=1).max() == 0


def test_steps_and_embeddings_come_together_in_any_batch(serve_kind: Serve) -> None:
    """Steps are as long as their sequence, their mean is the embedding, and base64 holds the same numbers."""
    client, weights = serve_kind("triples-steps"), oracle.read_weights(ARTIFACTS / "triples-steps.onnx")
    sequences = draw_sequences([1, 7, 3])
    asked = {"sequences": [steps.tolist() for steps in sequences], "outputs": ["embedding", "steps", "state"]}
    answer, packed = encode(client, **asked), encode(client, **asked, encoding_format="base64")
    for row, steps in enumerate(sequences):
        found = np.array(answer["steps"][row], dtype=np.float32)
        np.testing.assert_allclose(found, oracle.run_layers(weights, steps), rtol=0, atol=5e-6)  # see export.verify
        np.testing.assert_allclose(found.mean(axis=0), answer["embeddings"][row], rtol=0, atol=1e-6)
        assert base64.b64decode(packed["steps"][row]) == found.astype("<f4").tobytes()
        h = np.array(answer["state"]["h"][row], dtype=np.float32)
        assert h.shape == (1, 2, 4)
        assert base64.b64decode(packed["state"]["h"][row]) == h.astype("<f4").tobytes()
    plain = encode(client, sequences=asked["sequences"])
    assert plain["embeddings"] == answer["embeddings"]
    assert "steps" not in plain


def test_tokens_are_encoded_padded_or_ragged(serve_kind: Serve) -> None:
    """Ids with zeros behind them are the ids alone; unknown ones are refused with their place."""
    client = serve_kind("tokens")
    ragged = encode(client, sequences=[[3, 8, 1], [5]])
    assert encode(client, sequences=[[3, 8, 1], [5, 0, 0]])["embeddings"] == ragged["embeddings"]
    assert ragged["lengths"] == [3, 1]
    outputs = oracle.run_layers(oracle.read_weights(ARTIFACTS / "tokens.onnx"), np.array([3, 8, 1]))
    np.testing.assert_allclose(ragged["embeddings"][0], outputs.max(axis=0), rtol=0, atol=5e-6)  # as it pools
    refused = client.post("/encode", json={"sequences": [[3], [1, 9]]})
    assert (refused.status_code, refused.json()["path"]) == (422, "sequences[1][1]")
    info = client.get("/info").json()["models"][0]
    assert (info["features"], info["vocabulary"], info["reads"], info["outputs"]) == (
        None,
        9,
        ["sequences"],
        ["embedding"],
    )


def test_what_a_model_does_not_have_is_refused(serve_kind: Serve) -> None:
    """Outputs, states and texts that this artifact lacks get a sentence, not an empty answer."""
    client = serve_kind("singles")
    for more, path in (
        ({"outputs": ["embedding", "steps"]}, "outputs"),
        ({"state": {"h": []}}, "state"),
        ({"texts": ["a"]}, "texts"),
    ):
        response = client.post("/encode", json={"sequences": [[[1]]], **more})
        assert (response.status_code, response.json()["path"]) == (422, path)


def test_texts_are_encoded_as_their_tokens(serve_kind: Serve) -> None:
    """A text gives the embedding of its ids; `/info` says that texts may come and leaves the tokenizer out."""
    client = serve_kind("texts")
    answer = encode(client, texts=["so it goes", "it"])
    assert answer["embeddings"] == encode(client, sequences=[[2, 3, 1], [3]])["embeddings"]
    model = client.get("/info").json()["models"][0]
    assert model["reads"] == ["sequences", "texts"]
    assert "tokenizer" not in model["manifest"]["input"]


def edit_value(path: Path, name: str, shape: list[int | str]) -> bytes:
    """Return an artifact's bytes with another shape declared for an input, and no manifest."""
    model = onnx.load(path)
    del model.metadata_props[:]
    (value,) = (value for value in model.graph.input if value.name == name)
    value.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    content: bytes = model.SerializeToString()
    return content


def test_states_must_be_alike() -> None:
    """A graph whose initial state has another form than its final one is refused at start."""
    path = ARTIFACTS / "parts-gru.onnx"
    session = open_session(path)
    assert (session.takes_state, session.state_shape, session.state_names) == (True, (2, 1, 5), ["h"])
    content = edit_value(path, "initial_h", ["batch", 2, 1, "hidden"])
    with pytest.raises(ArtifactError, match=r"its states .* are not float \[batch, layers, directions, hidden\] alike"):
        EncoderSession(content, "odd.onnx")
