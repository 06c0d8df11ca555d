"""`lengthwise train --dataset NAME` or `--data FILE`: train an encoder on a task, and leave a run directory.

With `--cross-validate K` the recipe is judged within the training sequences instead, and nothing else is read.
The validation set that stops a training early is carved out of the training sequences; the test sequences are
read once, at the end, for the record. Files are Parquet, JSONL, NPZ or long CSV, told apart by extension.
"""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

from model.data.catalogue import DATASETS
from model.data.datasets import Dataset, DatasetUnavailable, FileSource
from model.data.files import load_dataset
from model.data.readers import BadFile
from model.data.summary import describe_dataset, describe_odd_labels
from model.data.teachers import TEACHERS
from model.data.texts import describe_unknown
from model.tasks.catalogue import TASKS
from model.training.baselines import describe_baselines
from model.training.cross_validate import Folds, cross_validate
from model.training.evaluate import count
from model.training.fit import train
from model.training.recipe import Hardware, Recipe, describe_folds, describe_trap, read_recipe, read_task
from model.training.report import print_predictions, write_report
from model.training.run_directory import BrokenRun, read_config, read_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes"
# The arguments that say how a user's file is read.
OF_FILES = ["test", "test_share", "sequence_column", "label_column", "partner_column", "id_column", "order_column"]
OF_FILES += ["feature_columns", "vocabulary", "tokenizer", "source", "licence"]


def main(arguments: list[str] | None = None) -> None:
    """Train as the command line says."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    _refuse_idle(parser, options)
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # with several devices, Fabric starts this command on each
    try:
        recipe, dataset = _prepare(options)
        if is_first:
            _tell(
                describe_dataset(dataset),
                describe_odd_labels(dataset),
                describe_unknown(dataset),
                describe_trap(recipe),
                describe_folds(recipe),
            )
        out = options.out or Path("runs") / dataset.name
        hardware = Hardware(accelerator=options.accelerator, devices=options.devices)
        if options.cross_validate is not None:
            _cross_validate(options, recipe, dataset, hardware)
            return
        for offset in range(options.seeds or 1):
            run = out / f"seed-{recipe.training.seed + offset}" if options.seeds else out
            training = dataclasses.replace(recipe.training, seed=recipe.training.seed + offset)
            seeded = dataclasses.replace(recipe, training=training)
            results = train(run, dataset, seeded, hardware=hardware, resume=options.resume)
            if is_first:
                write_report(run)
                print(f"{run}:", ", ".join(f"{name} {value:.4f}" for name, value in results.items()))
                if verdict := describe_baselines(results, tokens=dataset.vocabulary is not None):
                    print(f"{run}: {verdict}")
        if not options.seeds and is_first:
            print_predictions(run)
    except (BadFile, BrokenRun, DatasetUnavailable, ValueError) as error:
        sys.exit(f"train: {error}")
    except KeyboardInterrupt:
        sys.exit("train: interrupted; --resume goes on after the last whole epoch")
    finally:
        signal.signal(signal.SIGTERM, terminate)


def _tell(*sentences: str | None) -> None:
    """Say on stderr what there is to say."""
    for sentence in filter(None, sentences):
        print(f"train: {sentence}", file=sys.stderr)


def _cross_validate(options: argparse.Namespace, recipe: Recipe, dataset: Dataset, hardware: Hardware) -> None:
    """Print how the recipe does on each fold of the training sequences."""
    folds = Folds(options.cross_validate, options.learn_from_one)
    seeds = [recipe.training.seed + offset for offset in range(options.seeds or 1)]
    print(cross_validate(dataset, recipe, folds, seeds, hardware).format())


def _prepare(options: argparse.Namespace) -> tuple[Recipe, Dataset]:
    """Load the data as the task needs it, and read the recipe."""
    start = None if options.start is None else str(options.start)
    path = options.recipe or find_recipe(options.task, options.dataset, start)
    task = options.task or read_task(path)
    if task not in TASKS:
        raise ValueError(f"{path} is not a recipe: the task {task!r} is not one of {', '.join(TASKS)}")
    source = options.dataset or FileSource(
        path=str(options.data),
        test=None if options.test is None else str(options.test),
        test_share=options.test_share,
        sequence=options.sequence_column,
        label=options.label_column,
        partner=options.partner_column,
        id=options.id_column,
        order=options.order_column,
        features=options.feature_columns,
        vocabulary=options.vocabulary,
        tokenizer=None if options.tokenizer is None else str(options.tokenizer),
        source=options.source,
        licence=options.licence,
    )
    if TASKS[task].labels == "vectors" and options.teacher is None:
        known = ", ".join(TEACHERS)
        raise ValueError(f"the task {task} learns the vectors of a --teacher: a folder, an .npz file or {known}")
    dataset = load_dataset(
        source,
        TASKS[task].labels,
        tokenizer=None if start is None else read_tokenizer(options.start),
        teacher=options.teacher,
    )
    if options.recipe is None and path is not None and dataset.vocabulary is not None:
        of_tokens = path.with_stem(f"{path.stem}-tokens")  # slopes are for features
        path = of_tokens if of_tokens.exists() else path
    overrides = {name: getattr(options, name) for name in ("epochs", "seed", "precision")}
    recipe = read_recipe(path, dataset, task, shuffle_frames=options.shuffle_frames or None, **overrides)
    return (recipe if start is None else _go_on(recipe, dataset, start)), dataset


def _go_on(recipe: Recipe, dataset: Dataset, start: str) -> Recipe:
    """Put the encoder of an earlier run in place of a recipe's own.

    Raises:
        BrokenRun: there is no such run.
        ValueError: its encoder does not read such sequences, or reads their features in another order.
    """
    config = read_config(Path(start))
    encoder, columns = config.encoder, config.data.columns
    if (encoder.features, encoder.vocabulary) != (dataset.features, dataset.vocabulary):
        own, other = (
            f"{reads.features} features" if reads.vocabulary is None else f"{reads.vocabulary} token ids"
            for reads in (encoder, recipe.encoder)
        )
        raise ValueError(f"the encoder of {start} reads {own}, and {dataset.name} holds {other}")
    if columns != [*dataset.columns] and {*columns} == {*dataset.columns}:
        order = ",".join(columns)
        raise ValueError(f"the encoder of {start} reads these columns in another order: --feature-columns {order}")
    return dataclasses.replace(recipe, encoder=encoder, start=start)


def _refuse_idle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what would change nothing, rather than let somebody believe that it did."""
    if options.dataset is not None:
        for name in OF_FILES:
            if getattr(options, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} is for --data, and --dataset is given")
    if options.start is not None and options.tokenizer is not None:
        parser.error("--tokenizer is the run's own that --from names")
    if options.cross_validate is None and options.learn_from_one:
        parser.error("--learn-from-one is for --cross-validate, which is not given")


def find_recipe(task: str | None, dataset: str | None, start: str | None) -> Path | None:
    """Return the recipe if none is given: the task's own, if it is asked for and has one, or the data set's."""
    suffix = "" if start is None else "-from-run"
    paths = (RECIPES / f"{name}{suffix}.json" for name in (task, dataset) if name)
    return next((path for path in paths if path.exists()), None)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lengthwise train", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", choices=sorted(DATASETS), help="a data set the project knows")
    what.add_argument("--data", type=Path, metavar="FILE", help="your own: .parquet, .jsonl, .npz or .csv")
    parser.add_argument("--task", choices=sorted(TASKS), help="what to learn; the recipe's, or classification")
    parser.add_argument(
        "--recipe",
        type=Path,
        help="JSON with task, encoder and training fields; the task's or data set's by default",
    )
    parser.add_argument(
        "--teacher",
        metavar="DIR|NPZ",
        help="of texts: whose vectors words begin with, and --task distil learns; a folder of sentence-transformers, a "
        f"file of texts and vectors, or {', '.join(TEACHERS)}",
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="RUN_DIR",
        help="train the encoder of a finished run further, with its tokenizer, on this task",
    )
    parser.add_argument("--out", type=Path, help="run directory; runs/NAME by default")
    parser.add_argument("--seed", type=int, help="of weights, batches and validation split")
    parser.add_argument("--seeds", type=count, help="train this many runs, OUT/seed-0, OUT/seed-1, ...")
    parser.add_argument(
        "--cross-validate",
        type=int,
        metavar="K",
        help="leave no run: judge the recipe within the training sequences, cut into K folds, once for each of --seeds",
    )
    parser.add_argument("--learn-from-one", action="store_true", help="of the K folds, and judge on all others")
    parser.add_argument("--epochs", type=int, help="at most")
    parser.add_argument("--shuffle-frames", action="store_true", help="the control that loses all order")
    parser.add_argument("--resume", action="store_true", help="go on from the run directory's last.ckpt")
    file = parser.add_argument_group("your own file")
    file.add_argument("--test", type=Path, metavar="FILE", help="to test on; else a share of --data is held out")
    file.add_argument("--test-share", type=share, default=0.2, help="held out, of each class; 0.2 by default")
    file.add_argument("--sequence-column", default="sequence", help="lists or texts; 'sequence' by default")
    file.add_argument("--label-column", default="label", help="'label' by default")
    file.add_argument("--partner-column", default="partner", help="the other of each pair; 'partner' by default")
    file.add_argument("--id-column", default="id", help="CSV of steps: whose step a line is; 'id' by default")
    file.add_argument(
        "--order-column", default="order", help="CSV of steps: its place in the sequence; 'order' by default"
    )
    file.add_argument(
        "--feature-columns",
        type=names,
        metavar="NAMES",
        help="the columns that are features, separated by commas: of CSV all others by default; of .parquet and .jsonl "
        "each with a list of numbers, in place of one column of sequences",
    )
    file.add_argument(
        "--vocabulary",
        type=int,
        help="token ids, padding included; the largest in --data + 1, or of texts all words seen twice, by default",
    )
    file.add_argument("--tokenizer", type=Path, metavar="FILE", help="of texts: JSON of the tokenizers library")
    file.add_argument("--source", help="where the data comes from, for the record; the file's name by default")
    file.add_argument("--licence", default="not stated", help="of the data, for the record")
    hardware = parser.add_argument_group("hardware, as Lightning Fabric names it")
    hardware.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ...")
    hardware.add_argument("--devices", default="auto", help="how many, or which; all by default")
    hardware.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"], help="of training")
    return parser


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas.

    Raises:
        ValueError: one is empty, or named twice.
    """
    found = tuple(name.strip() for name in text.split(","))
    if not all(found) or len({*found}) < len(found):
        raise ValueError(text)
    return found


def share(text: str) -> float:
    """Read a share between 0 and 1.

    Raises:
        ValueError: it is not one.
    """
    number = float(text)
    if not 0.0 < number < 1.0:
        raise ValueError(text)
    return number
