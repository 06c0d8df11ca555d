"""The run directory: everything a training leaves behind, and all that an export reads.

| file | what it holds |
|---|---|
| `config.json` | task, encoder, training and data set: see `RunConfig` |
| `weights.safetensors` | the task's module as trained, its encoder under `encoder.`; never a pickle |
| `samples.safetensors` | held-out sequences, on which the export proves itself; lengths of those trained on |
| `tokenizer.json` | if sequences were texts: what made ids of them; see `model.data.texts` |
| `results.json` | the metrics of these weights |
| `metrics.csv` | losses and validation metrics, epoch by epoch |
| `report.html`, `report/` | the report and its pictures; by `lengthwise report` |
| `last.ckpt` | all that `--resume` goes on from, as of the last epoch; nothing else reads it |
"""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
import torch

from model.data.datasets import FileSource, LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.tasks.task import Task
from model.training.recipe import DEFAULT_TASK, DataConfig

OUTPUTS = (
    "weights.safetensors",
    "samples.safetensors",
    "tokenizer.json",
    "results.json",
    "metrics.csv",
    "best.ckpt",  # of 0.1.0
    "last.ckpt",
    "report.html",
)


class BrokenRun(Exception):
    """A run directory lacks a file, or holds one that does not fit."""

    def __init__(self, run: Path, reason: str) -> None:
        super().__init__(f"{run} cannot be used: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """`config.json`: with the weights, all that is needed to build the model again.

    Attributes:
        task: what was learned.
        encoder: what was trained.
        training: how.
        data: on what.
        start: the directory of the run whose encoder it went on from; None for fresh weights.
    """

    task: str = DEFAULT_TASK
    encoder: EncoderConfig
    training: TrainConfig
    data: DataConfig
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse a task nobody knows."""
        if self.task not in TASKS:
            raise ValueError(f"the task {self.task!r} is not one of {', '.join(TASKS)}")

    def build(self) -> Task:
        """Build the model with fresh weights."""
        return TASKS[self.task](SequenceEncoder(self.encoder), self.training, len(self.data.classes))


def start_run(run: Path, config: RunConfig, tokenizer: str | None = None) -> None:
    """Start a run directory; what an earlier run left in it goes, so that nothing of two runs is ever mixed.

    Args:
        run: the directory.
        config: what is to be trained.
        tokenizer: if sequences were texts, the JSON of what made ids of them.
    """
    run.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "report", ignore_errors=True)
    _write_json(run / "config.json", dataclasses.asdict(config))
    if tokenizer is not None:
        (run / "tokenizer.json").write_text(tokenizer, encoding="utf-8")


def resume_run(run: Path, config: RunConfig) -> dict[str, Any]:
    """Return the checkpoint that a broken-off training goes on from; see `write_checkpoint`.

    Raises:
        BrokenRun: there is none, it cannot be read, or the run was started with another config.
    """
    path = run / "last.ckpt"
    if not path.exists():
        raise BrokenRun(run, "there is no last.ckpt to resume from")
    if read_config(run) != config:
        raise BrokenRun(run, "it was started with another config than it is to be resumed with: see its config.json")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise BrokenRun(run, f"last.ckpt: {error}") from error
    if "history" not in checkpoint:  # 0.1.0 left it to PyTorch Lightning
        raise BrokenRun(run, "another version wrote its last.ckpt: resume with that, or train anew without --resume")
    return checkpoint


def write_checkpoint(run: Path, checkpoint: dict[str, Any]) -> None:
    """Write `last.ckpt`, which is whole at any moment: a training may be killed while it is written."""
    partial = run / "last.partial"
    torch.save(checkpoint, partial)
    partial.replace(run / "last.ckpt")


def write_metrics(run: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write `metrics.csv`, a row for each epoch; it is whole at any moment too."""
    rows = [",".join([str(epoch), *(f"{value:.6g}" for value in row.values())]) for epoch, row in enumerate(history)]
    partial = run / "metrics.partial"
    partial.write_text("\n".join([",".join(["epoch", *history[0]]), *rows, ""]), encoding="utf-8")
    partial.replace(run / "metrics.csv")


def read_config(run: Path) -> RunConfig:
    """Read back the configuration that `start_run` wrote.

    Raises:
        BrokenRun: the file is missing or is not what this version writes.
    """
    try:
        raw = json.loads((run / "config.json").read_text())
        file = raw["data"].pop("file")
        return RunConfig(
            task=raw["task"],
            encoder=EncoderConfig(**raw["encoder"]),
            training=TrainConfig(**raw["training"]),
            data=DataConfig(**raw["data"], file=None if file is None else read_source(file)),
            start=raw.get("start"),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BrokenRun(run, f"config.json: {error}") from error


def read_source(fields: dict[str, Any]) -> FileSource:
    """Read back where a user's file is and how it is read; JSON has no tuples."""
    features = fields.get("features")
    return FileSource(**fields | {"features": None if features is None else tuple(features)})


def write_result(
    run: Path,
    model: Task,
    samples: LabelledSequences,
    results: dict[str, float],
    training_lengths: Sequence[int] = (),
) -> None:
    """Finish a run directory with the trained weights, held-out sequences and metrics.

    Args:
        run: the directory.
        model: as trained.
        samples: held-out sequences.
        results: the metrics.
        training_lengths: steps in each sequence trained on, for the report.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, run / "weights.safetensors")
    sequences = [*samples.sequences, *(samples.partners or ())]
    ragged: dict[str, npt.NDArray[Any]] = {
        "values": np.concatenate(sequences),
        "lengths": np.array([len(steps) for steps in sequences], dtype=np.int64),
        "training_lengths": np.array(training_lengths, dtype=np.int64),
    }
    if samples.given_labels is not None:
        ragged["labels"] = samples.given_labels
    safetensors.numpy.save_file(ragged, run / "samples.safetensors")
    _write_json(run / "results.json", results)


def read_model(run: Path) -> Task:
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
    ragged = _read_ragged(run)
    ends = np.cumsum(ragged["lengths"])
    sequences, labels = np.split(ragged["values"], ends[:-1]), ragged.get("labels")
    if labels is None or not labels.size:  # as 0.1.0 wrote that there are none
        return LabelledSequences(sequences, None)
    return LabelledSequences(sequences[: len(labels)], labels, sequences[len(labels) :] or None)


def read_tokenizer(run: Path) -> str | None:
    """Read the JSON of what made ids of a run's texts; None if its sequences were not texts.

    Raises:
        BrokenRun: it cannot be read.
    """
    path = run / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except (OSError, ValueError) as error:
        raise BrokenRun(run, f"tokenizer.json: {error}") from error


def read_training_lengths(run: Path) -> list[int]:
    """Read how many steps each sequence trained on has.

    Raises:
        BrokenRun: they are missing.
    """
    lengths: list[int] = _read_ragged(run)["training_lengths"].tolist()
    return lengths


def _read_ragged(run: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        ragged = safetensors.numpy.load_file(run / "samples.safetensors")
    except (OSError, safetensors.SafetensorError) as error:
        raise BrokenRun(run, f"samples.safetensors: {error}") from error
    if missing := {"values", "lengths", "training_lengths"} - ragged.keys():
        raise BrokenRun(run, f"samples.safetensors: it lacks {', '.join(sorted(missing))}")
    return ragged


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
