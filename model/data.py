"""From sequences to padded batches of tensors: length buckets, augmentation, splits."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from model.datasets import LabelledSequences


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded, labelled batch.

    Attributes:
        sequences: `(B, T, F)`, float32, zero past each row's length.
        lengths: `(B,)`, int64.
        labels: `(B,)`, int64.
    """

    sequences: Tensor
    lengths: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move to a device, as Lightning asks of batches."""
        return Batch(self.sequences.to(device), self.lengths.to(device), self.labels.to(device))


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


class SequenceSet(Dataset[tuple[Tensor, int]]):
    """Labelled sequences as tensors, changed at random where an augmentation is given."""

    def __init__(
        self, data: LabelledSequences, augmentation: Augmentation | None = None, scale: Tensor | None = None
    ) -> None:
        """Hold `data`; `scale` is the `(F,)` standard deviation that the augmentation counts in."""
        self._sequences = [torch.from_numpy(steps) for steps in data.sequences]
        self._labels = data.labels.tolist()
        self._augmentation = augmentation
        self._scale = torch.ones(self._sequences[0].shape[1]) if scale is None else scale

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self._sequences)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return `(t, F)` steps and their class."""
        steps = self._sequences[index]
        if self._augmentation is not None:
            steps = steps + self._scale * self._augmentation.noise * torch.randn_like(steps)
            steps = steps + self._scale * self._augmentation.offset * torch.randn_like(steps[:1])
        return steps, self._labels[index]


def collate(items: list[tuple[Tensor, int]]) -> Batch:
    """Right-pad `(t_i, F)` sequences to the longest of them."""
    sequences, labels = zip(*items, strict=True)
    return Batch(
        sequences=torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True),
        lengths=torch.tensor([len(steps) for steps in sequences]),
        labels=torch.tensor(labels),
    )


class LengthBuckets(Sampler[list[int]]):
    """Batches of sequences alike in length, in random order.

    Each epoch the sequences are shuffled, cut into pools of several batches, sorted by length within a pool and cut
    into batches: little is padded, and batches still differ from epoch to epoch.
    """

    def __init__(self, lengths: list[int], batch_size: int, pool_batches: int = 8) -> None:
        self._lengths = torch.tensor(lengths)
        self._batch_size = batch_size
        self._pool = batch_size * pool_batches

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        pools, rest = divmod(len(self._lengths), self._pool)
        return pools * self._pool // self._batch_size + -(-rest // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Draw an epoch's batches from torch's global generator."""
        batches: list[Tensor] = []
        for pool in torch.split(torch.randperm(len(self._lengths)), self._pool):
            by_length = pool[self._lengths[pool].argsort(stable=True)]
            batches.extend(torch.split(by_length, self._batch_size))
        for place in torch.randperm(len(batches)).tolist():
            yield batches[place].tolist()


def split_stratified(data: LabelledSequences, share: float, seed: int) -> tuple[LabelledSequences, LabelledSequences]:
    """Carve a validation set out of `data`, with the same share of every class.

    Args:
        data: at least one sequence of each class.
        share: of each class, rounded up.
        seed: of the draw.

    Returns:
        What remains for training, and the validation set.
    """
    draw = np.random.default_rng(seed)
    held_out: list[npt.NDArray[np.int64]] = []
    for label in np.unique(data.labels):
        rows = draw.permutation(np.flatnonzero(data.labels == label))
        held_out.append(rows[: int(np.ceil(share * len(rows)))])
    validation = np.sort(np.concatenate(held_out))
    training = np.setdiff1d(np.arange(len(data)), validation)
    return data.subset(training), data.subset(validation)


def shuffle_frames(data: LabelledSequences, seed: int) -> LabelledSequences:
    """Permute the steps of every sequence: the control that shows what order is worth."""
    draw = np.random.default_rng(seed)
    return LabelledSequences([draw.permutation(steps) for steps in data.sequences], data.labels)
