"""What an encoder is trained to do: a head, a loss and a metric on top of its embeddings."""

import torch
from torch import Tensor, nn

from model.encoder import SequenceEncoder


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
