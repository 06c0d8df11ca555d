"""How far apart two answers are, one found and one expected."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from export.oracle import Floats, OracleOutput
from model.tasks.task import Task
from service.encoder.sequences import Output

# Outputs are hidden states in (-1, 1) and averages of them, in which one bit of float32 is 6e-8. Sums over some hundred
# terms, ordered differently, differ in the last bits, and sharp gates carry that on: 1e-6 between torch and ONNX
# Runtime, 2e-6 between either and float64 were measured. A wrong gate, length or average is off by 1e-2.
TOLERANCE = 5e-6


@dataclass(frozen=True, slots=True)
class Unit:
    """What predictions are compared in, so that a large bias does not hide what the head makes of an embedding.

    Attributes:
        bias: `(K,)`, what they are counted from.
        scale: `(K,)`, what the tolerated error of an embedding, in each of its numbers, can become at most through the
            head; and what float32 loses as the bias is rounded and added, on either side.
    """

    bias: Floats
    scale: Floats

    @classmethod
    def of(cls, task: Task | None) -> Self:
        """Return the unit of a task's predictions; one that changes nothing if nothing is predicted."""
        head = None if task is None else task.fold_head()
        if head is None:
            return cls(np.zeros(1), np.ones(1))
        lost = 2 * np.abs(head.bias) * np.finfo(np.float32).eps / TOLERANCE
        return cls(head.bias, np.maximum(1.0, np.abs(head.weight).sum(axis=1)) + lost)

    def measure(self, logits: Floats) -> Floats:
        """Return predictions `(K,)` in this unit, float64."""
        result: Floats = (logits - self.bias) / self.scale
        return result


def measure_difference(part: Output, found: OracleOutput, expected: OracleOutput, unit: Unit) -> float:
    """Return the largest difference in any element, NaN if one is NaN; infinite if the shapes differ.

    It is relative to elements over 1, such as the cells of an LSTM, since that is how float32 rounds. Predictions are
    compared in units of their own.
    """
    match part:
        case "embedding":
            pairs = [(found.embedding, expected.embedding)]
        case "steps":
            pairs = [(found.steps, expected.steps)]
        case "prediction":
            pairs = [(unit.measure(found.logits), unit.measure(expected.logits))]
        case "state":
            pairs = [(found.state[name], expected.state[name]) for name in found.state]
    if any(one.shape != other.shape for one, other in pairs):
        return np.inf
    # Python's own max would pass over a NaN that does not come first.
    return float(
        np.max([np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)), initial=0.0) for one, other in pairs])
    )
