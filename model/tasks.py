"""What an encoder is trained to do: a head, a loss and a metric on top of its embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.encoder import SequenceEncoder


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


class SequenceClassifier(nn.Module):
    """A linear classifier on the embeddings."""

    def __init__(self, encoder: SequenceEncoder, classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.dim, classes)
        self._label_smoothing = label_smoothing

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Score the classes: `(B, T, F)` and `(B,)` to `(B, classes)` logits."""
        logits: Tensor = self.head(self.encoder(sequences, lengths))
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of `(B, classes)` logits with `(B,)` labels, smoothed in training only."""
        smoothing = self._label_smoothing if self.training else 0.0
        return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    @staticmethod
    def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
        """Return the share of rows whose best class is the label's."""
        return (logits.argmax(dim=1) == labels).to(torch.float32).mean()
