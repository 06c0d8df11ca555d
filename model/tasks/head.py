"""The head of a task: what makes a prediction of an embedding."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.tasks.config import TrainConfig

Floats: TypeAlias = npt.NDArray[np.float64]
Predicted: TypeAlias = Literal["class", "number", "token"]


@dataclass(frozen=True, slots=True)
class FoldedHead:
    """A head as one linear map, which does in service all that it does in evaluation.

    Attributes:
        predicts: what a row of its result is: the scores of classes, a number, or the scores of the next token.
        weight: `(K, D)`; of the next token `(K, W)`, for the top layer's output at a sequence's last step.
        bias: `(K,)`; what can never be predicted has the least float32.
        unit: the least that differences of its results are relative to: 1, or the standard deviation of a regressor's
            targets if that is less.
    """

    predicts: Predicted
    weight: Floats
    bias: Floats
    unit: float = 1.0


class LinearHead(nn.Linear):
    """A linear function of the embedding, of which training may drop numbers before it normalises them over the batch.

    Both act on the pooled vector, not on steps: what they do to one step would change how steps vary.
    """

    def __init__(self, dim: int, outputs: int, training: TrainConfig) -> None:
        """Make fresh weights.

        Args:
            dim: D, the numbers in an embedding.
            outputs: K, the numbers it makes of one.
            training: says whether to normalise, and how much to drop.
        """
        super().__init__(dim, outputs)
        self.norm = nn.BatchNorm1d(dim) if training.head_norm else None
        self.dropout = nn.Dropout(training.head_dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map `(B, D)` to `(B, K)`."""
        embeddings = self.dropout(embeddings)
        if self.norm is not None:
            self.norm.train(self.training and len(embeddings) > 1)  # a lone row has no deviation but the running one
            embeddings = self.norm(embeddings)
        return super().forward(embeddings)

    def fold(self) -> tuple[Floats, Floats]:
        """Return the weights `(K, D)` and bias `(K,)` that do in service all that the head does in evaluation."""
        with torch.no_grad():
            weight, bias = self.weight.double(), self.bias.double()
            if (norm := self.norm) is not None:
                assert norm.running_mean is not None  # noqa: S101 - it tracks statistics, as by default
                assert norm.running_var is not None  # noqa: S101
                scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
                bias = bias + weight @ (norm.bias.double() - norm.running_mean.double() * scale)
                weight = weight * scale
        return weight.cpu().numpy(), bias.cpu().numpy()
