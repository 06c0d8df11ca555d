"""All that has a name: the tasks, and the data sets."""

from collections.abc import Callable

from model.datasets import Dataset, digit_sums, japanese_vowels, which_first
from model.language import LanguageModel
from model.selfsupervised import SelfSupervised
from model.similarity import SentenceSimilarity
from model.tasks import SequenceClassifier, SequenceRegressor, Task
from model.text_datasets import movie_reviews, sts_b, sts_b_from_scratch

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (SequenceClassifier, SequenceRegressor, LanguageModel, SentenceSimilarity, SelfSupervised)
}

DATASETS: dict[str, Callable[[], Dataset]] = {
    "japanese-vowels": japanese_vowels,
    "movie-reviews": movie_reviews,
    "sts-b": sts_b,
    "sts-b-from-scratch": sts_b_from_scratch,
    "sum": digit_sums,
    "which-first": which_first,
}
