"""What a trained task is worth on the test sequences: its own metrics, and those of its embeddings.

Embeddings of labelled classes are judged as others will use them: by their nearest neighbour among the training
sequences, and by a linear probe fitted on these.
"""

from sklearn.neighbors import KNeighborsClassifier

from model.data.datasets import Dataset
from model.tasks.task import Task, run_batches
from model.training.baselines import make_probe, measure_baselines


def evaluate(task: Task, dataset: Dataset) -> dict[str, float]:
    """Measure a trained task and its embeddings on the test sequences.

    Args:
        task: trained on `dataset.train` or a part of it.
        dataset: the split to judge on; the probes are fitted on all of its training sequences.

    Returns:
        The task's metrics, the loss apart, whose scale is the training's own; the task's with `longer_` before them,
        if the data set has longer sequences; if there are classes the accuracy of `nearest_neighbour` (1-NN,
        Euclidean) and `linear_probe` (logistic regression on standardised embeddings); and what is to be beaten, see
        `model.training.baselines`.
    """
    results = _without_loss(task.measure(dataset.test))
    if dataset.longer is not None:
        longer = _without_loss(task.measure(dataset.longer))
        results |= {f"longer_{name}": value for name, value in longer.items()}
    if dataset.classes:
        train = run_batches(task, task.encoder, dataset.train).cpu().numpy()
        test = run_batches(task, task.encoder, dataset.test).cpu().numpy()
        for name, probe in (
            ("nearest_neighbour", KNeighborsClassifier(1)),
            ("linear_probe", make_probe()),
        ):
            results[name] = float(probe.fit(train, dataset.train.labels).score(test, dataset.test.labels))
    return results | measure_baselines(task, dataset)


def _without_loss(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "loss"}
