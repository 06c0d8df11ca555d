"""One training: any task, from a data set into a run directory."""

import logging
import tempfile
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from model.data.datasets import Dataset, LabelledSequences
from model.data.splits import shuffle_dataset, split
from model.tasks.catalogue import TASKS
from model.tasks.config import Precision
from model.tasks.task import Task, WrongLabels
from model.threads import limit_threads
from model.training.loop import TrainingData, fit
from model.training.probes import evaluate
from model.training.recipe import DataConfig, Hardware, Recipe
from model.training.run_directory import RunConfig, read_model, read_results, resume_run, start_run, write_result


class NoSuchHardware(ValueError):
    """A training cannot run on what was asked for."""

    def __init__(self, hardware: Hardware, reason: Exception) -> None:
        asked = f"--accelerator {hardware.accelerator} and --devices {hardware.devices}"
        super().__init__(f"{asked} do not fit this machine: {reason}")


def train(
    run: Path, dataset: Dataset, recipe: Recipe, *, hardware: Hardware | None = None, resume: bool = False
) -> dict[str, float]:
    """Train an encoder on a task, and write the run directory.

    Args:
        run: the directory; made if it is not there.
        dataset: the split; its steps are shuffled here, if the recipe says so.
        recipe: what is trained, and how.
        hardware: what to train on; by default all that is found.
        resume: go on from the directory's `last.ckpt`.

    Returns:
        The metrics on the test sequences, see `evaluate`, and the task's on the validation sequences, if there are
        any, with `validation_` before their names.

    Raises:
        NoSuchHardware: the machine does not have it.
        BrokenRun: there is nothing to resume, or it was started otherwise.
        WrongLabels: the task cannot learn from the data set's labels.
    """
    training = recipe.training
    needed = TASKS[recipe.task].labels
    if needed not in ("none", dataset.label_kind):
        raise WrongLabels(recipe.task, needed, dataset)
    if training.shuffle_frames:
        dataset = shuffle_dataset(dataset)
    limit_threads(recipe.encoder.hidden)
    fabric = _launch(hardware or Hardware(), training.precision)
    fabric.seed_everything(training.seed, verbose=False)
    learned_from = dataset.train.without_labels() if needed == "none" else dataset.train
    fitting, validation = learned_from, dataset.validation
    if validation is None and training.validation_share:
        fitting, validation = split(learned_from, training.validation_share, training.seed)
    config = _describe(dataset, fitting, recipe)
    task = _make_task(config, dataset, fitting)
    checkpoint = resume_run(run, config) if resume else None
    if checkpoint is None and fabric.is_global_zero:
        start_run(run, config, dataset.tokenizer)
    fit(fabric, task, training, TrainingData(fitting, fitting if validation is None else validation), run, checkpoint)
    chosen = task.calibrate(fitting, partial(_train_on, fabric, dataset, recipe))
    if fabric.is_global_zero:
        results = evaluate(task, dataset)
        measured = {} if validation is None else task.measure(validation)
        results |= chosen | {f"validation_{name}": value for name, value in measured.items() if name != "loss"}
        write_result(run, task, dataset.test, results, fitting.lengths)
    fabric.barrier()
    return read_results(run)


def _make_task(config: RunConfig, dataset: Dataset, fitting: LabelledSequences) -> Task:
    """Make a task with fresh weights or those of an earlier run, prepared for the sequences to learn from."""
    task = config.build()
    if dataset.vectors is not None and config.start is None:
        task.set_token_vectors(dataset.vectors)
    task.prepare(fitting)
    if config.start is not None:
        task.encoder.load_state_dict(read_model(Path(config.start)).encoder.state_dict())
    return task


def _train_on(fabric: Fabric, dataset: Dataset, recipe: Recipe, part: LabelledSequences) -> Task:
    """Train a task on a part of what the recipe's own learns from; nothing is held out of it, and no run is left."""
    fabric.seed_everything(recipe.training.seed, verbose=False)
    task = _make_task(_describe(dataset, part, recipe), dataset, part)
    with tempfile.TemporaryDirectory() as folder:
        fit(fabric, task, recipe.training, TrainingData(part, part), Path(folder))
    return task


def _launch(hardware: Hardware, precision: Precision) -> Fabric:
    """Start what keeps devices and precision; with several devices it starts this command once more for each."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of what the user chose
    try:
        fabric = Fabric(accelerator=hardware.accelerator, devices=hardware.devices, precision=precision)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise NoSuchHardware(hardware, error) from error
    fabric.launch()
    return fabric


def _describe(dataset: Dataset, fitting: LabelledSequences, recipe: Recipe) -> RunConfig:
    return RunConfig(
        task=recipe.task,
        encoder=recipe.encoder,
        training=recipe.training,
        data=DataConfig(
            name=dataset.name,
            classes=list(dataset.classes),
            source=dataset.source,
            licence=dataset.licence,
            longest_training_sequence=max(fitting.lengths),
            file=dataset.file,
            teacher=dataset.teacher,
            columns=list(dataset.columns),
        ),
        start=recipe.start,
    )
