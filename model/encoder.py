"""The sequence encoder: padded batch and lengths in, one embedding a row out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.pooling import masked_mean
from model.recurrent import BidirectionalLSTM


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What an encoder is made of; with the weights, all that an export needs.

    Attributes:
        features: F, the numbers in a step.
        hidden: H, LSTM units in each direction of each layer.
        layers: bidirectional LSTM layers, each reading the whole output of the one below.
        dropout: share of units dropped between layers and before pooling, in training only.
        standardize: scale features by a mean and standard deviation fitted on the training sequences.
        pooling: how steps become one vector.
    """

    features: int
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.0
    standardize: bool = True
    pooling: Literal["mean"] = "mean"

    def __post_init__(self) -> None:
        """Refuse sizes no encoder can have."""
        for name in ("features", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"encoder {name} is {getattr(self, name)}: it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"encoder dropout is {self.dropout}: it must be in [0, 1)")

    @property
    def dim(self) -> int:
        """D, the numbers in an embedding: both directions of the top layer."""
        return 2 * self.hidden


class Standardization(nn.Module):
    """Scale each feature to mean 0 and standard deviation 1 of the training sequences."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, sequences: list[Tensor]) -> None:
        """Take mean and standard deviation over all steps of `sequences`, each `(t_i, F)`.

        A feature that never varies keeps a standard deviation of 1, so that it maps to zero, not to NaN.
        """
        steps = torch.cat(sequences).double()
        std = steps.std(dim=0, correction=0)
        self.mean.copy_(steps.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, steps: Tensor) -> Tensor:
        """Map `(..., F)` to `(..., F)`."""
        return (steps - self.mean) / self.std


class SequenceEncoder(nn.Module):
    """Stacked bidirectional LSTM with masked mean pooling.

    Neither the padding nor the other rows of a batch change a row's embedding.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.standardization = Standardization(config.features) if config.standardize else None
        sizes = [config.features] + [config.dim] * (config.layers - 1)
        self.layers = nn.ModuleList(BidirectionalLSTM(size, config.hidden) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Encode a padded batch.

        Args:
            sequences: `(B, T, F)`, float32; what stands past a row's length does not matter.
            lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.

        Returns:
            `(B, D)`, float32; the zero vector for a zero-length row.
        """
        if not sequences.shape[1]:  # nothing but empty rows, which torch's recurrent kernels refuse
            return sequences.new_zeros(len(sequences), self.config.dim)
        steps = sequences if self.standardization is None else self.standardization(sequences)
        for layer in self.layers:
            steps = self.dropout(layer(steps, lengths))
        return masked_mean(steps, lengths)
