"""The encoder once more, in plain numpy over one unpadded sequence: slow, obvious, and the judge of the others.

It knows nothing of batches, padding or masks, so it cannot get them wrong. It counts in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import RecurrentLayer
from model.tasks.language import LanguageModel
from model.tasks.supervised import SequenceClassifier, SequenceRegressor
from model.tasks.task import Task
from service.encoder.sequences import State, Steps

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Case:
    """One sequence to encode.

    Attributes:
        sequence: `(t, F)`, or `(t,)` token ids, `0 <= t`.
        initial: the state to start from, as in `OracleOutput`; nothing if it starts from zero.
    """

    sequence: Steps
    initial: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OracleOutput:
    """What an encoder makes of one sequence.

    Attributes:
        embedding: `(D,)`.
        steps: `(t, W)`.
        state: `h`, and `c` of LSTMs, `(layers, directions, H)`.
        logits: `(K,)`, what the task's head predicts; empty where it is not asked.
    """

    embedding: Floats
    steps: Floats
    state: Mapping[str, Floats]
    logits: Floats = field(default_factory=lambda: np.zeros(0))


def encode(encoder: SequenceEncoder, case: Case, task: Task | None = None) -> OracleOutput:
    """Encode one sequence with the encoder's weights, and predict what the task does, if there is one."""
    config = encoder.config
    if encoder.embedding is not None:
        steps = _weights(encoder.embedding.weight)[case.sequence.astype(int)]
    else:
        steps = case.sequence.astype(np.float64)
    if encoder.standardization is not None:
        steps = (steps - _weights(encoder.standardization.mean)) / _weights(encoder.standardization.std)
    if config.deltas:
        slopes = measure_slopes(steps, config.deltas)
        if (scaling := encoder.slope_standardization) is not None:
            slopes = (slopes - _weights(scaling.mean)) / _weights(scaling.std)
        steps = np.concatenate([steps, slopes], axis=1)
    shape = (config.layers, config.directions, config.hidden)
    state = {name: np.zeros(shape) for name in ("hc" if config.cell == "lstm" else "h")}
    for name, initial in case.initial.items():
        state[name] = initial.astype(np.float64)
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, RecurrentLayer)
        beside = []
        for place, cell in enumerate(layer.directions):
            turned = steps[::-1] if place else steps
            outputs, *final = run_cell(cell, turned, *(part[index, place] for part in state.values()))
            for part, value in zip(state.values(), final, strict=True):
                part[index, place] = value
            beside.append(outputs[::-1] if place else outputs)
        steps = np.concatenate(beside, axis=1)
    embedding = _embed(encoder, steps)
    return OracleOutput(embedding, steps, state, np.zeros(0) if task is None else _predict(task, embedding, state))


def measure_slopes(steps: Floats, window: int) -> Floats:
    """Return the slopes of `(t, F)`: the steps up to `window` away on each side, weighted by their distance."""
    padded = np.pad(steps, [(window, window), (0, 0)], "edge") if len(steps) else np.zeros((2 * window, steps.shape[1]))
    distances = np.arange(-window, window + 1)
    slopes = [distances @ padded[time : time + 2 * window + 1] for time in range(len(steps))]
    result: Floats = np.array(slopes).reshape(steps.shape) / (distances @ distances)
    return result


def run_cell(cell: nn.Module, steps: Floats, h: Floats, c: Floats | None = None) -> tuple[Floats, ...]:
    """Run one direction of a layer.

    An LSTM (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000), a GRU (Cho et al., 2014; its
    reset gate after the recurrent product, as in cuDNN, or before it) or a tanh RNN (Elman, 1990).

    Args:
        cell: whose weights to use.
        steps: `(t, I)`.
        h: `(H,)`, the hidden state to start from.
        c: `(H,)`, the cell state of an LSTM.

    Returns:
        The hidden state after each step `(t, H)`, then the final h, and c of an LSTM.
    """
    w, r, w_bias, r_bias = (_weights(getattr(cell, f"{name}_l0")) for name in PARAMETERS)
    outputs = np.zeros((len(steps), len(h)))
    for time, step in enumerate(steps):
        if c is not None:
            enter, forget, candidate, leave = np.split(w @ step + w_bias + r @ h + r_bias, 4)
            c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(candidate)
            h = sigmoid(leave) * np.tanh(c)
        elif len(w) == len(h):
            h = np.tanh(w @ step + w_bias + r @ h + r_bias)
        else:
            h = _step_gru(cell, (w, r, w_bias, r_bias), step, h)
        outputs[time] = h
    return (outputs, h) if c is None else (outputs, h, c)


PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _step_gru(cell: nn.Module, weights: tuple[Floats, ...], step: Floats, h: Floats) -> Floats:
    (w_reset, w_update, w_new), (r_reset, r_update, r_new), (a_reset, a_update, a_new), (b_reset, b_update, b_new) = (
        np.split(part, 3) for part in weights
    )
    reset = sigmoid(w_reset @ step + a_reset + r_reset @ h + b_reset)
    update = sigmoid(w_update @ step + a_update + r_update @ h + b_update)
    recurrent = reset * (r_new @ h + b_new) if isinstance(cell, nn.GRU) else r_new @ (reset * h) + b_new
    new = np.tanh(w_new @ step + a_new + recurrent)
    result: Floats = (1 - update) * new + update * h
    return result


def sigmoid(x: Floats) -> Floats:
    """Return the logistic function, written so that no exponential overflows."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def _embed(encoder: SequenceEncoder, steps: Floats) -> Floats:
    """Pool `(t, W)` into `(D,)`."""
    config = encoder.config
    if not len(steps):
        return np.zeros(config.dim)
    pooled = np.concatenate([_pool(encoder, part, steps) for part in config.pooling.split("+")])
    if encoder.projection is not None:
        pooled = _weights(encoder.projection.weight) @ pooled
    if config.normalize:
        pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
    return np.asarray(pooled)


def _predict(task: Task, embedding: Floats, state: Mapping[str, Floats]) -> Floats:
    """Return what a task predicts, `(K,)`, by its head's own weights; padding is never the next token."""
    match task:
        case LanguageModel():
            head = task.encoder.embedding if task.head is None else task.head
            assert head is not None
            logits = _weights(head.weight) @ state["h"][-1, 0] + _weights(task.bias)
            logits[0] = np.finfo(np.float32).min
        case SequenceClassifier() | SequenceRegressor():
            if (norm := task.head.norm) is not None:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                scale = np.sqrt(_weights(norm.running_var) + norm.eps)
                embedding = (embedding - _weights(norm.running_mean)) / scale
                embedding = embedding * _weights(norm.weight) + _weights(norm.bias)
            logits = _weights(task.head.weight) @ embedding + _weights(task.head.bias)
            if isinstance(task, SequenceRegressor):
                logits = logits * float(task.target_std) + float(task.target_mean)
        case _:
            raise NotImplementedError(f"the oracle does not know the task {task.name}")
    return np.asarray(logits)


def _pool(encoder: SequenceEncoder, part: str, steps: Floats) -> Floats:
    """Pool `(t, W)` into `(W,)`, by one part of a pooling such as `mean+std`."""
    hidden, attention = encoder.config.hidden, encoder.attention
    match part:
        case "mean":
            pooled = steps.mean(axis=0)
        case "max":
            pooled = steps.max(axis=0)
        case "std":
            pooled = steps.std(axis=0)
        case "last":
            pooled = np.concatenate([steps[-1, :hidden], steps[0, hidden:]])
        case _:
            assert attention is not None
            key = attention.key
            scores = np.tanh(steps @ _weights(key.weight).T + _weights(key.bias)) @ _weights(attention.context)
            weights = np.exp(scores - scores.max())
            pooled = weights @ steps / weights.sum()
    return np.asarray(pooled)


def _weights(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy().astype(np.float64)
    return array
