"""Builds the ONNX graph of an encoder, node by node, from its config and weights.

An exporter would trace `pack_padded_sequence` or leave `sequence_lens` unset; a graph this small is clearer written
down. It is time-major inside, since the CPU kernels refuse any other layout, and sums over the leading axis, which is
what keeps an embedding the same to the last bit in any batch.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from export.builder import GraphBuilder
from export.gates import TORCH_TO_ONNX, reorder_gates
from export.head import add_head
from export.pool import add_pooling
from export.slopes import add_slopes
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.recurrent import RecurrentLayer
from model.encoder.reset_before import ResetBeforeGRU
from model.tasks.head import FoldedHead

OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """What a graph offers besides exact embeddings. ONNX Runtime computes every output it has, asked for or not.

    Attributes:
        steps: an output `steps`, float32 `[batch, time, W]`: the top layer's outputs, zero past the length.
        state: outputs `state_h`, and `state_c` of LSTMs, float32 `[batch, layers, directions, H]`: the state after
            each row's last valid step.
        initial_state: inputs `initial_h`, and `initial_c` of LSTMs, of the same shape: the state that each row starts
            from, forward at its first step and backward at its last valid one.
        prediction: an output `logits`, float32 `[batch, K]`: what the task's head makes of each row.
        quantize: int8 weights for its LSTMs, once the float32 graph has held its proof; see `export.quantize`.
    """

    steps: bool = False
    state: bool = False
    initial_state: bool = False
    prediction: bool = False
    quantize: bool = False


def build_graph(
    encoder: SequenceEncoder, options: GraphOptions | None = None, head: FoldedHead | None = None
) -> onnx.ModelProto:
    """Write an encoder down as an ONNX model.

    Args:
        encoder: trained; its weights become initializers.
        options: what the graph offers besides embeddings; nothing by default.
        head: the task's, where the options ask for its predictions.

    Returns:
        A checked model with the inputs `sequences`, float32 `[batch, time, F]` or int64 `[batch, time]`, and `lengths`,
        int64 `[batch]`, the output `embedding`, float32 `[batch, D]`, and what the options add.

    Raises:
        ValueError: an initial state is asked for, and the encoder reads slopes; or predictions, and there is no head.
    """
    options = options or GraphOptions()
    config = encoder.config
    _refuse(config, options, head)
    builder = GraphBuilder()
    steps = _add_input(builder, encoder)
    builder.add("Cast", ["lengths"], "lengths_int32", to=TensorProto.INT32)

    finals: dict[str, list[str]] = {name: [] for name in _state_names(config)}
    outputs = ""
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, RecurrentLayer)
        name = f"layer{index}"
        if index:
            beside = builder.add("Transpose", [outputs], f"{name}.by_step", perm=[0, 2, 1, 3])  # [T, B, directions, H]
            steps = builder.add("Reshape", [beside, builder.integers(0, 0, config.width)], f"{name}.input")  # [T, B, W]
        outputs = _add_layer(builder, layer, name, steps, initial=_take_initial(builder, config, index, options))
        if options.state:
            for letter, parts in finals.items():
                parts.append(_freeze(builder, f"{name}.final_{letter}", f"{name}.initial_{letter}", options))

    _add_embedding(builder, encoder, outputs)
    if options.prediction and head is not None:
        add_head(builder, head, _add_last_hidden(builder, config, options) if head.predicts == "token" else "embedding")
    if options.steps:
        by_row = builder.add("Transpose", [outputs], "steps_by_row", perm=[2, 0, 1, 3])  # [B, T, directions, H]
        builder.add("Reshape", [by_row, builder.integers(0, 0, config.width)], "steps")
    if options.state:
        for letter, parts in finals.items():
            builder.add("Concat", parts, f"state_{letter}", axis=1)  # [B, layers, directions, H]
    return _assemble(builder, config, options, 0 if head is None else len(head.bias))


def _refuse(config: EncoderConfig, options: GraphOptions, head: FoldedHead | None) -> None:
    """Refuse options that an encoder cannot give."""
    if options.initial_state:
        config.require_state()
    if options.prediction and head is None:
        raise ValueError("predictions are asked for, and the encoder has no head: none was trained to predict anything")


def hash_weights(model: onnx.ModelProto) -> str:
    """Return the SHA-256 over names and bytes of all initializers, in order."""
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode())
        digest.update(numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()


def _state_names(config: EncoderConfig) -> list[str]:
    return ["h", "c"] if config.cell == "lstm" else ["h"]


def _add_input(builder: GraphBuilder, encoder: SequenceEncoder) -> str:
    """Turn `sequences` into what the first layer reads, `[T, B, I]`."""
    if encoder.embedding is not None:
        ids = builder.add("Transpose", ["sequences"], "ids", perm=[1, 0])  # [T, B]
        _add_mask(builder, ids)
        safe = builder.add("Where", ["valid", ids, builder.integer(0)], "valid_ids")  # junk may be no token at all
        return builder.add("Gather", [builder.weights("embedding.weight", encoder.embedding.weight), safe], "embedded")
    steps = "sequences"
    if encoder.standardization is not None:
        mean = builder.weights("standardization.mean", encoder.standardization.mean)
        std = builder.weights("standardization.std", encoder.standardization.std)
        steps = builder.add("Div", [builder.add("Sub", [steps, mean], "centred"), std], "standardized")
    steps = builder.add("Transpose", [steps], "time_major", perm=[1, 0, 2])  # [T, B, F]
    if encoder.config.deltas or encoder.config.pooling not in ("mean", "last"):
        _add_mask(builder, steps)
    return add_slopes(builder, encoder, steps) if encoder.config.deltas else steps


def _add_mask(builder: GraphBuilder, time_major: str) -> None:
    """Add `valid`, bool `[T, B]`: true if a step belongs to its row's sequence."""
    shape = builder.add("Shape", [time_major], "time_size", start=0, end=1)  # [1]
    time = builder.add("Squeeze", [shape, builder.integers(0)], "time")
    places = builder.add("Range", [builder.integer(0), time, builder.integer(1)], "places")  # [T]
    column = builder.add("Unsqueeze", [places, builder.integers(1)], "places_column")  # [T, 1]
    builder.add("Less", [column, "lengths"], "valid")


def _add_layer(builder: GraphBuilder, layer: RecurrentLayer, name: str, steps: str, initial: list[str]) -> str:
    """Add one layer over `[T, B, I]`; return its outputs `[T, directions, B, H]` and name its final states beside."""
    cell = layer.ahead
    operator = "GRU" if isinstance(cell, ResetBeforeGRU) else type(cell).__name__
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for letter, parts in {"W": ["weight_ih"], "R": ["weight_hh"], "B": ["bias_ih", "bias_hh"]}.items():
        directions = [
            np.concatenate(
                [
                    reorder_gates(getattr(module, f"{part}_l0").detach().numpy(), TORCH_TO_ONNX[operator])
                    for part in parts
                ]
            )
            for module in layer.directions
        ]
        weights[letter] = np.stack(
            directions
        )  # W [directions, gates * H, I], R [.., gates * H, H], B [.., 2 gates * H]
    names = [builder.constant(f"{name}.{letter}", value) for letter, value in weights.items()]
    attributes: dict[str, Any] = {"hidden_size": cell.hidden_size}
    attributes["direction"] = "forward" if layer.behind is None else "bidirectional"
    if operator == "GRU":
        attributes["linear_before_reset"] = int(not isinstance(cell, ResetBeforeGRU))
    outputs = [f"{name}.output", f"{name}.final_h", *([f"{name}.final_c"] if operator == "LSTM" else [])]
    return builder.add_many(operator, [steps, *names, "lengths_int32", *initial], outputs, **attributes)[0]


def _take_initial(builder: GraphBuilder, config: EncoderConfig, index: int, options: GraphOptions) -> list[str]:
    """Cut a layer's initial states out of the inputs, as the recurrent operators take them: `[directions, B, H]`."""
    names = []
    for letter in _state_names(config) if options.initial_state else []:
        inputs = [f"initial_{letter}", builder.integer(index)]
        taken = builder.add("Gather", inputs, f"layer{index}.taken_{letter}", axis=1)  # [B, directions, H]
        names.append(builder.add("Transpose", [taken], f"layer{index}.initial_{letter}", perm=[1, 0, 2]))
    return names


def _keep(builder: GraphBuilder, final: str, initial: str, options: GraphOptions) -> str:
    """Return a final state `[directions, B, H]` in which empty rows keep their initial one.

    ONNX Runtime gives zeros for empty rows, an initial state or none.
    """
    if not options.initial_state:
        return final
    return builder.add("Where", [builder.occupied(), final, initial], f"{final}_kept")


def _freeze(builder: GraphBuilder, final: str, initial: str, options: GraphOptions) -> str:
    """Return a layer's final state as `[B, 1, directions, H]`; an empty row keeps its initial one."""
    final = _keep(builder, final, initial, options)
    by_row = builder.add("Transpose", [final], f"{final}_by_row", perm=[1, 0, 2])
    return builder.add("Unsqueeze", [by_row, builder.integers(1)], f"{final}_layer")


def _add_last_hidden(builder: GraphBuilder, config: EncoderConfig, options: GraphOptions) -> str:
    """Return the hidden state of an encoder of one direction after each row's last step, `[B, H]`."""
    name = f"layer{config.layers - 1}"
    final = _keep(builder, f"{name}.final_h", f"{name}.initial_h", options)  # [1, B, H]
    return builder.add("Squeeze", [final, builder.integers(0)], "last_hidden")


def _add_embedding(builder: GraphBuilder, encoder: SequenceEncoder, outputs: str) -> None:
    """Pool `[T, directions, B, H]` into `embedding`, `[B, D]`."""
    config = encoder.config
    tail = [name for name, wanted in (("projected", config.projection), ("scaled", config.normalize)) if wanted]
    final = f"layer{config.layers - 1}.final_h"
    pooled = add_pooling(builder, encoder, outputs, final, "pooled" if tail else "embedding")
    if encoder.projection is not None:
        matrix = builder.weights("projection.weight", encoder.projection.weight.T)
        name = "embedding" if tail[-1] == "projected" else "projected"
        pooled = builder.multiply(pooled, matrix, name, ("pooled_twice", "projected_twice", "rows"))
    if config.normalize:
        norm = builder.add("ReduceL2", [pooled], "norm", axes=[1], keepdims=1)
        floor = builder.scalar("norm_floor", 1e-12)  # a zero vector stays zero
        builder.add("Div", [pooled, builder.add("Max", [norm, floor], "norm_or_floor")], "embedding")


def _assemble(builder: GraphBuilder, config: EncoderConfig, options: GraphOptions, scores: int) -> onnx.ModelProto:
    """Put the inputs and outputs around what was built, and check the whole."""

    def state(prefix: str, *, wanted: bool) -> list[ValueInfoProto]:
        shape: list[str | int | None] = ["batch", config.layers, config.directions, config.hidden]
        names = _state_names(config) if wanted else []
        return [helper.make_tensor_value_info(f"{prefix}_{letter}", TensorProto.FLOAT, shape) for letter in names]

    kind = TensorProto.FLOAT if config.vocabulary is None else TensorProto.INT64
    shape: list[str | int | None] = ["batch", "time", *([] if config.features is None else [config.features])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", config.dim])]
    if options.steps:
        outputs.append(helper.make_tensor_value_info("steps", TensorProto.FLOAT, ["batch", "time", config.width]))
    if options.prediction:
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", scores]))
    graph = helper.make_graph(
        list(builder.nodes.values()),
        "lengthwise",
        inputs=[
            helper.make_tensor_value_info("sequences", kind, shape),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
            *state("initial", wanted=options.initial_state),
        ],
        outputs=[*outputs, *state("state", wanted=options.state)],
        initializer=list(builder.initializers.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="lengthwise"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
