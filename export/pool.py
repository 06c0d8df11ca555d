"""Pooling as ONNX nodes: each exact for lengths 0 to T, and the same to the last bit in any batch."""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import Tensor

from export.builder import GraphBuilder
from model.encoder.encoder import SequenceEncoder

REGISTER = 16  # float32 numbers in the widest vector register


def add_pooling(builder: GraphBuilder, encoder: SequenceEncoder, outputs: str, final: str, name: str) -> str:
    """Make one vector a row.

    Args:
        builder: where `valid`, bool `[T, B]`, is for all poolings but mean and last.
        encoder: whose pooling it is.
        outputs: of the top layer, `[T, directions, B, H]`, zero past the length.
        final: its final hidden states, `[directions, B, H]`.
        name: of the result.

    Returns:
        The name: `[B, W]`, or the parts of a pooling such as `mean+std` side by side; zero for an empty row.
    """
    width = encoder.config.width

    def add(part: str, name: str) -> str:
        match part:
            case "mean":
                return _add_mean(builder, outputs, width, name)
            case "max":
                return _add_max(builder, outputs, width, name)
            case "std":
                return _add_std(builder, outputs, width, name)
            case "last":
                return _zero_where_empty(builder, _join_directions(builder, final, width), name)
            case _:
                return _add_attention(builder, encoder, outputs, name)

    parts = encoder.config.pooling.split("+")
    if len(parts) == 1:
        return add(parts[0], name)
    return builder.add("Concat", [add(part, part) for part in parts], name, axis=1)


def _join_directions(builder: GraphBuilder, rows: str, width: int) -> str:
    """Lay the directions of `[directions, B, H]` side by side: `[B, W]`."""
    by_row = builder.add("Transpose", [rows], f"{rows}_by_row", perm=[1, 0, 2])
    return builder.add("Reshape", [by_row, builder.integers(0, width)], f"{rows}_joined")


def _add_mean(builder: GraphBuilder, outputs: str, width: int, name: str) -> str:
    total = builder.add("ReduceSum", [outputs, builder.integers(0)], "total", keepdims=0)  # [directions, B, H]
    denominator = _add_denominator(builder)
    return builder.add("Div", [_join_directions(builder, total, width), denominator], name)


def _add_denominator(builder: GraphBuilder) -> str:
    """Return what sums over time are divided by, `[B, 1]`: each row's length, or 1 if it is empty."""
    at_least_one = builder.add("Max", ["lengths", builder.integer(1)], "at_least_one")  # a zero-length row is 0 / 1
    as_float = builder.add("Cast", [at_least_one], "count", to=TensorProto.FLOAT)
    return builder.add("Unsqueeze", [as_float, builder.integers(1)], "denominator")


def _add_std(builder: GraphBuilder, outputs: str, width: int, name: str) -> str:
    """Take the standard deviation over time, of steps relative to the first one: of a constant exactly 0.

    It moves no further than the step that moves most, so the proof needs no other tolerance for the square root: an
    error in the sum of squares of a nearly constant number is as small as these squares.
    """
    denominator = _add_denominator(builder)
    by_step = builder.add("Unsqueeze", [denominator, builder.integers(0, 1)], "denominator_by_step")  # [1, 1, B, 1]
    mask, none = _add_output_mask(builder), builder.scalar("none", 0)
    zero, one = builder.integers(0), builder.integers(1)
    first = builder.add("Slice", [outputs, zero, one, zero], "first_output")  # [1, directions, B, H]
    shifts = builder.add("Sub", [outputs, first], "shifts")
    shifted = builder.add("Where", [mask, shifts, none], "valid_shifts")
    total = builder.add("ReduceSum", [shifted, zero], "shifts_total", keepdims=1)  # [1, directions, B, H]
    distances = builder.add("Sub", [shifted, builder.add("Div", [total, by_step], "shifts_mean")], "distances")
    centred = builder.add("Where", [mask, distances, none], "valid_distances")
    squares = builder.add("Mul", [centred, centred], "squares")
    summed = builder.add("ReduceSum", [squares, zero], "squares_total", keepdims=0)  # [directions, B, H]
    variance = builder.add("Div", [_join_directions(builder, summed, width), denominator], "variance")
    return builder.add("Sqrt", [variance], name)


def _add_output_mask(builder: GraphBuilder) -> str:
    """Return `valid` as it fits the outputs of a layer: `[T, 1, B, 1]`."""
    return builder.add("Unsqueeze", ["valid", builder.integers(1, 3)], "valid_outputs")


def _add_max(builder: GraphBuilder, outputs: str, width: int, name: str) -> str:
    mask = _add_output_mask(builder)
    valid = builder.add("Where", [mask, outputs, builder.scalar("lowest", -np.inf)], "valid_or_lowest")
    highest = builder.add("ReduceMax", [valid], "highest", axes=[0], keepdims=0)  # [directions, B, H]
    return _zero_where_empty(builder, _join_directions(builder, highest, width), name)


def _add_attention(builder: GraphBuilder, encoder: SequenceEncoder, outputs: str, name: str) -> str:
    """Weigh steps by a softmax over time; the weights and the weighted steps are summed as one tensor.

    Summed apart, the weights of a lone sequence would be one vector, which is summed in another order than a matrix.
    """
    attention, width = encoder.attention, encoder.config.width
    assert attention is not None
    by_step = builder.add("Transpose", [outputs], "top_by_step", perm=[0, 2, 1, 3])  # [T, B, directions, H]
    steps = builder.add("Reshape", [by_step, builder.integers(0, 0, width)], "top")  # [T, B, W]
    key = builder.constant("attention.key", _widen(attention.key.weight.T))
    bias = builder.constant("attention.bias", _widen(attention.key.bias))
    context = builder.constant("attention.context", _widen(attention.context))
    # A lone step would take another kernel: a second time step, cut off below, keeps it on the others'.
    padded = builder.add("Pad", [steps, builder.integers(0, 0, 0, 1, 0, 0)], "steps_and_one")
    keys = builder.add("MatMul", [padded, key], "keys")
    hidden = builder.add("Tanh", [builder.add("Add", [keys, bias], "keys_and_bias")], "attention.hidden")
    axis2 = builder.integers(2)
    products = builder.add("Mul", [hidden, context], "attention.products")
    scores = builder.add("ReduceSum", [products, axis2], "scores_and_one", keepdims=1)  # [T + 1, B, 1]
    size = builder.add("Shape", [steps], "steps_size", start=0, end=1)
    scores = builder.add("Slice", [scores, builder.integers(0), size, builder.integers(0)], "scores")  # [T, B, 1]
    mask = builder.add("Unsqueeze", ["valid", axis2], "valid_steps")
    lowest = builder.scalar("lowest", float(np.finfo(np.float32).min))
    masked = builder.add("Where", [mask, scores, lowest], "valid_scores")
    peak = builder.add("ReduceMax", [masked], "peak", axes=[0], keepdims=1)  # [1, B, 1]
    shifted = builder.add("Sub", [masked, peak], "shifted")
    none = builder.scalar("none", 0)
    weights = builder.add("Where", [mask, builder.add("Exp", [shifted], "exponentials"), none], "weights")
    beside = [builder.integers(0, 0, 0, 0, 0, 1), builder.scalar("one", 1)]
    with_one = builder.add("Pad", [steps, *beside], "steps_with_one")  # [T, B, W + 1]
    weighted = builder.add("Mul", [with_one, weights], "weighted")
    total = builder.add("ReduceSum", [weighted, builder.integers(0)], "weighted_total", keepdims=0)  # [B, W + 1]
    split, end = builder.integers(width), builder.integers(width + 1)
    numerator = builder.add("Slice", [total, builder.integers(0), split, builder.integers(1)], "weighted_sum")
    denominator = builder.add("Slice", [total, split, end, builder.integers(1)], "weights_sum")
    return _zero_where_empty(builder, builder.add("Div", [numerator, denominator], "attended"), name)


def _widen(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Pad the last axis with zeros to a whole number of vector registers.

    Where a row begins within a register decides the order in which vectorised kernels sum it; now all begin alike.
    """
    array: npt.NDArray[np.float32] = tensor.detach().numpy()
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % REGISTER)])


def _zero_where_empty(builder: GraphBuilder, rows: str, name: str) -> str:
    """Replace the rows `[B, W]` of empty sequences by zero."""
    return builder.add("Where", [builder.occupied(), rows, builder.scalar("none", 0)], name)
