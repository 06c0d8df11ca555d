"""Builds the ONNX graph of an encoder, node by node, from its config and weights.

An exporter would trace `pack_padded_sequence` or leave `sequence_lens` unset; a graph this small is clearer written
down. It is time-major inside, since the CPU kernels refuse any other layout, and sums over the leading axis, which is
what keeps an embedding the same to the last bit in any batch.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.encoder import SequenceEncoder
from model.recurrent import BidirectionalLSTM

OPSET = 17
IR_VERSION = 8

# PyTorch stacks an LSTM's gates as input, forget, cell, output; ONNX as input, output, forget, cell.
ONNX_GATES = [0, 3, 1, 2]


@dataclass(slots=True)
class GraphBuilder:
    """Collects nodes and initializers, and names what lies between them."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def build_graph(encoder: SequenceEncoder) -> onnx.ModelProto:
    """Write an encoder down as an ONNX model.

    Args:
        encoder: trained; its weights become initializers.

    Returns:
        A checked model with the inputs `sequences` float32 `[batch, time, F]` and `lengths` int64 `[batch]`, and the
        output `embedding` float32 `[batch, D]`.
    """
    config = encoder.config
    builder = GraphBuilder()
    steps = "sequences"
    if encoder.standardization is not None:
        mean = builder.constant("standardization.mean", encoder.standardization.mean.numpy())
        std = builder.constant("standardization.std", encoder.standardization.std.numpy())
        steps = builder.add("Div", [builder.add("Sub", [steps, mean], "centred"), std], "standardized")
    steps = builder.add("Transpose", [steps], "time_major", perm=[1, 0, 2])  # [T, B, F]
    lengths = builder.add("Cast", ["lengths"], "lengths_int32", to=TensorProto.INT32)

    outputs = ""
    for index, layer in enumerate(encoder.layers):
        if index:
            beside = builder.add("Transpose", [outputs], f"layer{index}.by_row", perm=[0, 2, 1, 3])  # [T, B, 2, H]
            joined = builder.constant(f"layer{index}.shape", np.array([0, 0, config.dim], dtype=np.int64))
            steps = builder.add("Reshape", [beside, joined], f"layer{index}.input")  # [T, B, 2H]
        assert isinstance(layer, BidirectionalLSTM)
        outputs = _add_lstm(builder, layer, f"layer{index}", steps, lengths)  # [T, 2, B, H]

    _add_masked_mean(builder, outputs, config.dim)
    graph = helper.make_graph(
        builder.nodes,
        "lengthwise",
        inputs=[
            helper.make_tensor_value_info("sequences", TensorProto.FLOAT, ["batch", "time", config.features]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        outputs=[helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", config.dim])],
        initializer=builder.initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="lengthwise"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def hash_weights(model: onnx.ModelProto) -> str:
    """Return the SHA-256 over names and bytes of all initializers, in order."""
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode())
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


def _add_lstm(builder: GraphBuilder, layer: BidirectionalLSTM, name: str, steps: str, lengths: str) -> str:
    """Add one bidirectional layer over `[T, B, I]` and return its outputs `[T, 2, B, H]`."""
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for letter, parts in {"W": ["weight_ih"], "R": ["weight_hh"], "B": ["bias_ih", "bias_hh"]}.items():
        directions = [
            np.concatenate([_onnx_gates(getattr(lstm, f"{part}_l0").detach().numpy()) for part in parts])
            for lstm in (layer.ahead, layer.behind)
        ]
        weights[letter] = np.stack(directions)  # W [2, 4H, I], R [2, 4H, H], B [2, 8H]
    names = [builder.constant(f"{name}.{letter}", value) for letter, value in weights.items()]
    hidden = layer.ahead.hidden_size
    inputs = [steps, *names, lengths]
    return builder.add("LSTM", inputs, f"{name}.output", direction="bidirectional", hidden_size=hidden)


def _onnx_gates(stacked: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Reorder the four gate blocks of `(4H, ...)` from PyTorch's order to ONNX's."""
    return np.concatenate([np.split(stacked, 4)[gate] for gate in ONNX_GATES])


def _add_masked_mean(builder: GraphBuilder, outputs: str, dim: int) -> None:
    """Average `[T, 2, B, H]`, which is zero past each length, into `embedding` `[B, 2H]`."""
    time_axis = builder.constant("time_axis", np.array([0], dtype=np.int64))
    total = builder.add("ReduceSum", [outputs, time_axis], "total", keepdims=0)  # [2, B, H]
    by_row = builder.add("Transpose", [total], "total_by_row", perm=[1, 0, 2])  # [B, 2, H]
    joined = builder.constant("embedding_shape", np.array([0, dim], dtype=np.int64))
    numerator = builder.add("Reshape", [by_row, joined], "numerator")  # [B, 2H]
    one = builder.constant("one", np.array(1, dtype=np.int64))
    at_least_one = builder.add("Max", ["lengths", one], "at_least_one")  # a zero-length row is 0 / 1
    as_float = builder.add("Cast", [at_least_one], "count", to=TensorProto.FLOAT)
    feature_axis = builder.constant("feature_axis", np.array([1], dtype=np.int64))
    denominator = builder.add("Unsqueeze", [as_float, feature_axis], "denominator")  # [B, 1]
    builder.add("Div", [numerator, denominator], "embedding")
