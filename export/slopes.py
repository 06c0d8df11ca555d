"""The slopes of steps as ONNX nodes: the differences of neighbours within each row's own length.

All nodes work on each number on its own, so that a row's slopes are the same to the last bit in any batch.
"""

import numpy as np

from export.builder import GraphBuilder
from model.encoder.encoder import SequenceEncoder
from model.encoder.slopes import weigh_distances


def add_slopes(builder: GraphBuilder, encoder: SequenceEncoder, steps: str) -> str:
    """Put the slopes of steps beside them.

    A shift by one step, which repeats the end, is applied again for each further step of the window.

    Args:
        builder: the graph so far, with `places_column`, int64 `[T, 1]`: the index of each step.
        encoder: whose slopes they are.
        steps: the name of the steps, `[T, B, F]`.

    Returns:
        The name of `[T, B, 2F]`; what stands past a row's length reaches no valid step.
    """
    lasts = builder.add("Sub", ["lengths", builder.integer(1)], "last_places")  # [B]
    is_followed = builder.add("Less", ["places_column", lasts], "followed")  # [T, B]
    followed = builder.add("Unsqueeze", [is_followed, builder.integers(2)], "followed_steps")  # [T, B, 1]
    zero, one, end = (builder.integers(value) for value in (0, 1, np.iinfo(np.int64).max))
    first = builder.add("Slice", [steps, zero, one, zero], "first_step")  # [1, B, F]
    after = before = steps
    total = ""
    for distance, weight in enumerate(weigh_distances(encoder.config.deltas), 1):
        rest = builder.add("Slice", [after, one, end, zero], f"rest_{distance}")
        last = builder.add("Slice", [after, builder.integers(-1), end, zero], f"last_{distance}")
        shifted = builder.add("Concat", [rest, last], f"shifted_{distance}", axis=0)
        after = builder.add("Where", [followed, shifted, after], f"after_{distance}")
        begun = builder.add("Slice", [before, zero, builder.integers(-1), zero], f"begun_{distance}")
        before = builder.add("Concat", [first, begun], f"before_{distance}", axis=0)
        difference = builder.add("Sub", [after, before], f"difference_{distance}")
        scale = builder.scalar(f"slopes.weight_{distance}", weight)
        weighted = builder.add("Mul", [difference, scale], f"weighted_{distance}")
        total = builder.add("Add", [total, weighted], f"slopes_{distance}") if total else weighted
    if (scaling := encoder.slope_standardization) is not None:
        mean, std = builder.weights("slopes.mean", scaling.mean), builder.weights("slopes.std", scaling.std)
        total = builder.add("Div", [builder.add("Sub", [total, mean], "centred_slopes"), std], "scaled_slopes")
    return builder.add("Concat", [steps, total], "steps_and_slopes", axis=2)
