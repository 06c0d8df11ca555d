"""From sequences to padded batches of tensors: length buckets, augmentation, splits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.data.datasets import LabelledSequences, Unlabelled


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded, labelled batch.

    Attributes:
        sequences: `(B, T, F)` float32, or `(B, T)` int64 token ids; zero past each row's length. Of pairs there are
            2B rows: the partner of row i is row B + i.
        lengths: `(B,)`, int64; of pairs `(2B,)`.
        given_labels: `(B,)`, int64 classes or float32 numbers; None if there are none.
    """

    sequences: Tensor
    lengths: Tensor
    given_labels: Tensor | None

    @property
    def labels(self) -> Tensor:
        """The labels, of which there must be some.

        Raises:
            Unlabelled: there are none.
        """
        if self.given_labels is None:
            raise Unlabelled
        return self.given_labels

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        labels = None if self.given_labels is None else self.given_labels.to(device)
        return Batch(self.sequences.to(device), self.lengths.to(device), labels)


class SequenceSet:
    """Labelled sequences, a padded batch at a time."""

    def __init__(self, data: LabelledSequences) -> None:
        self._sequences = [torch.from_numpy(steps) for steps in data.sequences]
        self._partners = [torch.from_numpy(steps) for steps in data.partners or ()]
        self._labels = None if data.given_labels is None else torch.from_numpy(data.given_labels)

    def __len__(self) -> int:
        """Count the sequences."""
        return len(self._sequences)

    def __getitem__(self, rows: list[int]) -> Batch:
        """Right-pad the given sequences to the longest of them."""
        sequences = [self._sequences[row] for row in rows]
        if self._partners:
            sequences += [self._partners[row] for row in rows]
        return Batch(
            sequences=torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True),
            lengths=torch.tensor([len(steps) for steps in sequences]),
            given_labels=None if self._labels is None else self._labels[rows],
        )


class LengthBuckets:
    """Batches of sequences alike in length, in random order.

    Each epoch the sequences are shuffled, cut into pools of several batches, sorted by length within a pool and cut
    into batches: little is padded, and batches still differ from epoch to epoch. An epoch's draw depends on the seed
    and its number only, so that a resumed training meets the batches an unbroken one would.

    Several processes that train together each draw the same epoch and keep their part of its batches. Since they wait
    for one another, each keeps as many, and a few batches may be met twice.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0, pool_batches: int = 8) -> None:
        self._lengths = torch.tensor(lengths)
        self._batch_size = batch_size
        self._pool = batch_size * pool_batches
        self._seed = seed
        self._rank, self._ranks = 0, 1

    def share(self, rank: int, ranks: int) -> None:
        """Keep the part of process number `rank` of `ranks`."""
        self._rank, self._ranks = rank, ranks

    def __len__(self) -> int:
        """Count the batches of an epoch, for one process."""
        pools, rest = divmod(len(self._lengths), self._pool)
        batches = pools * self._pool // self._batch_size + -(-rest // self._batch_size)
        return math.ceil(batches / self._ranks)

    def draw(self, epoch: int = 0) -> Iterator[list[int]]:
        """Draw the batches of an epoch, the rows of each."""
        draw = torch.Generator().manual_seed(mix_seed(self._seed, epoch))
        batches: list[Tensor] = []
        for pool in torch.split(torch.randperm(len(self._lengths), generator=draw), self._pool):
            by_length = pool[self._lengths[pool].argsort(stable=True)]
            batches.extend(torch.split(by_length, self._batch_size))
        places = torch.randperm(len(batches), generator=draw).tolist()
        for place in range(self._rank, len(self) * self._ranks, self._ranks):
            yield batches[places[place % len(places)]].tolist()


def mix_seed(seed: int, count: int) -> int:
    """Return a seed for the `count`-th of many draws, unrelated to those of other seeds and counts."""
    return int(np.random.SeedSequence([seed, count]).generate_state(1)[0])


def in_order(count: int, batch_size: int = 64) -> list[list[int]]:
    """Return the rows of `count` sequences batch by batch, as they stand."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
