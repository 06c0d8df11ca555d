"""Converts the kernels of TensorFlow 1's recurrent cells, as their checkpoints hold them.

Each function takes the arrays of one direction of one layer, whose kernels stack input and hidden state along the first
axis, and returns them in PyTorch's layout and gate order for `export.foreign.assemble`.
"""

import numpy as np

from export.foreign import CellWeights, Floats
from export.gates import TF1_LSTM_TO_TORCH, reorder_gates


def convert_lstm_cell(kernel: Floats, bias: Floats, forget_bias: float = 1.0) -> CellWeights:
    """Convert `LSTMCell` or `BasicLSTMCell`, without peepholes or projection.

    Args:
        kernel: `(I + H, 4H)`, gates input, candidate, forget, output.
        bias: `(4H,)`.
        forget_bias: what the cell adds to the forget gate when it runs; 1.0 is the cell's default.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    w, r = _split_kernel(kernel, 4)
    shifted = bias.copy()
    shifted.reshape(4, -1)[2] += forget_bias
    w, r, shifted = (reorder_gates(part, TF1_LSTM_TO_TORCH) for part in (w.T, r.T, shifted))
    return CellWeights(w, r, shifted, np.zeros_like(shifted))


def convert_gru_cell(gate_kernel: Floats, gate_bias: Floats, kernel: Floats, bias: Floats) -> CellWeights:
    """Convert `GRUCell`, whose reset gate acts before the recurrent product: `EncoderConfig(reset_after=False)`.

    Args:
        gate_kernel: `(I + H, 2H)`, gates reset, update.
        gate_bias: `(2H,)`.
        kernel: `(I + H, H)`, of the candidate.
        bias: `(H,)`.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    (gate_w, gate_r), (w, r) = _split_kernel(gate_kernel, 2), _split_kernel(kernel, 1)
    biases = np.concatenate([gate_bias, bias])
    return CellWeights(np.concatenate([gate_w.T, w.T]), np.concatenate([gate_r.T, r.T]), biases, np.zeros_like(biases))


def convert_rnn_cell(kernel: Floats, bias: Floats) -> CellWeights:
    """Convert `BasicRNNCell` with its default activation, tanh: kernel `(I + H, H)`, bias `(H,)`.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    w, r = _split_kernel(kernel, 1)
    return CellWeights(w.T, r.T, bias, np.zeros_like(bias))


def _split_kernel(kernel: Floats, gates: int) -> tuple[Floats, Floats]:
    """Split a stacked kernel into the part for the input and the part for the hidden state."""
    hidden, rest = divmod(kernel.shape[1], gates)
    if rest or kernel.shape[0] <= hidden:
        raise ValueError(f"a kernel of {list(kernel.shape)} is not (inputs + hidden, {gates} * hidden)")
    return kernel[:-hidden], kernel[-hidden:]
