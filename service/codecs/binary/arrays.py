"""Arrays that came as bytes, checked and turned into sequences."""

from typing import Any

import numpy as np
import numpy.typing as npt

from service.codecs.json.plain import to_float32
from service.encoder.sequences import Features, InputSpec, Lengths, Sequences, Steps
from service.errors import FeatureMismatch, InvalidField, InvalidLengths


def assemble(values: npt.NDArray[Any], lengths: npt.NDArray[Any], spec: InputSpec) -> Sequences:
    """Put steps laid end to end and the lengths of their sequences together.

    Args:
        values: an array of any kind and shape.
        lengths: likewise.
        spec: what the model reads.

    Raises:
        InvalidField: one of them is of another kind or shape than they must be.
        FeatureMismatch: a step has another number of features than the model reads.
        InvalidLengths: a length is negative, or together they are not the steps there are.
    """
    steps = read_steps(values, "values", spec, lengths)
    return Sequences(steps, read_lengths(lengths, len(steps)))


def read_steps(values: npt.NDArray[Any], path: str, spec: InputSpec, lengths: npt.NDArray[Any] | None = None) -> Steps:
    """Check steps, `(S, F)` numbers or `(S,)` token ids, and make them float32 or int64.

    float16 becomes the same number, float64 the nearest float32, as the numbers of JSON do; integers of 8 to 64 bits
    are ids.

    Args:
        values: an array of any kind and shape.
        path: what it is called in the request.
        spec: what the model reads.
        lengths: the lengths of the sequences in it, unchecked; None if it is one sequence.

    Raises:
        InvalidField: they are of another kind or shape.
        FeatureMismatch: a step has another number of features than the model reads.
    """
    kind = spec.kind
    is_float = isinstance(kind, Features)
    if values.dtype.kind not in ("f" if is_float else "iu") or values.dtype == np.uint64:
        kinds = "float32, float64 or float16" if is_float else "int64 token ids"
        raise InvalidField(path, f"an array of {values.dtype.name}", kinds)
    if values.ndim != (2 if is_float else 1):
        shape = f"two dimensions, steps by {kind.features} features" if is_float else "one dimension, a token id a step"
        raise InvalidField(path, f"an array of {values.ndim} dimensions", shape)
    if isinstance(kind, Features) and values.shape[1] != kind.features:
        counts = {len(values)} if lengths is None else {*lengths.flat}
        raise FeatureMismatch(path, values.shape[1], kind.features, counts.pop() if len(counts) == 1 else None)
    return to_float32(values) if values.dtype.itemsize == 8 and is_float else values.astype(kind.dtype, copy=False)


def read_lengths(lengths: npt.NDArray[Any], steps: int) -> Lengths:
    """Check lengths, and make them int64.

    Args:
        lengths: an array of any kind and shape.
        steps: what they must sum to.

    Raises:
        InvalidField: they are not integers, or do not have one dimension.
        InvalidLengths: a length is negative, or together they are not `steps`.
    """
    if lengths.dtype.kind not in "iu" or lengths.dtype == np.uint64 or lengths.ndim != 1:
        found = f"an array of {lengths.dtype.name} in {lengths.ndim} dimensions"
        raise InvalidField("lengths", found, "int64 in one dimension")
    wide = lengths.astype(np.int64, copy=False)
    possible = (wide >= 0) & (wide <= steps)  # which also keeps the sum far from overflow
    if not possible.all():
        index = int(np.argmin(possible))
        raise InvalidLengths(f"lengths[{index}]", f"is {wide[index]}: expected 0 to {steps}, the steps there are")
    if (total := int(wide.sum())) != steps:
        raise InvalidLengths("lengths", f"sum to {total}, and there are {steps} steps")
    return wide
