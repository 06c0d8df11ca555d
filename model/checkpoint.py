"""The run directory: everything a training leaves behind, and all that an export reads.

| file | what it holds |
|---|---|
| `config.json` | encoder, training and data set: see `RunConfig` |
| `weights.safetensors` | encoder and head as trained; never a pickle |
| `samples.safetensors` | held-out sequences with lengths and labels; the export proves itself on them |
| `results.json` | the metrics of these weights |
| `metrics.csv` | losses and accuracies, epoch by epoch |
| `last.ckpt` | Lightning's own state for `--resume`; nothing else reads it |
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch

from model.datasets import LabelledSequences
from model.encoder import EncoderConfig, SequenceEncoder
from model.tasks import SequenceClassifier


class BrokenRun(Exception):
    """A run directory lacks a file, or holds one that does not fit."""

    def __init__(self, run: Path, reason: str) -> None:
        super().__init__(f"{run} cannot be used: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How an encoder is trained.

    Attributes:
        epochs: passes over the training sequences, at most.
        batch_size: sequences in a batch.
        pool_batches: batches cut from one length-sorted pool; more pad less, fewer mix lengths more.
        learning_rate: the peak of the one-cycle schedule (Smith, 2018) that AdamW follows.
        weight_decay: AdamW's.
        label_smoothing: share of each target spread over all classes.
        noise: added to every number; see `model.tasks.Augmentation`.
        offset: added throughout a sequence; see `model.tasks.Augmentation`.
        validation_share: of each class, held out of training to stop it early.
        patience: epochs without a better validation loss before training stops.
        seed: of initial weights, batches, augmentation and the split.
        shuffle_frames: permute the steps of every sequence, in training and test: a control.
    """

    epochs: int = 60
    batch_size: int = 32
    pool_batches: int = 8
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    noise: float = 0.0
    offset: float = 0.0
    validation_share: float = 0.1
    patience: int = 30
    seed: int = 0
    shuffle_frames: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What an encoder was trained on."""

    name: str
    classes: list[str]
    source: str
    licence: str
    longest_training_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """`config.json`: with the weights, all that is needed to build the model again."""

    encoder: EncoderConfig
    training: TrainConfig
    data: DataConfig

    def build(self) -> SequenceClassifier:
        """Build the model with fresh weights."""
        return SequenceClassifier(
            SequenceEncoder(self.encoder), len(self.data.classes), label_smoothing=self.training.label_smoothing
        )


def start_run(run: Path, config: RunConfig) -> None:
    """Start a run directory; what an earlier run left in it goes, so that nothing of two runs is ever mixed."""
    run.mkdir(parents=True, exist_ok=True)
    for name in ("weights.safetensors", "samples.safetensors", "results.json", "metrics.csv", "best.ckpt", "last.ckpt"):
        (run / name).unlink(missing_ok=True)
    _write_json(run / "config.json", dataclasses.asdict(config))


def resume_run(run: Path, config: RunConfig) -> Path:
    """Return the checkpoint a broken-off run goes on from.

    Raises:
        BrokenRun: there is none, or the run was started with another config.
    """
    checkpoint = run / "last.ckpt"
    if not checkpoint.exists():
        raise BrokenRun(run, "there is no last.ckpt to resume from")
    if read_config(run) != config:
        raise BrokenRun(run, "it was started with another config than it is to be resumed with: see its config.json")
    return checkpoint


def read_config(run: Path) -> RunConfig:
    """Read back what `write_config` wrote.

    Raises:
        BrokenRun: the file is missing or is not what this version writes.
    """
    try:
        raw = json.loads((run / "config.json").read_text())
        return RunConfig(
            encoder=EncoderConfig(**raw["encoder"]),
            training=TrainConfig(**raw["training"]),
            data=DataConfig(**raw["data"]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BrokenRun(run, f"config.json: {error}") from error


def write_result(run: Path, model: SequenceClassifier, samples: LabelledSequences, results: dict[str, float]) -> None:
    """Finish a run directory with the trained weights, held-out sequences and metrics."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, run / "weights.safetensors")
    lengths = np.array([len(steps) for steps in samples.sequences], dtype=np.int64)
    ragged: dict[str, npt.NDArray[Any]] = {
        "values": np.concatenate(samples.sequences),
        "lengths": lengths,
        "labels": samples.labels,
    }
    safetensors.numpy.save_file(ragged, run / "samples.safetensors")
    _write_json(run / "results.json", results)


def read_model(run: Path) -> SequenceClassifier:
    """Build the model of a run with its trained weights, in evaluation mode.

    Raises:
        BrokenRun: config or weights are missing or do not fit together.
    """
    model = read_config(run).build()
    try:
        model.load_state_dict(safetensors.torch.load_file(run / "weights.safetensors"))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise BrokenRun(run, f"weights.safetensors: {error}") from error
    return model.eval()


def read_samples(run: Path) -> LabelledSequences:
    """Read the held-out sequences of a run.

    Raises:
        BrokenRun: they are missing.
    """
    try:
        ragged = safetensors.numpy.load_file(run / "samples.safetensors")
        ends = np.cumsum(ragged["lengths"])
        return LabelledSequences(np.split(ragged["values"], ends[:-1]), ragged["labels"])
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise BrokenRun(run, f"samples.safetensors: {error}") from error


def read_results(run: Path) -> dict[str, float]:
    """Read the metrics of a run.

    Raises:
        BrokenRun: they are missing.
    """
    try:
        results: dict[str, float] = json.loads((run / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise BrokenRun(run, f"results.json: {error}") from error
    return results


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
