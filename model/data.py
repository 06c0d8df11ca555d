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


class SequenceSet(Dataset[Batch]):
    """Labelled sequences, a padded batch at a time."""

    def __init__(self, data: LabelledSequences) -> None:
        self._sequences = [torch.from_numpy(steps) for steps in data.sequences]
        self._labels = torch.from_numpy(data.labels)

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self._sequences)

    def __getitem__(self, rows: list[int]) -> Batch:
        """Right-pad the given sequences to the longest of them."""
        sequences = [self._sequences[row] for row in rows]
        return Batch(
            sequences=torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True),
            lengths=torch.tensor([len(steps) for steps in sequences]),
            labels=self._labels[rows],
        )


class LengthBuckets(Sampler[list[int]]):
    """Batches of sequences alike in length, in random order.

    Each epoch the sequences are shuffled, cut into pools of several batches, sorted by length within a pool and cut
    into batches: little is padded, and batches still differ from epoch to epoch. An epoch's draw depends on the seed
    and its number only, so that a resumed training meets the batches an unbroken one would.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0, pool_batches: int = 8) -> None:
        self._lengths = torch.tensor(lengths)
        self._batch_size = batch_size
        self._pool = batch_size * pool_batches
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to draw, as Lightning does before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        pools, rest = divmod(len(self._lengths), self._pool)
        return pools * self._pool // self._batch_size + -(-rest // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Draw the epoch's batches."""
        draw = torch.Generator().manual_seed(mix_seed(self._seed, self._epoch))
        batches: list[Tensor] = []
        for pool in torch.split(torch.randperm(len(self._lengths), generator=draw), self._pool):
            by_length = pool[self._lengths[pool].argsort(stable=True)]
            batches.extend(torch.split(by_length, self._batch_size))
        for place in torch.randperm(len(batches), generator=draw).tolist():
            yield batches[place].tolist()


def mix_seed(seed: int, count: int) -> int:
    """Return a seed for the `count`-th of many draws, unrelated to those of other seeds and counts."""
    return int(np.random.SeedSequence([seed, count]).generate_state(1)[0])


def in_order(count: int, batch_size: int = 64) -> list[list[int]]:
    """Return the rows of `count` sequences batch by batch, as they stand."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


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
