"""Encoders built from weights that other programs trained: what every reader of such weights shares."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import RecurrentLayer

Floats = npt.NDArray[np.float32]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class NotRepresentable(ValueError):
    """A model cannot be written down exactly as an encoder of this project."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} cannot be exported: {reason}")


@dataclass(frozen=True, slots=True)
class CellWeights:
    """One direction of one layer, in PyTorch's layout and gate order.

    Attributes:
        w: `(gates * H, I)`, from the input.
        r: `(gates * H, H)`, from the hidden state.
        w_bias: `(gates * H,)`.
        r_bias: `(gates * H,)`; of a GRU whose reset gate acts after the recurrent product it differs from the other.
    """

    w: Floats
    r: Floats
    w_bias: Floats
    r_bias: Floats

    def named(self) -> dict[str, Floats]:
        """Return the arrays under the names torch's cells give them."""
        return {
            "weight_ih_l0": self.w,
            "weight_hh_l0": self.r,
            "bias_ih_l0": self.w_bias,
            "bias_hh_l0": self.r_bias,
        }


@dataclass(frozen=True, slots=True)
class ForeignEncoder:
    """An encoder read from a file.

    Attributes:
        encoder: in evaluation mode.
        notes: what a caller should know of the reading, one sentence each.
    """

    encoder: SequenceEncoder
    notes: list[str] = field(default_factory=list)


def assemble(
    config: EncoderConfig, layers: Sequence[Sequence[CellWeights]], embedding: Floats | None = None
) -> SequenceEncoder:
    """Build an encoder from its weights.

    Args:
        config: what it is made of.
        layers: for each layer its directions, the forward one first.
        embedding: `(V, E)` of token ids; row 0 is padding.

    Returns:
        The encoder, in evaluation mode.

    Raises:
        ValueError: an array has another shape than the config says.
    """
    encoder = SequenceEncoder(config)
    with torch.no_grad():
        for index, (layer, directions) in enumerate(zip(encoder.layers, layers, strict=True)):
            assert isinstance(layer, RecurrentLayer)
            for cell, weights in zip(layer.directions, directions, strict=True):
                for name, array in weights.named().items():
                    parameter = cell.get_parameter(name)
                    if parameter.shape != array.shape:
                        raise ValueError(
                            f"{name} of layer {index} has the shape {list(array.shape)}, and {list(parameter.shape)} "
                            "was expected from the other weights"
                        )
                    parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
        if encoder.embedding is not None and embedding is not None:
            encoder.embedding.weight.copy_(torch.from_numpy(np.ascontiguousarray(embedding)))
    return encoder.eval()
