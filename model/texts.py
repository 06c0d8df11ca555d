"""Texts as sequences of token ids: a word-level tokenizer, kept as the JSON of the `tokenizers` library.

A run directory and an artifact carry this JSON, so that what is served splits texts as training did.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from model.datasets import Steps

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1; no text holds them as words, since brackets are split off
UNKNOWN_ID = 1


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, split and lower-cased as every tokenizer here does."""
    normalizer, splitter = _make_normalizer(), pre_tokenizers.BertPreTokenizer()
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
        words: n different words, lower-cased; word i gets the id i + 2. What else a text holds becomes `[UNK]`.

    Returns:
        The JSON of the `tokenizers` library; its vocabulary holds n + 2 ids.
    """
    vocabulary = {word: place for place, word in enumerate([PADDING, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = _make_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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
    """Turn n texts into n arrays of ids `(t_i,)`, int64, as the service does; `t_i` is 0 where a text holds no word."""
    tokenizer = Tokenizer.from_str(definition)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch_fast(list(texts))
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def restore(definition: str, ids: Steps) -> str:
    """Turn ids `(t,)` back into words with spaces between."""
    text: str = Tokenizer.from_str(definition).decode(ids.tolist(), skip_special_tokens=False)
    return text


def vocabulary_size(definition: str) -> int:
    """Return V, one more than the largest id of a tokenizer, padding included."""
    largest: int = max(Tokenizer.from_str(definition).get_vocab().values(), default=0)
    return largest + 1


def _make_normalizer() -> normalizers.Sequence:
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
