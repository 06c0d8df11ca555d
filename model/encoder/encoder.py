"""The sequence encoder: padded batch and lengths in, one embedding a row out."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.encoder.config import EncoderConfig
from model.encoder.pooling import AttentionPooling, pool
from model.encoder.recurrent import RecurrentLayer, RecurrentState, valid_mask
from model.encoder.slopes import measure_slopes

PAD_ID = 0  # the token that fills padded rows; it is never a step


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """All that an encoder gives.

    Attributes:
        embedding: `(B, D)`.
        steps: `(B, T, W)`, the top layer's outputs, zero past each row's length.
        state: after each row's last valid step.
    """

    embedding: Tensor
    steps: Tensor
    state: RecurrentState


class Standardization(nn.Module):
    """Scale each feature to mean 0 and standard deviation 1 of the training sequences."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, sequences: list[Tensor], size: float = 0.0) -> None:
        """Take mean and standard deviation over all steps of `sequences`, each `(t_i, F)`.

        A feature that varies by less than float32 tells keeps a standard deviation of 1: it maps to zero, not to NaN.

        Args:
            sequences: to fit on.
            size: of the numbers that a feature was computed from, if these were larger than the feature.
        """
        count = sum(map(len, sequences))
        mean = torch.stack([steps.double().sum(dim=0) for steps in sequences]).sum(dim=0) / count
        squares = torch.stack([(steps.double() - mean).square().sum(dim=0) for steps in sequences]).sum(dim=0)
        std = (squares / count).sqrt().float()  # as it will be divided by: what is too small for float32 is 0
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > torch.finfo(torch.float32).eps * mean.abs().clamp(min=size), std, 1.0))

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
        sloped = config.features if config.standardize and config.deltas else None
        self.slope_standardization = None if sloped is None else Standardization(sloped)
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
        size = config.projection
        self.projection = None if size is None else nn.Linear(config.pooled, size, bias=False)

    def fit_statistics(self, sequences: list[Tensor]) -> None:
        """Fit what features, and then their slopes, are scaled by on training sequences, each `(t_i, F)`."""
        if self.standardization is None:
            return
        self.standardization.fit(sequences)
        if self.slope_standardization is not None:
            scaled = [self.standardization(steps)[None] for steps in sequences]
            slopes = [measure_slopes(row, torch.tensor([row.shape[1]]), self.config.deltas)[0] for row in scaled]
            self.slope_standardization.fit(slopes, size=1.0)  # a feature that rounds to a constant has no slope

    def forward(self, sequences: Tensor, lengths: Tensor, state: RecurrentState | None = None) -> Tensor:
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

    def run(self, sequences: Tensor, lengths: Tensor, state: RecurrentState | None = None) -> EncoderOutput:
        """Encode a padded batch and keep the outputs of every step and the final state; arguments as in `forward`."""
        inputs, *outputs = self.run_layers(sequences, lengths, state)
        finals: list[RecurrentState] = []
        for index, layer in enumerate(self.layers):
            below = inputs if index == 0 else outputs[index - 1]
            finals.append(
                cast("RecurrentLayer", layer).final_state(below, outputs[index], lengths, _of_layer(state, index))
            )
        cells = [final.c for final in finals if final.c is not None]
        final = RecurrentState(
            torch.cat([final.h for final in finals], dim=1), torch.cat(cells, dim=1) if cells else None
        )
        steps = outputs[-1][:, : sequences.shape[1]]
        return EncoderOutput(self.pool(outputs[-1], lengths), steps, final)

    def run_layers(self, sequences: Tensor, lengths: Tensor, state: RecurrentState | None = None) -> list[Tensor]:
        """Return what goes into the first layer, `(B, T, I)`, then what each layer puts out, `(B, T, W)`.

        Arguments are those of `forward`; outputs are zero past the length.
        """
        if state is not None:
            self.config.require_state()
        if not sequences.shape[1]:  # nothing but empty rows, which torch's recurrent kernels refuse: pad one step
            sequences = sequences.new_zeros(len(sequences), 1, *sequences.shape[2:])
        if self.embedding is not None:
            steps = self.dropout(
                self.embedding(sequences.masked_fill(~valid_mask(lengths, sequences.shape[1]), PAD_ID))
            )
        else:
            steps = sequences if self.standardization is None else self.standardization(sequences)
            if self.config.deltas:
                slopes = measure_slopes(steps, lengths, self.config.deltas)
                slopes = slopes if self.slope_standardization is None else self.slope_standardization(slopes)
                steps = torch.cat([steps, slopes], dim=2)
        trace = [steps]
        for index, layer in enumerate(self.layers):
            trace.append(self.dropout(layer(trace[-1], lengths, _of_layer(state, index))))
        return trace

    def pool(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Make embeddings `(B, D)` of the top layer's outputs `(B, T, W)`."""
        embeddings = self.pool_steps(steps, lengths)
        if self.projection is not None:
            embeddings = self.projection(embeddings)
        return nn.functional.normalize(embeddings, dim=1) if self.config.normalize else embeddings

    def pool_steps(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Make of the top layer's outputs `(B, T, W)` what is projected, if there is a projection: `(B, pooled)`."""
        if self.attention is not None:
            attended: Tensor = self.attention(steps, lengths)
            return attended
        return pool(self.config.pooling, steps, lengths, self.config.directions)


def _of_layer(state: RecurrentState | None, index: int) -> RecurrentState | None:
    if state is None:
        return None
    return RecurrentState(state.h[:, [index]], None if state.c is None else state.c[:, [index]])
