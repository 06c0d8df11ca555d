"""How an encoder is trained, and on what: the parts of `config.json` that are not the encoder itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from model.datasets import Dataset, FileSource
from model.encoder import EncoderConfig

DEFAULT_TASK = "classification"
Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How an encoder is trained.

    Attributes:
        epochs: passes over the training sequences, at most.
        batch_size: sequences in a batch.
        pool_batches: batches cut from one length-sorted pool; more pad less, fewer mix lengths more.
        learning_rate: the peak of the one-cycle schedule (Smith, 2018) that AdamW follows.
        weight_decay: AdamW's.
        embedding_rate: the learning rate of token embeddings, as a multiple of `learning_rate`.
        label_smoothing: share of each target class spread over all classes.
        class_weights: `balanced` weighs a class in the loss by the inverse of its frequency.
        noise: added to every number; see `model.tasks.Augmentation`.
        offset: added throughout a sequence; see `model.tasks.Augmentation`.
        validation_share: held out of training to stop it early; of each class, where there are classes.
        patience: epochs without a better validation metric before training stops.
        precision: of the arithmetic in training, as Lightning names it; weights stay float32.
        seed: of initial weights, batches, augmentation and the split.
        shuffle_frames: permute the steps of every sequence, in training and test: a control.
    """

    epochs: int = 60
    batch_size: int = 32
    pool_batches: int = 8
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    embedding_rate: float = 1.0
    label_smoothing: float = 0.1
    class_weights: Literal["balanced"] | None = None
    noise: float = 0.0
    offset: float = 0.0
    validation_share: float = 0.1
    patience: int = 30
    precision: Precision = "32-true"
    seed: int = 0
    shuffle_frames: bool = False

    def __post_init__(self) -> None:
        """Refuse what no training can do."""
        for name in ("epochs", "batch_size", "pool_batches", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"training {name} is {getattr(self, name)}: it must be at least 1")
        if not 0.0 < self.validation_share < 1.0:
            raise ValueError(f"training validation_share is {self.validation_share}: it must be between 0 and 1")
        if self.class_weights not in (None, "balanced"):
            raise ValueError(f"training class_weights is {self.class_weights!r}: it must be null or 'balanced'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that is chosen before a training: what is learned, by which encoder, and how.

    Attributes:
        task: a name in `model.catalogue.TASKS`.
        encoder: what to train.
        training: how.
    """

    task: str = DEFAULT_TASK
    encoder: EncoderConfig
    training: TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a training runs on, in Lightning's words; it is no part of a run's config.

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
        classes: the label of each class index; empty where labels are no classes.
        source: where the data comes from.
        licence: under which terms.
        longest_training_sequence: in steps.
        file: the user's file, where it is no data set of the project's own.
    """

    name: str
    classes: list[str]
    source: str
    licence: str
    longest_training_sequence: int
    file: FileSource | None = None


def read_task(path: Path | None) -> str:
    """Return the task a recipe names; it decides how a file's labels are read.

    Raises:
        ValueError: the file is no recipe.
    """
    return str(_read_fields(path).get("task", DEFAULT_TASK))


def read_recipe(path: Path | None, dataset: Dataset, task: str | None = None, **overrides: Any) -> Recipe:
    """Read a recipe: JSON with `task`, and the fields of `EncoderConfig` and `TrainConfig` that are no defaults.

    Args:
        path: the file; None for the defaults alone.
        dataset: says what the encoder reads.
        task: wins over the file; None leaves it to the file.
        overrides: fields of `TrainConfig` that win over the file; None leaves a field alone.

    Raises:
        ValueError: the file is no such JSON.
    """
    fields = _read_fields(path)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        training = TrainConfig(**{**fields.pop("training", {}), **given})
        encoder = EncoderConfig(**{**dataset.inputs, **fields.pop("encoder", {})})
        return Recipe(**{**fields, **({} if task is None else {"task": task})}, encoder=encoder, training=training)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path or 'the default'} is not a recipe: {error}") from error


def _read_fields(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a recipe: it is no JSON object")  # noqa: TRY004 - of the file, not of a type
    return fields
