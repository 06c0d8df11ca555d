"""What an artifact may give and take besides features and embeddings, over HTTP: steps, states, token ids, texts."""

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from starlette.testclient import TestClient
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from export.artifact import Origin, export_encoder, make_samples
from export.graph import GraphOptions
from model.encoder import EncoderConfig, SequenceEncoder
from service.app import create_app
from service.encoder.manifest import METADATA_KEY, Input, Manifest
from service.encoder.session import EncoderSession, open_session
from service.errors import ArtifactError
from service.settings import Settings
from tests.conftest import draw_sequences

pytestmark = pytest.mark.usefixtures("small_grid")

Serve = Callable[[EncoderConfig, GraphOptions], tuple[TestClient, SequenceEncoder]]


@pytest.fixture
def serve_encoder(tmp_path: Path) -> Iterator[Serve]:
    """Export an encoder with random weights, and serve it."""
    with ExitStack() as stack:

        def start(config: EncoderConfig, options: GraphOptions) -> tuple[TestClient, SequenceEncoder]:
            torch.manual_seed(0)
            encoder = SequenceEncoder(config).eval()
            path = tmp_path / "made.onnx"
            export_encoder(encoder, make_samples(config, 9, 9), Origin(name="made"), path, options)
            return stack.enter_context(TestClient(create_app(Settings(model=path)))), encoder

        yield start


def encode(client: TestClient, **body: Any) -> Any:
    """Post a request and return its answer."""
    response = client.post("/encode", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_sequence_sent_in_parts_is_encoded_as_a_whole(cell: Any, serve_encoder: Serve) -> None:
    """Each part starts from the state the one before ended in, and its steps are those of the whole, bit for bit."""
    config = EncoderConfig(features=3, hidden=5, layers=2, bidirectional=False, cell=cell, standardize=False)
    client, _ = serve_encoder(config, GraphOptions(steps=True, state=True, initial_state=True))
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


def test_steps_and_embeddings_come_together_in_any_batch(serve_encoder: Serve) -> None:
    """Steps are as long as their sequence, their mean is the embedding, and base64 holds the same numbers."""
    client, encoder = serve_encoder(EncoderConfig(features=3, hidden=4), GraphOptions(steps=True, state=True))
    sequences = draw_sequences([1, 7, 3])
    asked = {"sequences": [steps.tolist() for steps in sequences], "outputs": ["embedding", "steps", "state"]}
    answer, packed = encode(client, **asked), encode(client, **asked, encoding_format="base64")
    for row, steps in enumerate(sequences):
        found = np.array(answer["steps"][row], dtype=np.float32)
        encoded = encoder.run(torch.from_numpy(steps)[None], torch.tensor([len(steps)]))
        np.testing.assert_allclose(found, encoded.steps[0].detach(), rtol=0, atol=5e-6)  # see export.verify
        np.testing.assert_allclose(found.mean(axis=0), answer["embeddings"][row], rtol=0, atol=1e-6)
        assert base64.b64decode(packed["steps"][row]) == found.astype("<f4").tobytes()
        h = np.array(answer["state"]["h"][row], dtype=np.float32)
        assert h.shape == (1, 2, 4)
        assert base64.b64decode(packed["state"]["h"][row]) == h.astype("<f4").tobytes()
    plain = encode(client, sequences=asked["sequences"])
    assert plain["embeddings"] == answer["embeddings"]
    assert "steps" not in plain


def test_tokens_are_encoded_padded_or_ragged(serve_encoder: Serve) -> None:
    """Ids with zeros behind them are the ids alone; unknown ones are refused with their place."""
    client, encoder = serve_encoder(EncoderConfig(vocabulary=9, hidden=4, pooling="max"), GraphOptions())
    ragged = encode(client, sequences=[[3, 8, 1], [5]])
    assert encode(client, sequences=[[3, 8, 1], [5, 0, 0]])["embeddings"] == ragged["embeddings"]
    assert ragged["lengths"] == [3, 1]
    expected = encoder(torch.tensor([[3, 8, 1]]), torch.tensor([3]))[0].tolist()
    np.testing.assert_allclose(ragged["embeddings"][0], expected, rtol=0, atol=5e-6)
    refused = client.post("/encode", json={"sequences": [[3], [1, 9]]})
    assert (refused.status_code, refused.json()["path"]) == (422, "sequences[1][1]")
    info = client.get("/info").json()["models"][0]
    assert (info["features"], info["vocabulary"], info["reads"], info["outputs"]) == (
        None,
        9,
        ["sequences"],
        ["embedding"],
    )


def test_what_a_model_does_not_have_is_refused(serve_encoder: Serve) -> None:
    """Outputs, states and texts that this artifact lacks get a sentence, not an empty answer."""
    client, _ = serve_encoder(EncoderConfig(features=1, hidden=2), GraphOptions())
    for more, path in (
        ({"outputs": ["embedding", "steps"]}, "outputs"),
        ({"state": {"h": []}}, "state"),
        ({"texts": ["a"]}, "texts"),
    ):
        response = client.post("/encode", json={"sequences": [[[1]]], **more})
        assert (response.status_code, response.json()["path"]) == (422, path)


def add_tokenizer(path: Path, definition: str) -> bytes:
    """Return an artifact's bytes with a tokenizer in its manifest."""
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = Manifest.model_validate_json(entry.value)
    read = Input(kind="text", vocabulary=manifest.input.vocabulary, tokenizer=definition)
    entry.value = manifest.model_copy(update={"input": read}).model_dump_json()
    content: bytes = model.SerializeToString()
    return content


def test_texts_are_encoded_as_their_tokens(serve_encoder: Serve, tmp_path: Path) -> None:
    """A text gives the embedding of its ids; `/info` says that texts may come and leaves the tokenizer out."""
    serve_encoder(EncoderConfig(vocabulary=4, hidden=4), GraphOptions())
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "so": 2, "it": 3}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    path = tmp_path / "text.onnx"
    path.write_bytes(add_tokenizer(tmp_path / "made.onnx", tokenizer.to_str()))
    with TestClient(create_app(Settings(model=path))) as client:
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


def test_states_must_be_alike(serve_encoder: Serve, tmp_path: Path) -> None:
    """A graph whose initial state has another form than its final one is refused at start."""
    config = EncoderConfig(features=1, hidden=2, bidirectional=False, cell="gru")
    serve_encoder(config, GraphOptions(state=True, initial_state=True))
    session = open_session(tmp_path / "made.onnx")
    assert (session.takes_state, session.state_shape, session.state_names) == (True, (1, 1, 2), ["h"])
    content = edit_value(tmp_path / "made.onnx", "initial_h", ["batch", 1, 1, "hidden"])
    with pytest.raises(ArtifactError, match=r"its states .* are not float \[batch, layers, directions, hidden\] alike"):
        EncoderSession(content, "odd.onnx")
