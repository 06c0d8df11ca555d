"""How far apart two answers are, one found and one expected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from export.oracle import Floats, OracleOutput
from model.encoder.encoder import SequenceEncoder
from model.tasks.task import Task
from service.encoder.sequences import Output

# Outputs are hidden states in (-1, 1) and averages of them, in which one bit of float32 is 6e-8. Sums over some hundred
# terms, ordered differently, differ in the last bits, and sharp gates carry that on: 1e-6 between torch and ONNX
# Runtime, 2e-6 between either and float64 were measured. A wrong gate, length or average is off by 1e-2.
TOLERANCE = 5e-6

# A gate lies in (0, 1), and kernels know it to about a bit of 1, however nearly it is closed. What it lets through is
# as uncertain. A cell adds that up at each step, and the gate it leaves by is one more. So numbers of t steps are held
# to no less than t + 1 bits. This is the unit of one.
LEAST_UNIT = float(np.finfo(np.float32).eps) / TOLERANCE


@dataclass(frozen=True, slots=True)
class Unit:
    """What predictions are compared in, so that a large bias does not hide what the head makes of an embedding.

    Attributes:
        bias: `(K,)`, what they are counted from.
        scale: `(K,)`, what the tolerated error of an embedding, in each of its numbers, can become at most through the
            head, or the head's own unit if that is larger; and what float32 loses as the bias is rounded and added, on
            either side.
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
        return cls(head.bias, np.maximum(head.unit, np.abs(head.weight).sum(axis=1)) + lost)

    def measure(self, logits: Floats) -> Floats:
        """Return predictions `(K,)` in this unit, float64."""
        result: Floats = (logits - self.bias) / self.scale
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What the numbers of each part are compared in, unless they are larger: 1, or less if the encoder's are all small.

    They follow the largest output of any step, since steps may cancel out in a mean, which is then less exact than it
    is large.

    Attributes:
        steps: the largest output of any step.
        reach: what a 1 in each number of a step can become at most through the projection; infinite if embeddings have
            a length of 1.
        state: of `h`, and of `c`, the largest number.
        prediction: of the task's head.
    """

    steps: float
    reach: float
    state: Mapping[str, float]
    prediction: Unit

    @classmethod
    def of(cls, encoder: SequenceEncoder, answers: Sequence[OracleOutput], task: Task | None = None) -> Self:
        """Return the units of an encoder by what it should answer to n >= 1 sequences."""
        reach = 1.0 if encoder.projection is None else float(encoder.projection.weight.detach().abs().sum(dim=1).max())
        return cls(
            steps=float(max(np.max(np.abs(answer.steps), initial=0.0) for answer in answers)),
            reach=np.inf if encoder.config.normalize else reach,
            state={name: float(max(np.abs(one.state[name]).max() for one in answers)) for name in answers[0].state},
            prediction=Unit.of(task),
        )


def measure_difference(part: Output, found: OracleOutput, expected: OracleOutput, units: Units) -> float:
    """Return the largest difference in any element, NaN if one is NaN; infinite if the shapes differ.

    It is relative to the element's unit, or to elements over that, such as the cells of an LSTM, since that is how
    float32 rounds.
    """
    least = LEAST_UNIT * (len(expected.steps) + 1)
    match part:
        case "embedding":
            pairs = [(found.embedding, expected.embedding, max(least, units.steps) * units.reach)]
        case "steps":
            pairs = [(found.steps, expected.steps, max(least, units.steps))]
        case "prediction":
            unit = units.prediction
            pairs = [(unit.measure(found.logits), unit.measure(expected.logits), 1.0)]
        case "state":
            pairs = [(found.state[name], expected.state[name], max(least, units.state[name])) for name in found.state]
    if any(one.shape != other.shape for one, other, _ in pairs):
        return np.inf
    # Python's own max would pass over a NaN that does not come first.
    differences = [
        np.abs(one - other) / np.maximum(np.clip(unit, LEAST_UNIT, 1.0), np.abs(other)) for one, other, unit in pairs
    ]
    return float(np.max([np.max(difference, initial=0.0) for difference in differences]))
