"""The data sets that have a name."""

from collections.abc import Callable

from model.data.datasets import Dataset
from model.data.named import digit_sums, japanese_vowels, which_first
from model.data.text_datasets import movie_reviews, sts_b, sts_b_from_scratch, sts_b_sentences

DATASETS: dict[str, Callable[[], Dataset]] = {
    "japanese-vowels": japanese_vowels,
    "movie-reviews": movie_reviews,
    "sts-b": sts_b,
    "sts-b-from-scratch": sts_b_from_scratch,
    "sts-b-sentences": sts_b_sentences,
    "sum": digit_sums,
    "which-first": which_first,
}
