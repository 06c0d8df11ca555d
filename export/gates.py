"""The order in which each library stacks a cell's gates."""

import numpy as np
import numpy.typing as npt

# PyTorch's own: LSTM input, forget, cell, output; GRU reset, update, new.
# ONNX: LSTM input, output, forget, cell; GRU update, reset, new.
TORCH_TO_ONNX = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2], "RNN": [0]}
# Keras: LSTM as PyTorch; GRU update, reset, new.
KERAS_TO_TORCH = {"LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2], "SimpleRNN": [0]}
# TensorFlow 1's LSTMCell: input, cell, forget, output.
TF1_LSTM_TO_TORCH = [0, 2, 1, 3]


def reorder_gates(stacked: npt.NDArray[np.float32], order: list[int]) -> npt.NDArray[np.float32]:
    """Put the gate blocks of `(gates * H, ...)` into the given order."""
    return np.concatenate([np.split(stacked, len(order))[gate] for gate in order])
