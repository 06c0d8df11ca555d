"""`python -m model.evaluate RUN_DIR ...`: what trained encoders are worth on the official test sequences.

Besides the head's own accuracy it judges the embeddings as others will use them: by their nearest neighbour among the
training sequences, and by a linear probe fitted on these.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from model.checkpoint import BrokenRun, read_config, read_model
from model.data import SequenceSet, in_order, shuffle_frames
from model.datasets import DATASETS, Dataset, DatasetUnavailable, LabelledSequences
from model.tasks import SequenceClassifier


def evaluate(model: SequenceClassifier, dataset: Dataset) -> dict[str, float]:
    """Measure a classifier and its embeddings on the test sequences.

    Args:
        model: trained on `dataset.train` or a part of it.
        dataset: the split to judge on; the probes are fitted on all of its training sequences.

    Returns:
        `accuracy` of the head, `nearest_neighbour` (1-NN, Euclidean) and `linear_probe` (logistic regression on
        standardised embeddings) accuracy, each a share of the test sequences.
    """
    train, _ = _run(model, dataset.train)
    test, logits = _run(model, dataset.test)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    neighbour = KNeighborsClassifier(1)
    return {
        "accuracy": float(np.mean(logits.argmax(axis=1) == dataset.test.labels)),
        "nearest_neighbour": float(neighbour.fit(train, dataset.train.labels).score(test, dataset.test.labels)),
        "linear_probe": float(probe.fit(train, dataset.train.labels).score(test, dataset.test.labels)),
    }


def load_dataset(name: str, *, shuffled: bool = False) -> Dataset:
    """Load a data set by its name in `DATASETS`, as it is or with the steps of every sequence permuted."""
    dataset = DATASETS[name]()
    if not shuffled:
        return dataset
    return replace(dataset, train=shuffle_frames(dataset.train, 1), test=shuffle_frames(dataset.test, 2))


def score(model: SequenceClassifier, data: LabelledSequences) -> float:
    """Return the share of sequences the head classifies right."""
    _, logits = _run(model, data)
    return float(np.mean(logits.argmax(axis=1) == data.labels))


def _run(model: SequenceClassifier, data: LabelledSequences) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return embeddings `(n, D)` and logits `(n, classes)` of every sequence, in order."""
    items, model = SequenceSet(data), model.eval()
    with torch.inference_mode():
        batches = (items[rows] for rows in in_order(len(data)))
        embeddings = torch.cat([model.encoder(batch.sequences, batch.lengths) for batch in batches])
        return embeddings.numpy(), model.head(embeddings).numpy()


def main(arguments: list[str] | None = None) -> None:
    """Print one line a run, and mean and standard deviation where there are several."""
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="a finished run of model.train")
    runs: list[Path] = parser.parse_args(arguments).runs
    try:
        results = [_evaluate_run(run) for run in runs]
    except (BrokenRun, DatasetUnavailable) as error:
        sys.exit(f"evaluate: {error}")
    width = max(len("mean"), *(len(str(run)) for run in runs))
    print(f"{'run':{width}}", *(f"{name:>18}" for name in results[0]))
    for run, result in zip(runs, results, strict=True):
        print(f"{run!s:{width}}", *(f"{value:18.4f}" for value in result.values()))
    if len(runs) > 1:
        table = np.array([list(result.values()) for result in results])
        print(f"{'mean':{width}}", *(f"{value:18.4f}" for value in table.mean(axis=0)))
        print(f"{'s.d.':{width}}", *(f"{value:18.4f}" for value in table.std(axis=0, ddof=1)))


def _evaluate_run(run: Path) -> dict[str, float]:
    config = read_config(run)
    dataset = load_dataset(config.data.name, shuffled=config.training.shuffle_frames)
    return evaluate(read_model(run), dataset)


if __name__ == "__main__":
    main()
