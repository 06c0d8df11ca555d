"""The tasks by name; each is a class of its own in `model.tasks` or beside it."""

from model.selfsupervised import SelfSupervised
from model.tasks import SequenceClassifier, SequenceRegressor, Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (SequenceClassifier, SequenceRegressor, SelfSupervised)}
