"""`lengthwise evaluate RUN_DIR ...`: what trained encoders are worth on held-out sequences.

Besides the task's own metrics it judges embeddings of labelled classes as others will use them: by their nearest
neighbour among the training sequences, and by a linear probe fitted on these. With `--few-labels` it says what can be
learned on them from a few labels of each class, beside what is learned without the encoder.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from model.data.datasets import Dataset, DatasetUnavailable, LabelKind
from model.data.files import load_dataset
from model.data.readers import BadFile
from model.tasks.catalogue import TASKS
from model.threads import limit_threads
from model.training import figures
from model.training.few_labels import Curves, learn_from_few
from model.training.probes import evaluate
from model.training.run_directory import BrokenRun, read_config, read_model, read_samples, read_tokenizer


def main(arguments: list[str] | None = None) -> None:
    """Print one line a run, and mean and standard deviation if there are several."""
    parser = argparse.ArgumentParser(prog="lengthwise evaluate", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="the directory of a finished run")
    parser.add_argument(
        "--few-labels",
        type=count,
        nargs="+",
        metavar="N",
        help="also learn from N labels of each class, and from all; give the runs first",
    )
    parser.add_argument("--draws", type=int, default=5, help="how often labels are drawn, at least 2; 5 by default")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw what few labels do: .png or .svg")
    options = parser.parse_args(arguments)
    if options.plot and not (options.few_labels and options.plot.suffix in figures.FORMATS):
        parser.error(f"--plot {options.plot}: what --few-labels finds is drawn, into a .png or .svg file")
    runs: list[Path] = options.runs
    try:
        results = [evaluate(read_model(run), _load_held_out(run)) for run in runs]
        _print_results(runs, results)
        if options.few_labels:
            curves = _learn_from_few(runs, options.few_labels, options.draws)
            print(f"\n{curves.format()}")
            if options.plot:
                figures.save(figures.draw_few_labels(curves.counts, curves.values), options.plot)
    except (BadFile, BrokenRun, DatasetUnavailable, ValueError) as error:
        sys.exit(f"evaluate: {error}")


def _print_results(runs: Sequence[Path], results: Sequence[dict[str, float]]) -> None:
    names = list(results[0])
    if any(list(result) != names for result in results):
        raise ValueError("these runs are measured differently: evaluate those of one task at a time")
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


def _load(run: Path, labels: LabelKind | None = None) -> Dataset:
    """Load what a run was trained on; a file's labels as its task reads them, or as `labels`."""
    config = read_config(run)
    limit_threads(config.encoder.hidden)
    return load_dataset(
        config.data.file or config.data.name,
        labels or TASKS[config.task].labels,
        shuffled=config.training.shuffle_frames,
        tokenizer=read_tokenizer(run),
        teacher=config.data.teacher,
    )


def _load_held_out(run: Path) -> Dataset:
    """Load what a run was trained on, and make sure that what is held out of it now was held out then.

    Raises:
        ValueError: it was not, so that the encoder may have been trained on what it would be judged on.
    """
    dataset, then = _load(run), read_samples(run)
    now, kept = ([*part.sequences, *(part.partners or ())] for part in (dataset.test, then))
    if len(now) != len(kept) or not all(map(np.array_equal, now, kept)):
        raise ValueError(
            f"{run} was tested on other sequences than {dataset.name} holds out now: the data has changed, "
            "and the encoder may have been trained on what it would be judged on"
        )
    return dataset


def _learn_from_few(runs: Sequence[Path], counts: Sequence[int], draws: int) -> Curves:
    first = read_config(runs[0])
    if len({_describe(run) for run in runs}) > 1:
        raise ValueError("--few-labels takes the seeds of one recipe: these runs differ in encoder or data")
    file = first.data.file
    if file is not None and not file.test and TASKS[first.task].labels != "classes":
        raise ValueError(
            "--few-labels needs a run that was trained with --test FILE: "
            "rows held out without labels are others than those held out of each class"
        )
    return learn_from_few([read_model(run) for run in runs], _load(runs[0], "classes"), sorted(counts), draws)


def _describe(run: Path) -> tuple[object, ...]:
    """Return what runs must have in common if they are judged on the same sequences, as `_load` reads them."""
    config = read_config(run)
    data, tokenizer = config.data, read_tokenizer(run)
    return config.encoder, data.name, data.file, data.teacher, config.training.shuffle_frames, tokenizer


def count(text: str) -> int:
    """Read a number of labels or of runs, at least 1.

    Raises:
        ValueError: it is not one.
    """
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
