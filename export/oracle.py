"""The encoder once more, in plain numpy over one unpadded sequence: slow, obvious, and the judge of the others.

It knows nothing of batches, padding or masks, so it cannot get them wrong. It counts in float64.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from model.encoder import SequenceEncoder
from model.recurrent import BidirectionalLSTM

Floats = npt.NDArray[np.float64]


def encode(encoder: SequenceEncoder, sequence: npt.NDArray[np.float32]) -> Floats:
    """Encode one sequence.

    Args:
        encoder: whose weights to use.
        sequence: `(t, F)`, `0 <= t`.

    Returns:
        `(D,)`: the mean over time of the top layer's outputs, or zeros where there is no step.
    """
    steps = sequence.astype(np.float64)
    if encoder.standardization is not None:
        steps = (steps - _weights(encoder.standardization.mean)) / _weights(encoder.standardization.std)
    for layer in encoder.layers:
        assert isinstance(layer, BidirectionalLSTM)
        ahead = lstm(steps, *_parameters(layer.ahead))
        behind = lstm(steps[::-1], *_parameters(layer.behind))[::-1]
        steps = np.concatenate([ahead, behind], axis=1)
    return steps.mean(axis=0) if len(steps) else np.zeros(encoder.config.dim)


def lstm(steps: Floats, w: Floats, r: Floats, w_bias: Floats, r_bias: Floats) -> Floats:
    """Run an LSTM from a zero state (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000).

    Args:
        steps: `(t, I)`.
        w: `(4H, I)`, the input weights of the gates input, forget, cell, output.
        r: `(4H, H)`, their recurrent weights.
        w_bias: `(4H,)`.
        r_bias: `(4H,)`.

    Returns:
        `(t, H)`, the hidden state after each step.
    """
    hidden = np.zeros(r.shape[1])
    cell = np.zeros(r.shape[1])
    outputs = np.zeros((len(steps), r.shape[1]))
    for time, step in enumerate(steps):
        enter, forget, candidate, leave = np.split(w @ step + w_bias + r @ hidden + r_bias, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
        hidden = sigmoid(leave) * np.tanh(cell)
        outputs[time] = hidden
    return outputs


def sigmoid(x: Floats) -> Floats:
    """Return the logistic function, written so that no exponential overflows."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def _parameters(module: nn.LSTM) -> tuple[Floats, Floats, Floats, Floats]:
    w, r, w_bias, r_bias = (_weights(weights) for weights in module.all_weights[0])
    return w, r, w_bias, r_bias


def _weights(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy().astype(np.float64)
    return array
