"""Texts as sequences of token ids: a word-level tokenizer, kept as the JSON of the `tokenizers` library.

A run directory and an artifact carry this JSON, so that what is served splits texts as training did.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from model.data.datasets import Dataset, LabelledSequences, Steps

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1; no text holds them as words, since brackets are split off
UNKNOWN_ID = 1
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"  # scripts without spaces in a text
MOST_UNKNOWN = 0.1  # the share of a text's tokens from which the user is told


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, lower-cased and split as every tokenizer here does that knows some of them.

    A character of a script without spaces, such as Chinese, Japanese or Thai, is a word.
    """
    normalizer, splitter = _make_normalizer(), _make_splitter(is_unspaced=True)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    return counts


def choose_words(counts: Counter[str], size: int) -> list[str]:
    """Return the `size` most frequent words; of words as frequent, the first in the alphabet."""
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


def build_tokenizer(words: Sequence[str]) -> str:
    """Build a word-level tokenizer that lower-cases, and splits at white space and around punctuation.

    Args:
        words: n different words, lower-cased; word i gets the id i + 2. What else a text holds becomes `[UNK]`. If a
            word is a character of a script without spaces, texts are split at each of these, too.

    Returns:
        The JSON of the `tokenizers` library; its vocabulary holds n + 2 ids.
    """
    vocabulary = {word: place for place, word in enumerate([PADDING, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = _make_normalizer()
    characters = pre_tokenizers.Split(Regex(UNSPACED), "removed")
    tokenizer.pre_tokenizer = _make_splitter(is_unspaced=any(not characters.pre_tokenize_str(word) for word in words))
    definition: str = tokenizer.to_str()
    return definition


def build_word_tokenizer(texts: Sequence[str], vocabulary: int | None) -> str:
    """Build a tokenizer of the words of texts: see `build_tokenizer`.

    Args:
        texts: what is trained on.
        vocabulary: ids in all, those of the most frequent words, padding and `[UNK]`; None for every word that occurs
            twice or more.
    """
    counts = count_words(texts)
    frequent = sum(count > 1 for count in counts.values())
    return build_tokenizer(choose_words(counts, frequent if vocabulary is None else max(0, vocabulary - 2)))


def tokenize(definition: str, texts: Sequence[str]) -> list[Steps]:
    """Turn n texts into n arrays of ids `(t_i,)`, int64, as the service does; `t_i` is 0 if a text holds no word."""
    tokenizer = Tokenizer.from_str(definition)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch_fast(list(texts))
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def tokenize_all(definition: str, texts: Sequence[str]) -> list[Steps]:
    """Turn n texts into n arrays of ids `(t_i,)` that an encoder can read: `t_i >= 1`, and no id is 0.

    Raises:
        ValueError: of a text nothing is left, or a token of it has the id of padding.
    """
    found = tokenize(definition, texts)
    for text, ids in zip(texts, found, strict=True):
        if not len(ids):
            raise ValueError(f"of the text {text!r:.60} no token is left")
        if not ids.all():
            reason = "a token has the id 0, which is padding: train the tokenizer with [PAD] first"
            raise ValueError(f"of {text!r:.60} {reason}")
    return found


def retokenize(dataset: Dataset, definition: str) -> Dataset:
    """Make the ids of a data set of texts anew by another tokenizer; pretrained vectors of its old ids go.

    Raises:
        ValueError: the data set is not of texts, or a text is none that an encoder can read; see `tokenize_all`.
    """

    def turn(data: LabelledSequences) -> LabelledSequences:
        if data.texts is None:
            raise ValueError(f"a tokenizer reads texts, and {dataset.name} holds none")
        ids, count = tokenize_all(definition, data.texts), len(data)
        return replace(data, sequences=ids[:count], partners=None if data.partners is None else ids[count:])

    return replace(
        dataset,
        train=turn(dataset.train),
        test=turn(dataset.test),
        validation=None if dataset.validation is None else turn(dataset.validation),
        vocabulary=vocabulary_size(definition),
        tokenizer=definition,
        vectors=None,
    )


def restore(definition: str, ids: Steps) -> str:
    """Turn ids `(t,)` back into words with spaces between."""
    text: str = Tokenizer.from_str(definition).decode(ids.tolist(), skip_special_tokens=False)
    return text


def vocabulary_size(definition: str) -> int:
    """Return V, one more than the largest id of a tokenizer, padding included."""
    largest: int = max(Tokenizer.from_str(definition).get_vocab().values(), default=0)
    return largest + 1


def describe_unknown(dataset: Dataset) -> str | None:
    """Say how much of a user's texts their tokenizer does not know; None if that is a tenth at most, or none are texts.

    Named data sets chose their vocabularies, and are left alone.
    """
    if dataset.tokenizer is None or dataset.file is None:
        return None
    trained, held_out = (_share_unknown(dataset.tokenizer, part) for part in (dataset.train, dataset.test))
    if max(trained, held_out) <= MOST_UNKNOWN:
        return None
    if dataset.file.tokenizer is not None:
        name, remedy = dataset.file.tokenizer, "train it on such texts, or leave --tokenizer out"
    elif dataset.file.vocabulary is not None:
        name, remedy = f"a vocabulary of {dataset.file.vocabulary}", "raise --vocabulary"
    else:
        name, remedy = "a vocabulary of all words seen twice", "give more texts, or a --tokenizer of parts of words"
    found = f"{trained:.0%} of the tokens trained on and {held_out:.0%} of those held out"
    return f"{name} does not know {found}, which are all the same to the encoder: {remedy}"


def _share_unknown(definition: str, texts: LabelledSequences) -> float:
    """Return the share of tokens that are the tokenizer's unknown one, 0 if it has none."""
    model = json.loads(definition)["model"]
    unknown = model.get("unk_id")
    if unknown is None and model.get("unk_token") is not None:
        unknown = Tokenizer.from_str(definition).token_to_id(model["unk_token"])
    ids = np.concatenate([*texts.sequences, *(texts.partners or ())])
    return 0.0 if unknown is None else float(np.mean(ids == unknown))


def _make_normalizer() -> normalizers.Sequence:
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])


def _make_splitter(*, is_unspaced: bool) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.BertPreTokenizer()
    return pre_tokenizers.Sequence([words, pre_tokenizers.Split(Regex(UNSPACED), "isolated")]) if is_unspaced else words
