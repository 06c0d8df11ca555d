"""An artifact's encoder in plain numpy, over one unpadded sequence: slow, obvious, the judge of everything served.

It reads the weights out of the ONNX file and knows nothing of torch, of batches or of padding. `export.oracle` does
the same from torch's weights, for the export's own proof; the two share no line.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Floats = npt.NDArray[np.float64]


def read_weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the initializers of an ONNX file by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def encode(weights: dict[str, npt.NDArray[np.float32]], sequence: npt.NDArray[np.float32]) -> Floats:
    """Encode one sequence `(t, F)` into `(D,)`, the mean of its outputs."""
    outputs = run_layers(weights, sequence)
    return outputs.mean(axis=0) if len(outputs) else np.zeros(outputs.shape[1])


def run_layers(weights: dict[str, npt.NDArray[np.float32]], sequence: npt.NDArray[Any]) -> Floats:
    """Return the top layer's outputs `(t, W)` for one sequence: steps `(t, F)`, or token ids `(t,)`."""
    if "embedding.weight" in weights:
        sequence = weights["embedding.weight"][sequence]
    steps = sequence.astype(np.float64)
    if "standardization.mean" in weights:
        steps = (steps - weights["standardization.mean"]) / weights["standardization.std"]
    if window := sum(name.startswith("slopes.weight_") for name in weights):
        slopes = measure_slopes(steps, window)
        if "slopes.std" in weights:
            slopes = (slopes - weights["slopes.mean"]) / weights["slopes.std"]
        steps = np.hstack([steps, slopes])
    layer = 0
    while f"layer{layer}.W" in weights:
        w, r, b = (weights[f"layer{layer}.{letter}"].astype(np.float64) for letter in "WRB")
        forward = run_direction(steps, w[0], r[0], b[0])
        backward = run_direction(steps[::-1], w[1], r[1], b[1])[::-1]
        steps = np.hstack([forward, backward])
        layer += 1
    return steps


def measure_slopes(steps: Floats, window: int) -> Floats:
    """Return the slope of the least-squares line through each step of `(t, F)` and `window` steps on either side.

    A step beyond an end is the step at that end.
    """
    slopes, last = np.zeros_like(steps), len(steps) - 1
    for t in range(len(steps)):
        around = np.stack([steps[min(max(t + k, 0), last)] for k in range(-window, window + 1)])
        slopes[t] = np.polyfit(np.arange(len(around)), around, 1)[0]
    return slopes


def run_direction(steps: Floats, w: Floats, r: Floats, b: Floats) -> Floats:
    """Run one direction as the ONNX LSTM operator defines it: gates i, o, f, c; `b` holds Wb, then Rb.

    Takes `(t, I)` steps, w `(4H, I)`, r `(4H, H)`, b `(8H,)`; returns `(t, H)`.
    """
    size = r.shape[1]
    h = c = np.zeros(size)
    outputs = []
    for x in steps:
        z = w @ x + r @ h + b[: 4 * size] + b[4 * size :]
        i, o, f = (1 / (1 + np.exp(-z[k * size : (k + 1) * size])) for k in range(3))
        c = f * c + i * np.tanh(z[3 * size :])
        h = o * np.tanh(c)
        outputs.append(h)
    return np.array(outputs).reshape(len(steps), size)
