"""The language model, the counts it must beat, and its scores from a state."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from starlette.testclient import TestClient

from export.artifact import export_run
from export.graph import GraphOptions
from model.data.batches import SequenceSet
from model.data.datasets import Dataset, LabelledSequences
from model.data.texts import build_tokenizer
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.language import LanguageModel
from model.tasks.ngrams import Bigrams, Unigrams, estimate_discount, measure_perplexity
from model.training.fit import train
from model.training.recipe import DataConfig, Recipe
from model.training.run_directory import RunConfig, read_model, read_samples, start_run, write_result
from service.app import create_app
from service.settings import Settings

VOCABULARY = 7
A, B, C = 2, 3, 4  # as `build_tokenizer` numbers them
TIED = EncoderConfig(vocabulary=VOCABULARY, embedding=16, hidden=16, layers=2, bidirectional=False, pooling="last")
UNTIED = EncoderConfig(vocabulary=VOCABULARY, embedding=3, hidden=16, bidirectional=False, pooling="last")


def draw_cycles(count: int, seed: int) -> LabelledSequences:
    """Draw sequences in which a token follows from the two before it, and only half from the last one."""
    draw = np.random.default_rng(seed)
    sequences = []
    for length in draw.integers(6, 12, count):
        ids = [A, int(draw.choice([B, C]))]
        while len(ids) < length:
            ids.append(A if ids[-1] != A else B + C - ids[-2])  # a b a c a b a c ...
        sequences.append(np.array(ids))
    return LabelledSequences(sequences, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A language model of made sequences, and its metrics."""
    run = tmp_path_factory.mktemp("runs") / "cycles"
    tokenizer = build_tokenizer(list("abcde"))
    train_set, test_set = draw_cycles(200, 0), draw_cycles(40, 1)
    dataset = Dataset("cycles", train_set, test_set, (), "made", "none", vocabulary=VOCABULARY, tokenizer=tokenizer)
    training = TrainConfig(epochs=16, batch_size=16, learning_rate=0.01)
    return run, train(run, dataset, Recipe(task="language-model", encoder=UNTIED, training=training))


def test_a_language_model_beats_the_counts(trained: tuple[Path, dict[str, float]]) -> None:
    """What follows from two tokens is learned; counted pairs must guess every other token."""
    run, results = trained
    assert results["bigram_perplexity"] < results["unigram_perplexity"]
    assert results["bigram_perplexity"] > 1.3  # half the tokens are a toss: 2 ** 0.5 = 1.41, the discount apart
    assert results["perplexity"] < 1.2  # the second token is a toss, and all others are certain
    task = read_model(run)
    assert isinstance(task, LanguageModel)
    with torch.no_grad():
        steps = task.encoder.run(torch.tensor([[A, B, A, C, A]]), torch.tensor([5])).steps
    assert task.score(steps).argmax(dim=2)[0, 1:].tolist() == [A, C, A, B]


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_the_loss_is_over_every_token_but_the_first(config: EncoderConfig) -> None:
    """Loss and perplexity are those of each sequence scored alone, step by step, padding or not."""
    torch.manual_seed(0)
    task = LanguageModel(SequenceEncoder(config), TrainConfig()).eval()
    data = LabelledSequences([np.array(ids) for ids in ([1, 2, 3, 4], [5], [2, 2])], None)
    losses = []
    with torch.no_grad():
        for ids in map(torch.from_numpy, data.sequences):
            steps = task.encoder.run(ids[None], torch.tensor([len(ids)])).steps[0]
            likelihoods = task.score(steps).log_softmax(dim=1)
            assert torch.isneginf(likelihoods[:, 0]).all()
            losses += [-float(likelihoods[step, token]) for step, token in enumerate(ids[1:])]
        found = task.training_loss(SequenceSet(data)[[0, 1, 2]]).item()
    assert found == pytest.approx(np.mean(losses), rel=1e-5)  # float32
    assert task.measure(data) == pytest.approx({"loss": found, "perplexity": np.exp(found)}, rel=1e-5)
    assert (task.head is None) == (config is TIED)


def test_a_model_that_reads_ahead_is_no_language_model() -> None:
    """Two directions, or steps of numbers, are refused."""
    for config in (EncoderConfig(vocabulary=5), EncoderConfig(features=2, bidirectional=False)):
        with pytest.raises(ValueError, match="needs an encoder of token ids that reads in one direction"):
            LanguageModel(SequenceEncoder(config), TrainConfig())


def test_a_text_in_two_parts_gets_the_scores_of_the_whole(
    tmp_path: Path,
) -> None:
    """Sent in two parts, the second with the state the first ended in, a text gets the steps it gets in one.

    They are the same to the bit, through HTTP, and so are the next token's scores, which need nothing else.
    """
    run = tmp_path / "run"
    data = DataConfig(name="made", classes=[], source="made", licence="none", longest_training_sequence=9)
    config = RunConfig(task="language-model", encoder=TIED, training=TrainConfig(), data=data)
    start_run(run, config, build_tokenizer(list("abcde")))
    torch.manual_seed(0)
    write_result(run, config.build(), draw_cycles(20, 0), {"perplexity": 5.0})
    export_run(run, tmp_path / "cycles.onnx", options=GraphOptions(steps=True, state=True, initial_state=True))
    outputs = ["embedding", "steps", "state"]
    with TestClient(create_app(Settings(model=tmp_path / "cycles.onnx"))) as client:

        def encode(text: str, **more: object) -> dict[str, Any]:
            answer = client.post("/encode", json={"texts": [text], "outputs": outputs, **more})
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        whole = encode("a b a c a b a")
        first = encode("A b")
        second = encode("a c a b a", state=first["state"])
        without = encode("a c a b a")
    assert second["steps"][0] == whole["steps"][0][2:]
    assert second["embeddings"] == whole["embeddings"]
    assert second["state"] == whole["state"]
    assert without["steps"][0] != second["steps"][0]
    task = read_model(run)
    assert isinstance(task, LanguageModel)
    with torch.no_grad():
        scores = [task.score(torch.tensor(steps)) for steps in (second["steps"][0], whole["steps"][0][2:])]
    assert torch.equal(*scores)
    assert scores[0].shape == (5, VOCABULARY)


def test_counted_probabilities_add_up_to_one() -> None:
    """After any token, seen or never, the probabilities of all tokens add up to 1, and none of a token is 0."""
    sequences = draw_cycles(5, 2).sequences
    after = np.arange(VOCABULARY)
    for model in (Unigrams(sequences, VOCABULARY), Bigrams(sequences, VOCABULARY)):
        for token in range(1, VOCABULARY):
            probabilities = model.predict(np.full(VOCABULARY, token), after)
            assert probabilities.sum() == pytest.approx(1.0)
            assert probabilities[0] == 0
            assert probabilities[1:].min() > 0


def test_pairs_are_counted_as_kneser_and_ney_did() -> None:
    """The probability of a pair is what the formula gives by hand."""
    bigrams = Bigrams([np.array([1, 2, 1, 2, 1, 3])], vocabulary=4)
    # Pairs: 1-2 twice, 2-1 twice, 1-3 once, so D = 1 / (1 + 2 * 2). Each token follows one other: three once, so that
    # their discount is 1, and what they free, all of it, is spread evenly.
    discount = 1 / 5
    freed = discount * 2 / 3  # 1 is followed three times, by two tokens
    expected = [freed / 3, (2 - discount) / 3 + freed / 3, (1 - discount) / 3 + freed / 3]
    np.testing.assert_allclose(bigrams.predict(np.array([1, 1, 1]), np.array([1, 2, 3])), expected)
    assert estimate_discount(np.array([3, 4])) == 0.5


def test_pairs_that_were_all_seen_twice_leave_something_for_others() -> None:
    """If nothing was seen once, a pair that was never seen is still possible, and all probabilities add up to 1."""
    bigrams = Bigrams([np.array([1, 2, 1, 2, 1])], vocabulary=5)
    for token in (1, 2, 3):
        probabilities = bigrams.predict(np.full(4, token), np.arange(1, 5))
        assert probabilities.sum() == pytest.approx(1.0)
        assert probabilities.min() > 0
    assert estimate_discount(np.array([2, 2])) == 0.5


def test_perplexity_is_one_over_the_geometric_mean_probability() -> None:
    """Three equally frequent tokens are a perplexity of 3."""
    sequences = [np.array([1, 2, 3])]
    assert measure_perplexity(Unigrams(sequences, 4), sequences) == pytest.approx(3.0)


def test_samples_without_labels_are_read_back_without(tmp_path: Path) -> None:
    """A run directory holds no array for labels that are not there; one of 0.1.0 holds an empty one."""
    data, task = draw_cycles(20, 0), LanguageModel(SequenceEncoder(TIED), TrainConfig())
    write_result(tmp_path, task, data, {})
    path = tmp_path / "samples.safetensors"
    written = safetensors.numpy.load_file(path)
    assert "labels" not in written
    for arrays in (written, {**written, "labels": np.empty((20, 0), np.float32)}):
        safetensors.numpy.save_file(arrays, path)
        found = read_samples(tmp_path)
        assert (len(found), found.given_labels, found.partners) == (20, None, None)
