"""The head of a task as ONNX nodes: what it predicts of each row, as one linear map, the same bits in any batch."""

import numpy as np

from export.builder import GraphBuilder
from model.tasks.head import FoldedHead


def add_head(builder: GraphBuilder, head: FoldedHead, rows: str) -> str:
    """Add the output `logits`, float32 `[B, K]`, and return its name.

    Args:
        builder: the graph so far.
        head: the linear map.
        rows: the name of what it maps, `[B, D]`.
    """
    weight = builder.constant("head.weight", head.weight.T.astype(np.float32))
    bias = builder.constant("head.bias", head.bias.astype(np.float32))
    product = builder.multiply(rows, weight, "scored", ("scored_rows", "scored_twice", "scored_count"))
    return builder.add("Add", [product, bias], "logits")
