"""Sentence similarity: the cosine, the start as an average, and the baselines."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.artifact import export_run
from model.data.batches import SequenceSet
from model.data.datasets import Dataset, LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.similarity import (
    SIF,
    SentenceSimilarity,
    average,
    correlate,
    measure_averages,
    sif_weights,
    start_as_average,
    weigh_tokens,
)
from model.tasks.task import WrongLabels, run_batches
from model.training.fit import train
from model.training.recipe import Recipe
from model.training.report import write_report
from model.training.run_directory import read_model, read_samples, read_tokenizer
from model.training.train import main as train_main

VOCABULARY = 12
ENCODER = EncoderConfig(vocabulary=VOCABULARY, embedding=4, hidden=16)


def draw_pairs(count: int, seed: int) -> LabelledSequences:
    """Draw pairs labelled by the share of tokens they have in common, from 1 to 5."""
    draw = np.random.default_rng(seed)
    first = [draw.integers(1, VOCABULARY, 5) for _ in range(count)]
    kept = draw.integers(0, 5, count)
    second = [
        np.concatenate([steps[:same], draw.integers(1, VOCABULARY, 5 - same)])
        for steps, same in zip(first, kept, strict=True)
    ]
    return LabelledSequences(first, (1 + kept).astype(np.float32), second)


def make_dataset() -> Dataset:
    """Make pairs, with random vectors of their tokens."""
    vectors = np.random.default_rng(0).standard_normal((VOCABULARY, 4)).astype(np.float32)
    vectors[:2] = 0
    train, test, validation = (draw_pairs(count, seed) for seed, count in enumerate((120, 40, 30)))
    return Dataset(
        "pairs", train, test, (), "made", "none", vocabulary=VOCABULARY, validation=validation, vectors=vectors
    )


def test_pairs_are_learned_judged_and_reported(tmp_path: Path) -> None:
    """A training on pairs beats chance, keeps its test pairs, and its report shows truth beside prediction."""
    dataset = make_dataset()
    training = TrainConfig(epochs=3, batch_size=16, embedding_rate=5.0)
    results = train(tmp_path, dataset, Recipe(task="similarity", encoder=ENCODER, training=training))
    assert results["spearman"] > 0.3
    assert {"pearson", "validation_spearman", "mean_vectors_spearman", "sif_vectors_spearman"} < results.keys()
    samples, task = read_samples(tmp_path), read_model(tmp_path)
    judgement = task.judge(samples)
    assert judgement is not None
    np.testing.assert_allclose(judgement.merit, np.abs(judgement.predicted - dataset.test.labels), rtol=0, atol=1e-6)
    assert task.measure(samples)["spearman"] == pytest.approx(results["spearman"])
    assert correlate(judgement.predicted, samples.labels)["spearman"] == pytest.approx(results["spearman"])
    assert "truth" in write_report(tmp_path).read_text()


def test_the_cosine_of_embeddings_is_the_similarity() -> None:
    """What the task compares in a batch of pairs is what a caller computes from embeddings got one by one."""
    torch.manual_seed(0)
    task = SentenceSimilarity(SequenceEncoder(ENCODER), TrainConfig()).eval()
    pairs = draw_pairs(9, 3)
    batch = SequenceSet(pairs)[list(range(9))]
    with torch.no_grad():
        found = task(batch.sequences, batch.lengths).numpy()
    for row, cosine in enumerate(found):
        pair = LabelledSequences([pairs.sequences[row], (pairs.partners or [])[row]], np.zeros(2, np.float32))
        first, second = run_batches(task, task.encoder, pair).numpy()
        expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert cosine == pytest.approx(expected, abs=1e-5)  # float32
    assert task.measure(pairs)["spearman"] == pytest.approx(correlate(found, pairs.labels)["spearman"])


def test_a_similarity_starts_as_an_average() -> None:
    """With the gates it starts with, cosines are nearly those of averaged token vectors; with torch's own, less so."""
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(vocabulary=VOCABULARY, embedding=4, hidden=64))
    assert encoder.embedding is not None
    first, second = (
        torch.from_numpy(np.stack(part)) for part in (draw_pairs(200, 4).sequences, draw_pairs(200, 7).sequences)
    )
    vectors = encoder.embedding.weight.detach()
    averaged = torch.nn.functional.cosine_similarity(vectors[first].mean(dim=1), vectors[second].mean(dim=1))

    def differ() -> float:
        with torch.no_grad():
            embeddings = [encoder(part, torch.full((200,), 5)) for part in (first, second)]
        return (torch.nn.functional.cosine_similarity(*embeddings) - averaged).abs().mean().item()

    before = differ()
    start_as_average(encoder)
    assert differ() < 0.1
    assert before > 0.3


def test_a_cosine_of_one_starts_as_the_highest_label() -> None:
    """Before training, a sequence and itself are as alike as the most alike training pair."""
    task = SentenceSimilarity(SequenceEncoder(ENCODER), TrainConfig())
    data = draw_pairs(20, 4)
    task.prepare(data)
    judgement = task.judge(LabelledSequences(data.sequences, data.labels, data.sequences))
    assert judgement.predicted.tolist() == pytest.approx([5.0] * 20, abs=1e-5)  # float32
    assert float(task.lowest) == 1.0


def test_frequent_tokens_weigh_less() -> None:
    """SIF weights are a / (a + p), and vectors are centred on the tokens of the texts before they are weighed."""
    sequences = [np.array([1, 2, 2, 2])]
    weights = sif_weights(sequences, 4)
    np.testing.assert_allclose(weights, [1, SIF / (SIF + 0.25), SIF / (SIF + 0.75), 1])
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    table = weigh_tokens(vectors, sequences)
    assert not table[0].any()
    unweighted = table / weights[:, None]
    np.testing.assert_allclose((unweighted[1] + 3 * unweighted[2]) / 4, 0, atol=1e-6)
    assert unweighted[1:].std() == pytest.approx(1.0, rel=1e-5)


def test_tokens_without_a_vector_do_not_count_in_an_average() -> None:
    """The mean is over the tokens that have a vector; of none it is zero."""
    vectors = np.array([[0.0, 0.0], [0.0, 0.0], [2.0, 4.0], [4.0, 0.0]])
    found = average(vectors, [np.array([1, 2, 3]), np.array([1])])
    assert found.tolist() == [[3.0, 2.0], [0.0, 0.0]]


def test_what_never_varies_correlates_with_nothing() -> None:
    """A constant has no correlation, and gives 0 instead of NaN; a monotone function has rank correlation 1."""
    numbers = np.arange(5.0)
    assert correlate(np.ones(5), numbers) == {"spearman": 0.0, "pearson": 0.0}
    assert correlate(numbers**3, numbers)["spearman"] == pytest.approx(1.0)


def test_similarity_needs_pairs(tmp_path: Path) -> None:
    """Single sequences are refused, and pairs are refused by other tasks."""
    data = draw_pairs(8, 5)
    alone = LabelledSequences(data.sequences, data.labels)
    dataset = Dataset("alone", alone, alone, (), "made", "none", vocabulary=VOCABULARY)
    training = TrainConfig(epochs=1)
    with pytest.raises(WrongLabels, match="the task similarity learns from pairs, and alone is labelled with numbers"):
        train(tmp_path, dataset, Recipe(task="similarity", encoder=ENCODER, training=training))
    with pytest.raises(WrongLabels, match="labelled with numbers of pairs"):
        train(tmp_path, make_dataset(), Recipe(task="regression", encoder=ENCODER, training=training))


def test_averages_are_weighed_by_what_is_trained_on() -> None:
    """What is common to sentences, and how often words are used, is learned without the test sentences."""
    vectors = np.random.default_rng(0).normal(size=(VOCABULARY, 4)).astype(np.float32)
    vectors[0] = 0
    train, other, test = draw_pairs(40, 1), draw_pairs(40, 2), draw_pairs(40, 3)
    dataset = Dataset("pairs", train, test, (), "made", "none", vocabulary=VOCABULARY, vectors=vectors)
    first, second = (measure_averages(replace(dataset, train=part)) for part in (train, other))
    assert first["mean_vectors_spearman"] == second["mean_vectors_spearman"]
    assert first["sif_vectors_spearman"] != second["sif_vectors_spearman"]


def test_there_are_no_baselines_without_vectors() -> None:
    """Averages of vectors need vectors."""
    task = SentenceSimilarity(SequenceEncoder(ENCODER), TrainConfig())
    data = draw_pairs(4, 6)
    assert task.measure_baselines(Dataset("pairs", data, data, (), "made", "none", vocabulary=VOCABULARY)) == {}


def test_pairs_of_texts_in_a_file_are_trained_on_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a JSONL file of texts to a proven artifact that carries their tokenizer; predictions show the words."""
    words = ["cat", "dog", "sun", "sea"]
    rows = [
        {"sequence": f"the {a}", "partner": f"the {b}", "label": float(a == b)}
        for a in words
        for b in words
        for _ in "xy"
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    train_main(["--data", str(tmp_path / "mine.jsonl"), "--task", "similarity", "--epochs", "1", "--out", str(run)])
    assert "the cat | the " in capsys.readouterr().out
    manifest = export_run(run, tmp_path / "mine.onnx")
    assert manifest.input.kind == "text"
    assert manifest.input.tokenizer == read_tokenizer(run)
