"""`python -m bench training`: sequences a second in training, our batches against packed ones in random order.

Both train a bidirectional LSTM of the same size with the same head and optimizer, forward, backward and step, on the
same sequences of 1 to 200 steps. Ours is the project's own path: batches alike in length, padded, in the encoder that
is exact over padding. The other is what PyTorch's tutorials do: batches in random order, `pack_padded_sequence`,
`nn.LSTM(bidirectional=True)`, the mean over valid steps. Two more rows say which part gains what. Prints a table and
ends with one JSON line.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.data.batches import Batch, LengthBuckets, SequenceSet
from model.data.datasets import LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.config import TrainConfig
from model.tasks.supervised import SequenceClassifier
from service.costs.cpus import available_cpus

CLASSES = 10
LENGTHS = {
    "log-normal, median 33": lambda draw, count: draw.lognormal(3.5, 0.8, count).clip(1, 200),
    "uniform": lambda draw, count: draw.integers(1, 201, count),
}


class PackedClassifier(nn.Module):
    """The usual PyTorch model of packed sequences."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, CLASSES)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of a padded batch, packed first."""
        packed = nn.utils.rnn.pack_padded_sequence(
            batch.sequences, batch.lengths, batch_first=True, enforce_sorted=False
        )
        steps, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        embeddings = steps.sum(dim=1) / batch.lengths[:, None]
        return nn.functional.cross_entropy(self.head(embeddings), batch.labels)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model on batches of one kind.

    Attributes:
        name: the row's name.
        module: what is trained.
        loss: what gives a batch's loss.
        batches: rows of each.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch], Tensor]
    batches: list[list[int]]

    def train_once(self, data: SequenceSet) -> float:
        """Train over the batches once, and return sequences a second."""
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3)
        began = time.perf_counter()
        for rows in self.batches:
            optimizer.zero_grad()
            self.loss(data[rows]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            optimizer.step()
        return len(data) / (time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench training", description=__doc__)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--features", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(
        f"{options.sequences} sequences of {options.features} features, {options.hidden} units a direction, batches of "
        f"{options.batch_size}, {options.threads} threads of {available_cpus()} CPUs, median of {options.rounds} passes"
    )
    medians = {name: measure_lengths(name, options) for name in LENGTHS}
    machine = {"threads": options.threads, "cpus": available_cpus(), "machine": platform.machine()}
    print(json.dumps({"bench": "training", "sequences_per_second": medians, **machine, "torch": torch.__version__}))


def measure_lengths(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure both models on batches of both kinds, for one distribution of lengths, and print a row for each."""
    draw = np.random.default_rng(0)
    lengths = LENGTHS[name](draw, options.sequences).astype(int).tolist()
    steps = [draw.standard_normal((length, options.features)).astype(np.float32) for length in lengths]
    data = SequenceSet(LabelledSequences(steps, draw.integers(0, CLASSES, len(steps))))
    shuffled = draw.permutation(len(data))
    cuts = range(options.batch_size, len(data), options.batch_size)
    kinds = {
        "in random order": [rows.tolist() for rows in np.split(shuffled, cuts)],
        "alike in length": list(LengthBuckets(lengths, options.batch_size).draw()),
    }
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderConfig(features=options.features, hidden=options.hidden))
    padded = SequenceClassifier(encoder, TrainConfig(label_smoothing=0.0), CLASSES)
    packed = PackedClassifier(options.features, options.hidden)
    contestants = [
        Contestant(f"{model}, {order}", module, module.training_loss, batches)
        for order, batches in kinds.items()
        for model, module in (("packed", packed), ("padded", padded))
    ]
    # They take turns, so that whatever else the machine does meets all of them; the first round warms up.
    rounds = [[one.train_once(data) for one in contestants] for _ in range(options.rounds + 1)][1:]
    print(f"\n{name + ' steps':36}{'sequences/s':>12}{'min':>8}{'max':>8}{'padded/valid':>14}{'gain':>7}")
    medians: dict[str, float] = {}
    for place, one in enumerate(contestants):
        speeds = [speeds[place] for speeds in rounds]
        medians[one.name] = round(statistics.median(speeds), 1)
        padding = sum(len(rows) * max(lengths[row] for row in rows) for rows in one.batches) / sum(lengths)
        gain = medians[one.name] / medians[contestants[0].name]
        row = f"{medians[one.name]:12.1f}{min(speeds):8.1f}{max(speeds):8.1f}{padding:14.2f}{gain:6.2f}x"
        print(f"{one.name:36}{row}")
    return medians
