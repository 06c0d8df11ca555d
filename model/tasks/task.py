"""What an encoder is trained to do: a head, a loss and metrics on top of its embeddings.

A task is a module that holds the encoder under the name `encoder`, so that an export finds it in any run. Training,
evaluation and report know tasks by `Task` alone; a new one is a class here or beside, with a line in
`model.tasks.catalogue.TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.data.batches import Batch, SequenceSet, in_order
from model.data.datasets import Dataset, LabelKind, LabelledSequences
from model.encoder.encoder import EncoderOutput, SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.head import FoldedHead


class WrongLabels(ValueError):
    """A task cannot learn from a data set's labels."""

    def __init__(self, task: str, needed: LabelKind, dataset: Dataset) -> None:
        found = {"pairs": "numbers of pairs", "none": "nothing"}.get(dataset.label_kind, dataset.label_kind)
        super().__init__(f"the task {task} learns from {needed}, and {dataset.name} is labelled with {found}")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training sequences, in units of each feature's standard deviation.

    Attributes:
        noise: standard deviation of what is added to every number on its own.
        offset: standard deviation of what is added to a feature throughout a sequence, as another microphone or
            sensor would.
    """

    noise: float = 0.0
    offset: float = 0.0

    def __call__(self, sequences: Tensor, std: Tensor) -> Tensor:
        """Change a padded batch `(B, T, F)`, with `std` `(F,)` from the training sequences."""
        offset = self.offset * torch.randn_like(sequences[:, :1])
        return sequences + std * (self.noise * torch.randn_like(sequences) + offset)


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a task does on each of n sequences, for the report.

    Attributes:
        predicted: `(n,)`, class indices or numbers.
        merit: `(n,)`, float64: 1 or 0 for right or wrong, or the absolute error.
        merit_name: what the mean of `merit` is called.
    """

    predicted: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    merit: npt.NDArray[np.float64]
    merit_name: str


class Task(nn.Module, ABC):
    """An encoder and what it is trained to do.

    Every task is built from an encoder, the training config and the number of classes (0 if there are none).

    Attributes:
        name: in recipes, in `config.json` and on the command line.
        labels: what it learns from.
        monitor: the metric of `measure` that ends a training when it stops improving.
        monitor_mode: whether less or more of it is better.
    """

    name: ClassVar[str]
    labels: ClassVar[LabelKind]
    monitor: ClassVar[str] = "loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, encoder: SequenceEncoder, training: TrainConfig, _classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self._augmentation = Augmentation(training.noise, training.offset)

    @abstractmethod
    def training_loss(self, batch: Batch) -> Tensor:
        """Return the loss to minimise on a batch, a scalar."""

    @abstractmethod
    def measure(self, data: LabelledSequences) -> dict[str, float]:
        """Return the metrics over all of `data`, in evaluation mode: `loss` (of this training), and what users read."""

    def judge(self, _data: LabelledSequences) -> Judgement | None:
        """Judge each sequence on its own; None if a task predicts nothing of a sequence as a whole."""
        return None

    def predict(self, _encoded: EncoderOutput) -> Tensor:
        """Predict from what the encoder gave for B sequences: `(B, K)`, as `fold_head` says what it is.

        Raises:
            NotImplementedError: the task predicts nothing of a sequence.
        """
        raise NotImplementedError(f"the task {self.name} predicts nothing of a sequence")

    def fold_head(self) -> FoldedHead | None:
        """Return the linear map that `predict` is; None where the task predicts nothing of a sequence."""
        return None

    def measure_baselines(self, _dataset: Dataset) -> dict[str, float]:
        """Return what simpler methods reach on the test sequences; nothing if the task knows none."""
        return {}

    def set_token_vectors(self, vectors: npt.NDArray[np.float32]) -> None:
        """Start from pretrained vectors `(V, E)` of the token ids."""
        if self.encoder.embedding is None:
            raise ValueError("token vectors are for token ids, and this encoder reads features")
        with torch.no_grad():
            self.encoder.embedding.weight.copy_(torch.from_numpy(vectors))

    def prepare(self, data: LabelledSequences) -> None:
        """Fit what is not learned by descent, here the standardisation, on the sequences to be trained on."""
        self.encoder.fit_statistics([torch.from_numpy(steps) for steps in data.sequences])

    def calibrate(self, _data: LabelledSequences, _train_on: Callable[[LabelledSequences], "Task"]) -> dict[str, float]:
        """Adjust the trained head by how tasks like this one do on sequences that they have not seen.

        Args:
            _data: what this one was trained on.
            _train_on: trains another one on a part of these.

        Returns:
            What was chosen, to be recorded; nothing if the task adjusts nothing.
        """
        return {}

    def augment(self, sequences: Tensor) -> Tensor:
        """Change a padded training batch as the recipe says; token ids stay what they are."""
        if not sequences.is_floating_point():
            return sequences
        standardization = self.encoder.standardization
        std = torch.ones((), device=sequences.device) if standardization is None else standardization.std
        return self._augmentation(sequences, std)


def run_batches(module: nn.Module, run: Callable[[Tensor, Tensor], Tensor], data: LabelledSequences) -> Tensor:
    """Run sequences through a module or a part of it, in evaluation mode and without gradients.

    Args:
        module: put into evaluation mode, and back.
        run: maps a padded batch and its lengths `(B,)` to `(B, ...)`.
        data: n sequences; their partners stay out.

    Returns:
        `(n, ...)`, row i for sequence i, on the module's device.
    """
    items = SequenceSet(LabelledSequences(data.sequences, None))
    device, was_training = next(module.parameters()).device, module.training
    module.eval()
    by_length = np.argsort(data.lengths, kind="stable")  # little is padded
    with torch.no_grad():
        batches = (items[by_length[rows].tolist()].to(device) for rows in in_order(len(data)))
        outputs = torch.cat([run(batch.sequences, batch.lengths) for batch in batches])
    module.train(was_training)
    return outputs[torch.from_numpy(np.argsort(by_length)).to(device)]
