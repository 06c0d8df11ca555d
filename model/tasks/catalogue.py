"""All that has a name: the tasks, and the data sets."""

from model.tasks.distil import DistilledStudent
from model.tasks.language import LanguageModel
from model.tasks.selfsupervised import SelfSupervised
from model.tasks.similarity import SentenceSimilarity
from model.tasks.supervised import SequenceClassifier, SequenceRegressor
from model.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        SequenceClassifier,
        SequenceRegressor,
        LanguageModel,
        SentenceSimilarity,
        SelfSupervised,
        DistilledStudent,
    )
}
