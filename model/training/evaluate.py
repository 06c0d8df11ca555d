"""`lengthwise evaluate RUN_DIR ...`: what trained encoders are worth on held-out sequences.

Besides the task's own metrics it judges embeddings of labelled classes as others will use them: by their nearest
neighbour among the training sequences, and by a linear probe fitted on these.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from model.data.datasets import Dataset, DatasetUnavailable
from model.data.files import load_dataset
from model.data.readers import BadFile
from model.tasks.catalogue import TASKS
from model.tasks.task import Task, run_batches
from model.threads import limit_threads
from model.training.baselines import make_probe, measure_baselines
from model.training.run_directory import BrokenRun, read_config, read_model


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


def main(arguments: list[str] | None = None) -> None:
    """Print one line a run, and mean and standard deviation if there are several."""
    parser = argparse.ArgumentParser(prog="lengthwise evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="the directory of a finished run")
    runs: list[Path] = parser.parse_args(arguments).runs
    try:
        results = [_evaluate_run(run) for run in runs]
    except (BadFile, BrokenRun, DatasetUnavailable) as error:
        sys.exit(f"evaluate: {error}")
    names = list(results[0])
    if any(list(result) != names for result in results):
        sys.exit("evaluate: these runs are measured differently: evaluate those of one task at a time")
    width = max(len("mean"), *(len(str(run)) for run in runs))
    print(f"{'run':{width}}", *(f"{name:>{_width(name)}}" for name in names))
    for run, result in zip(runs, results, strict=True):
        print(f"{run!s:{width}}", *_format(result.values(), names))
    if len(runs) > 1:
        table = np.array([list(result.values()) for result in results])
        print(f"{'mean':{width}}", *_format(table.mean(axis=0), names))
        print(f"{'s.d.':{width}}", *_format(table.std(axis=0, ddof=1), names))


def _format(values: Iterable[float], names: Sequence[str]) -> list[str]:
    return [f"{value:{_width(name)}.4f}" for value, name in zip(values, names, strict=True)]


def _width(name: str) -> int:
    return max(18, len(name))


def _evaluate_run(run: Path) -> dict[str, float]:
    config = read_config(run)
    limit_threads(config.encoder.hidden)
    source, labels = config.data.file or config.data.name, TASKS[config.task].labels
    return evaluate(read_model(run), load_dataset(source, labels, shuffled=config.training.shuffle_frames))
