"""How an encoder is trained, and on what: the parts of `config.json` that are not the encoder itself."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.data.datasets import Dataset, FileSource
from model.encoder.config import EncoderConfig
from model.tasks.config import TrainConfig
from model.training.defaults import choose_embedding, choose_encoder, choose_training

DEFAULT_TASK = "classification"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that is chosen before a training: what is learned, by which encoder, and how.

    Attributes:
        task: a name in `model.tasks.catalogue.TASKS`.
        encoder: what to train.
        training: how.
        start: the directory of the run whose encoder is trained further; None for fresh weights.
    """

    task: str = DEFAULT_TASK
    encoder: EncoderConfig
    training: TrainConfig
    start: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a training runs on, in Lightning Fabric's words; it is not part of a run's config.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, ...
        devices: how many, or which; `auto` takes all there are.
    """

    accelerator: str = "auto"
    devices: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What an encoder was trained on.

    Attributes:
        name: of the data set.
        classes: the label of each class index; empty if labels are not classes.
        source: where the data comes from.
        licence: under which terms.
        longest_training_sequence: in steps.
        file: the user's file, if it is not a data set of the project.
        teacher: what gave words or texts their vectors; see `model.data.teachers.open_teacher`.
        columns: the names of the F numbers in a step; empty if nothing names them.
    """

    name: str
    classes: list[str]
    source: str
    licence: str
    longest_training_sequence: int
    file: FileSource | None = None
    teacher: str | None = None
    columns: list[str] = field(default_factory=list)


def read_task(path: Path | None) -> str:
    """Return the task a recipe names; it decides how a file's labels are read.

    Raises:
        ValueError: the file is not a recipe.
    """
    return str(_read_fields(path).get("task", DEFAULT_TASK))


def read_recipe(path: Path | None, dataset: Dataset, task: str | None = None, **overrides: Any) -> Recipe:
    """Read a recipe: JSON with `task`, and the fields of `EncoderConfig` and `TrainConfig` that are not the defaults.

    Args:
        path: the file; None for what follows the data set's size, see `model.training.defaults`.
        dataset: says what the encoder reads.
        task: wins over the file; None leaves it to the file.
        overrides: fields of `TrainConfig` that win over the file; None leaves a field alone.

    Raises:
        ValueError: the file is not such JSON.
    """
    fields = _read_fields(path)
    given = {name: value for name, value in overrides.items() if value is not None}
    inputs = dict(dataset.inputs)
    if dataset.vocabulary is not None:
        inputs.setdefault("embedding", choose_embedding(dataset.vocabulary))
    chosen: dict[str, dict[str, Any]] = {"encoder": {}, "training": {}}
    if path is None:
        name = task or DEFAULT_TASK
        chosen = {"encoder": choose_encoder(dataset, name), "training": choose_training(dataset, name)}
    try:
        training = TrainConfig(**{**chosen["training"], **fields.pop("training", {}), **given})
        encoder = EncoderConfig(**{**inputs, **chosen["encoder"], **fields.pop("encoder", {})})
        return Recipe(**{**fields, **({} if task is None else {"task": task})}, encoder=encoder, training=training)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'the default'} is not a recipe: {error}") from error


def describe_trap(recipe: Recipe) -> str:
    """Say what in a recipe makes deviations larger in training than in service; empty if nothing does."""
    found = [
        *(["encoder dropout, which acts on each step"] if recipe.encoder.dropout else []),
        *(["training noise, which is added to each number"] if recipe.training.noise else []),
    ]
    if not found or "std" not in recipe.encoder.pooling.split("+"):
        return ""
    return (
        f"the pooling {recipe.encoder.pooling} measures how steps deviate, and training adds deviations of its own by "
        f"{' and '.join(found)}: drop units of the pooled vector instead, by training head_dropout"
    )


def describe_folds(recipe: Recipe) -> str:
    """Say that a regressor is not trained once alone; empty if it is."""
    folds = recipe.training.shrink_folds
    if not folds or recipe.task != "regression":
        return ""
    return (
        f"{folds} more trainings follow, each without a part of the sequences: they say how far predictions are trusted"
    )


def _read_fields(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a recipe: it is not a JSON object")  # noqa: TRY004 - of the file, not of a type
    return fields
