"""The encoder that ships: small, what its card says, and served as torch computes it on every real sequence."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from starlette.testclient import TestClient

from export.graph import build_graph
from model.data.datasets import Dataset
from model.data.named import japanese_vowels
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from service.app import create_app
from service.encoder.manifest import METADATA_KEY, Manifest
from service.encoder.sequences import Embeddings, pad_batch
from service.encoder.session import EncoderSession, open_session
from service.settings import SHIPPED_MODEL, Settings
from tests import oracle
from tests.server.test_server import same_bits

CARD = SHIPPED_MODEL.with_suffix(".md")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """JapaneseVowels."""
    return japanese_vowels()


@pytest.fixture(scope="module")
def session() -> EncoderSession:
    """The shipped encoder, loaded."""
    return open_session(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def alone(session: EncoderSession, dataset: Dataset) -> Embeddings:
    """The embedding of each of the 370 test utterances, run alone."""
    return np.concatenate([session.run(pad_batch([steps])) for steps in dataset.test.sequences])


def test_it_is_small_and_verified(session: EncoderSession) -> None:
    """Well under 1 MiB, with a manifest whose proof holds and golden vectors that are reproduced."""
    assert SHIPPED_MODEL.stat().st_size < 0.8 * 2**20
    assert session.manifest is not None
    assert all(check.holds for check in session.manifest.parity)
    assert (session.replay_golden() or 0.0) <= 1e-5


def rebuild(path: Path) -> SequenceEncoder:
    """Build the torch encoder an artifact was exported from, from the file alone."""
    model = onnx.load(path)
    (manifest,) = (entry.value for entry in model.metadata_props if entry.key == METADATA_KEY)
    config = EncoderConfig(**Manifest.model_validate_json(manifest).encoder)
    weights = oracle.read_weights(path)
    state: dict[str, torch.Tensor] = {}
    for kind in ("mean", "std"):
        state[f"standardization.{kind}"] = torch.from_numpy(weights[f"standardization.{kind}"].copy())
        state[f"slope_standardization.{kind}"] = torch.from_numpy(weights[f"slopes.{kind}"].copy())
    for layer in range(config.layers):
        for place, direction in enumerate(("ahead", "behind")):
            w, r, b = (weights[f"layer{layer}.{letter}"][place] for letter in "WRB")
            named = {"weight_ih": w, "weight_hh": r, "bias_ih": np.split(b, 2)[0], "bias_hh": np.split(b, 2)[1]}
            for name, array in named.items():
                i, o, f, c = np.split(array, 4)
                state[f"layers.{layer}.{direction}.{name}_l0"] = torch.from_numpy(np.concatenate([i, f, c, o]))
    encoder = SequenceEncoder(config)
    encoder.load_state_dict(state)
    return encoder.eval()


def test_its_graph_is_the_one_an_export_writes_today() -> None:
    """What encoders can do beside costs it nothing: node by node and bit for bit it is what it was."""
    assert (
        onnx.load(SHIPPED_MODEL).graph.SerializeToString()
        == build_graph(rebuild(SHIPPED_MODEL)).graph.SerializeToString()
    )


def test_torch_and_the_served_session_agree_on_every_real_sequence(alone: Embeddings, dataset: Dataset) -> None:
    """Over all 370 test utterances no number differs by more than 2e-6 from torch, alone or in mixed batches."""
    encoder = rebuild(SHIPPED_MODEL)
    batch = pad_batch(dataset.test.sequences)
    with torch.inference_mode():
        together = encoder(torch.from_numpy(batch.steps), torch.from_numpy(batch.lengths)).numpy()
        single = [
            encoder(torch.from_numpy(steps)[None], torch.tensor([len(steps)])) for steps in dataset.test.sequences
        ]
    assert np.abs(alone - together).max() <= 2e-6
    assert np.abs(alone - torch.cat(single).numpy()).max() <= 2e-6


def test_the_oracle_agrees_on_every_real_sequence(alone: Embeddings, dataset: Dataset) -> None:
    """So does a numpy loop over the file's own weights, within what float32 loses to float64."""
    weights = oracle.read_weights(SHIPPED_MODEL)
    outputs = [oracle.run_layers(weights, steps) for steps in dataset.test.sequences]
    expected = np.stack([np.concatenate([steps.mean(axis=0), steps.std(axis=0)]) for steps in outputs])
    assert np.abs(alone - expected).max() <= 5e-6


@pytest.mark.parametrize("size", [2, 7, 32, 370])
def test_no_batch_changes_a_real_sequence(
    size: int, session: EncoderSession, alone: Embeddings, dataset: Dataset
) -> None:
    """In batches of any size and order, each embedding is the same to the last bit."""
    rows = np.random.default_rng(size).permutation(len(alone))
    for part in np.split(rows, range(size, len(rows), size)):
        batch = pad_batch([dataset.test.sequences[row] for row in part])
        assert session.run(batch).tobytes() == alone[part].tobytes()


def test_the_recorded_metrics_are_those_of_the_file(
    session: EncoderSession, alone: Embeddings, dataset: Dataset
) -> None:
    """The nearest-neighbour accuracy in the manifest is what these embeddings give."""
    assert session.manifest is not None
    assert session.manifest.task is not None
    train = np.concatenate([session.run(pad_batch([steps])) for steps in dataset.train.sequences])
    neighbour = KNeighborsClassifier(1).fit(train, dataset.train.labels)
    found = neighbour.score(alone, dataset.test.labels)
    # Embeddings differ from torch's in the last bits, which can tip a tie between two neighbours.
    assert found == pytest.approx(session.manifest.task.metrics["nearest_neighbour"], abs=1.5 / 370)


def test_the_card_is_of_this_file(session: EncoderSession) -> None:
    """It names the weights' hash and the test accuracy the manifest records."""
    assert session.manifest is not None
    assert session.manifest.task is not None
    card = CARD.read_text(encoding="utf-8")
    assert session.manifest.weights_sha256 in card
    assert f"{session.manifest.task.metrics['accuracy']:.4f}" in card


def test_the_example_request_is_answered_by_default() -> None:
    """The request README shows gives two embeddings from the shipped encoder, as they would be alone."""
    request = json.loads(Path("examples/two-utterances.json").read_text(encoding="utf-8"))
    with TestClient(create_app(Settings())) as client:
        answer = client.post("/encode", json=request).json()
        singles = [client.post("/encode", json={"sequences": [steps]}).json() for steps in request["sequences"]]
    assert answer["lengths"] == [19, 7]
    assert len(answer["embeddings"]) == 2
    for embedding, single in zip(answer["embeddings"], singles, strict=True):
        assert same_bits(single["embeddings"][0], np.array(embedding, dtype=np.float32))
