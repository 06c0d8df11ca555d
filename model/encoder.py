"""The sequence encoder: padded batch and lengths in, one embedding a row out."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.pooling import AttentionPooling, Pooling, pool
from model.recurrent import Cell, RecurrentLayer, State, valid_mask

PAD_ID = 0  # the token that fills padded rows; it is never a step


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What an encoder is made of; with the weights, all that an export needs.

    Attributes:
        features: F, the numbers in a step; None where steps are token ids.
        vocabulary: V, the number of token ids, 0 (padding) included; None where steps are numbers.
        embedding: E, the numbers a token becomes; the fourth root of V, rounded down, where it is None.
        cell: `lstm`, `gru` or `rnn` (tanh).
        reset_after: of a GRU: the reset gate acts after the recurrent product, as in torch, or before it, as in
            TensorFlow 1.
        bidirectional: read each sequence backwards too.
        hidden: H, units in each direction of each layer.
        layers: each reads the whole output of the one below.
        dropout: share of units dropped in training only: of embedded tokens, between layers and before pooling.
        standardize: scale features by a mean and standard deviation fitted on the training sequences.
        pooling: how steps become one vector; see `model.pooling`.
        projection: P, the numbers a linear map without bias makes of the pooled ones; None for no such map.
        normalize: scale embeddings to L2 norm 1; a zero vector stays zero.
    """

    features: int | None = None
    vocabulary: int | None = None
    embedding: int | None = None
    cell: Cell = "lstm"
    reset_after: bool = True
    bidirectional: bool = True
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.0
    standardize: bool = True
    pooling: Pooling = "mean"
    projection: int | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        """Refuse what no encoder can be."""
        if (self.features is None) == (self.vocabulary is None):
            raise ValueError("an encoder reads either features or token ids of a vocabulary: give one of the two")
        for name in ("features", "embedding", "hidden", "layers", "projection"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"encoder {name} is {value}: it must be at least 1")
        if self.vocabulary is not None and self.vocabulary < 2:
            raise ValueError(f"encoder vocabulary is {self.vocabulary}: it must be at least 2, padding and a token")
        if self.embedding is not None and self.vocabulary is None:
            raise ValueError("encoder embedding is for token ids, and this encoder reads features")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"encoder dropout is {self.dropout}: it must be in [0, 1)")
        for name, choices in (("cell", ("lstm", "gru", "rnn")), ("pooling", Pooling.__args__)):  # type: ignore[attr-defined]
            if getattr(self, name) not in choices:
                raise ValueError(f"encoder {name} is {getattr(self, name)!r}: it must be one of {', '.join(choices)}")

    @property
    def step_size(self) -> int:
        """I, the numbers that reach the first layer at each step: F, or E."""
        if self.features is not None:
            return self.features
        return self.embedding or max(1, int((self.vocabulary or 0) ** 0.25))

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def width(self) -> int:
        """W, the numbers in a layer's output at each step."""
        return self.directions * self.hidden

    @property
    def dim(self) -> int:
        """D, the numbers in an embedding."""
        return self.projection or self.width * (2 if self.pooling == "mean+max" else 1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """All that an encoder gives.

    Attributes:
        embedding: `(B, D)`.
        steps: `(B, T, W)`, the top layer's outputs, zero past each row's length.
        state: after each row's last valid step.
    """

    embedding: Tensor
    steps: Tensor
    state: State


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

        A feature that varies by less than float32 tells keeps a standard deviation of 1: it maps to zero, not to NaN.
        """
        count = sum(map(len, sequences))
        mean = torch.stack([steps.double().sum(dim=0) for steps in sequences]).sum(dim=0) / count
        squares = torch.stack([(steps.double() - mean).square().sum(dim=0) for steps in sequences]).sum(dim=0)
        std = (squares / count).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > torch.finfo(torch.float32).eps * mean.abs(), std, 1.0))

    def forward(self, steps: Tensor) -> Tensor:
        """Map `(..., F)` to `(..., F)`."""
        return (steps - self.mean) / self.std


class SequenceEncoder(nn.Module):
    """Stacked recurrent layers with pooling over each row's valid steps.

    Neither the padding nor the other rows of a batch change a row's embedding.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        standardized = config.features if config.standardize else None
        self.standardization = None if standardized is None else Standardization(standardized)
        tokens = config.vocabulary
        self.embedding = None if tokens is None else nn.Embedding(tokens, config.step_size, padding_idx=PAD_ID)
        sizes = [config.step_size] + [config.width] * (config.layers - 1)
        self.layers = nn.ModuleList(
            RecurrentLayer(
                config.cell,
                size,
                config.hidden,
                bidirectional=config.bidirectional,
                reset_after=config.reset_after,
            )
            for size in sizes
        )
        self.dropout = nn.Dropout(config.dropout)
        self.attention = AttentionPooling(config.width) if config.pooling == "attention" else None
        pooled = config.width * (2 if config.pooling == "mean+max" else 1)
        self.projection = None if config.projection is None else nn.Linear(pooled, config.projection, bias=False)

    def forward(self, sequences: Tensor, lengths: Tensor, state: State | None = None) -> Tensor:
        """Encode a padded batch.

        Args:
            sequences: `(B, T, F)` float32, or `(B, T)` int64 token ids; what stands past a row's length does not
                matter.
            lengths: `(B,)`, int64, `0 <= lengths[i] <= T`.
            state: to start from; zero where there is none.

        Returns:
            `(B, D)`, float32; the zero vector for a zero-length row.
        """
        return self.pool(self.run_layers(sequences, lengths, state)[-1], lengths)

    def run(self, sequences: Tensor, lengths: Tensor, state: State | None = None) -> Encoded:
        """Encode a padded batch and keep the outputs of every step and the final state; arguments as in `forward`."""
        inputs, *outputs = self.run_layers(sequences, lengths, state)
        finals: list[State] = []
        for index, layer in enumerate(self.layers):
            below = inputs if index == 0 else outputs[index - 1]
            finals.append(
                cast("RecurrentLayer", layer).final_state(below, outputs[index], lengths, _of_layer(state, index))
            )
        cells = [final.c for final in finals if final.c is not None]
        final = State(torch.cat([final.h for final in finals], dim=1), torch.cat(cells, dim=1) if cells else None)
        steps = outputs[-1][:, : sequences.shape[1]]
        return Encoded(self.pool(outputs[-1], lengths), steps, final)

    def run_layers(self, sequences: Tensor, lengths: Tensor, state: State | None = None) -> list[Tensor]:
        """Return what goes into the first layer, `(B, T, I)`, then what each layer puts out, `(B, T, W)`.

        Arguments are those of `forward`; outputs are zero past the length.
        """
        if not sequences.shape[1]:  # nothing but empty rows, which torch's recurrent kernels refuse: pad one step
            sequences = sequences.new_zeros(len(sequences), 1, *sequences.shape[2:])
        if self.embedding is not None:
            steps = self.dropout(
                self.embedding(sequences.masked_fill(~valid_mask(lengths, sequences.shape[1]), PAD_ID))
            )
        else:
            steps = sequences if self.standardization is None else self.standardization(sequences)
        trace = [steps]
        for index, layer in enumerate(self.layers):
            trace.append(self.dropout(layer(trace[-1], lengths, _of_layer(state, index))))
        return trace

    def pool(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Make embeddings `(B, D)` of the top layer's outputs `(B, T, W)`."""
        if self.attention is not None:
            embeddings = self.attention(steps, lengths)
        else:
            embeddings = pool(self.config.pooling, steps, lengths, self.config.directions)
        if self.projection is not None:
            embeddings = self.projection(embeddings)
        return nn.functional.normalize(embeddings, dim=1) if self.config.normalize else embeddings


def _of_layer(state: State | None, index: int) -> State | None:
    if state is None:
        return None
    return State(state.h[:, [index]], None if state.c is None else state.c[:, [index]])
