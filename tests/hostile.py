"""ONNX files as nobody should serve them: a small graph without manifest, and what may be done to it."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

Change: TypeAlias = Callable[[ModelProto], None]

FEATURES = 3


def make_plain(width: int = 4) -> ModelProto:
    """Return a graph with the inputs and output of an encoder: steps summed, divided, and multiplied by weights."""
    weights = np.linspace(-1, 1, FEATURES * width, dtype=np.float32).reshape(FEATURES, width)
    nodes = [
        helper.make_node("ReduceSum", ["sequences", "axis"], ["sums"], "sum", keepdims=0),
        helper.make_node("Cast", ["lengths"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axis"], ["column"], "unsqueeze"),
        helper.make_node("Constant", [], ["one"], "one", value=helper.make_tensor("1", TensorProto.FLOAT, [1], [1.0])),
        helper.make_node("Max", ["column", "one"], ["divisor"], "max"),
        helper.make_node("Div", ["sums", "divisor"], ["means"], "divide"),
        helper.make_node("MatMul", ["means", "weights"], ["embedding"], "multiply"),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [
            helper.make_tensor_value_info("sequences", TensorProto.FLOAT, ["batch", "time", FEATURES]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
        [onnx.numpy_helper.from_array(weights, "weights"), helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def change_plain(change: Change) -> bytes:
    """Return the plain graph's bytes after a change."""
    model = make_plain()
    change(model)
    content: bytes = model.SerializeToString()
    return content


def append_bomb(operator: str, *values: list[int]) -> Change:
    """Let the embedding depend on what one operator makes of constants, which are lists of int64."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "harmless"
        names = [f"bomb_{number}" for number in range(len(values))]
        for name, value in zip(names, values, strict=True):
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(value)], value))
        graph.node.extend(
            [
                helper.make_node(operator, names, ["bomb"]),
                helper.make_node("Cast", ["bomb"], ["floats_of_bomb"], to=TensorProto.FLOAT),
                helper.make_node("ReduceSum", ["floats_of_bomb"], ["sum_of_bomb"], keepdims=0),
                helper.make_node("Add", ["harmless", "sum_of_bomb"], ["embedding"]),
            ]
        )

    return change


def append_work(model: ModelProto) -> None:
    """Let the embedding depend on products of matrices that take minutes, and little memory."""
    graph = model.graph
    graph.node[-1].output[0] = "harmless"
    graph.initializer.append(helper.make_tensor("sides", TensorProto.INT64, [2], [2000, 2000]))
    graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["work_0"]))
    for number in range(1000):
        graph.node.append(helper.make_node("MatMul", [f"work_{number}"] * 2, [f"work_{number + 1}"]))
    graph.node.append(helper.make_node("ReduceSum", ["work_1000"], ["sum_of_work"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["harmless", "sum_of_work"], ["embedding"]))


def weights_of(model: ModelProto) -> TensorProto:
    """Return the weights of the plain graph."""
    weights: TensorProto = model.graph.initializer[0]
    return weights


def move_out(tensor: TensorProto) -> None:
    """Say that a tensor's data are in another file."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _hint_at_file(model: ModelProto) -> None:
    weights_of(model).external_data.add(key="location", value="weights.bin")


def _move_constant_out(model: ModelProto) -> None:
    move_out(model.graph.node[3].attribute[0].t)


def _add_sparse(dims: list[int], *, is_external: bool = False) -> Change:
    def change(model: ModelProto) -> None:
        values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
        indices = helper.make_tensor("places", TensorProto.INT64, [1], [0])
        if is_external:
            move_out(indices)
        model.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=dims))

    return change


def _add_node(node: NodeProto) -> Change:
    return lambda model: model.graph.node.append(node)


def _add_attribute(attribute: AttributeProto) -> Change:
    return lambda model: model.graph.node[1].attribute.append(attribute)


def _use_operator(name: str, domain: str) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[-1].op_type, model.graph.node[-1].domain = name, domain
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def _shape_weights(*dims: int) -> Change:
    def change(model: ModelProto) -> None:
        weights_of(model).dims[:] = dims

    return change


def _shape_axis(*dims: int) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.initializer[1].dims[:] = dims  # its data are in `int64_data`

    return change


def _empty_weights(model: ModelProto) -> None:
    weights_of(model).dims[:] = [0, 2**40]
    weights_of(model).raw_data = b""


def _retype(model: ModelProto) -> None:
    weights_of(model).data_type = 99


def _declare(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def _add_nodes(model: ModelProto) -> None:
    model.graph.node.extend([NodeProto(op_type="Identity")] * 50_001)


def _add_initializers(model: ModelProto) -> None:
    model.graph.initializer.extend([TensorProto(data_type=1, dims=[0], raw_data=b"")] * 50_001)


def _add_metadata(model: ModelProto) -> None:
    model.metadata_props.add(key="notes", value="x" * (32 * 2**20))


def _remove_graph(model: ModelProto) -> None:
    model.ClearField("graph")


def _add_sparse_initializers(model: ModelProto) -> None:
    model.graph.sparse_initializer.extend([SparseTensorProto()] * 50_001)


OUTSIDE = SparseTensorProto(values=TensorProto(data_type=1, data_location=TensorProto.EXTERNAL), dims=[1])
BRANCH = helper.make_graph([], "branch", [], [])
FUNCTION = helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("", 17)])

# What the structure alone tells: a change, and the reason it is refused for.
STRUCTURAL: dict[str, tuple[Change, str]] = {
    "external data": (
        lambda model: move_out(weights_of(model)),
        "initializer 'weights' keeps its data in another file",
    ),
    "a place for external data": (_hint_at_file, "'weights' keeps its data in another file"),
    "external data of a constant": (_move_constant_out, r"node 'one' \('Constant'\).* keeps its data in another file"),
    "external data of a sparse tensor": (_add_sparse([8], is_external=True), "'sparse' keeps its data in another file"),
    "external data in a list of tensors": (
        _add_attribute(
            AttributeProto(name="more", tensors=[TensorProto(data_type=1, data_location=TensorProto.EXTERNAL)])
        ),
        "attribute 'more' keeps its data in another file",
    ),
    "external data of a sparse attribute": (
        _add_attribute(AttributeProto(name="thin", sparse_tensor=OUTSIDE)),
        "attribute 'thin' keeps its data in another file",
    ),
    "external data in a list of sparse tensors": (
        _add_attribute(AttributeProto(name="thin", sparse_tensors=[OUTSIDE])),
        "attribute 'thin' keeps its data in another file",
    ),
    "a foreign domain": (_use_operator("Normalizer", "ai.onnx.ml"), "of the domain 'ai.onnx.ml', whose operators"),
    "an operator that reads files": (_use_operator("EPContext", "com.microsoft"), "of the domain 'com.microsoft'"),
    "our domain's name elsewhere": (_use_operator("DynamicQuantizeLSTM", "own"), "of the domain 'own'"),
    "an If": (_add_node(helper.make_node("If", ["x"], ["y"], "branching")), r"'branching' \('If'\) is control flow"),
    "a Loop": (_add_node(helper.make_node("Loop", [], ["y"])), r"\('Loop'\) is control flow"),
    "a Scan": (_add_node(helper.make_node("Scan", [], ["y"])), r"\('Scan'\) is control flow"),
    "a SequenceMap": (_add_node(helper.make_node("SequenceMap", [], ["y"])), r"\('SequenceMap'\) is control flow"),
    "a hidden graph": (_add_attribute(helper.make_attribute("body", BRANCH)), "attribute 'body' holds a graph"),
    "hidden graphs": (_add_attribute(AttributeProto(name="all", graphs=[BRANCH])), "attribute 'all' holds a graph"),
    "functions": (lambda model: model.functions.append(FUNCTION), "defines functions, which"),
    "a training": (lambda model: model.training_info.add(algorithm=GraphProto()), "defines a training, which"),
    "a negative size": (_shape_weights(-3, -4), r"'weights' has the absurd shape \[-3, -4\]"),
    "a huge size of nothing": (_empty_weights, r"absurd shape \[0, 1099511627776\]"),
    "sizes without end": (_shape_weights(*[2] * 2000), r"absurd shape \[2, 2, 2, 2, 2, 2, 2, 2, ...\]"),
    "fewer bytes than the shape": (_shape_weights(2**20, 2**20), "but holds 48 bytes"),
    "more bytes than the shape": (_shape_weights(3), "but holds 48 bytes"),
    "fewer numbers than the shape": (_shape_axis(2**20), "but holds 1 numbers"),
    "a type nobody knows": (_retype, "'weights' is of the unknown type 99"),
    "a sparse tensor that unfolds": (_add_sparse([2**20, 2**20]), r"absurd shape \[1048576, 1048576\]"),
    "a sparse tensor of negative size": (_add_sparse([-1]), r"absurd shape \[-1\]"),
    "a declared size": (_declare, "value 'sequences' has the dimension 1099511627776"),
    "too many nodes": (_add_nodes, "has 50008 nodes, and may have 50000 at most"),
    "too many initializers": (_add_initializers, "has 50003 initializers"),
    "too many sparse initializers": (_add_sparse_initializers, "has 50001 sparse initializers"),
    "oversized metadata": (_add_metadata, "its metadata take 33554437 bytes"),
    "no graph": (_remove_graph, "it holds no graph"),
}


def _change_input(kind: int) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def _demand_more(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, [1]))


# What only ONNX Runtime tells, or a first run.
LOADED: dict[str, tuple[Change, str]] = {
    "an unknown operator": (_use_operator("Frobnicate", ""), "ONNX Runtime refuses it: .*Frobnicate"),
    "an opset of the future": (
        lambda model: model.opset_import[0].CopyFrom(helper.make_opsetid("", 999)),
        "refuses it",
    ),
    "an input of another type": (_change_input(TensorProto.STRING), "refuses it"),
    "one more input": (_demand_more, "its inputs are .*secret.*; an encoder has the inputs sequences"),
    "a bomb of terabytes": (append_bomb("ConstantOfShape", [10**12]), "allocate|bad alloc|memory"),
    "a bomb this machine has room for": (append_bomb("ConstantOfShape", [3 * 2**27]), "allocate|bad alloc|memory"),
    "a bomb of copies": (
        append_bomb("Tile", [1] * 1000, [10**9]),
        "allocate|bad alloc|memory|Tile output tensor would require more",
    ),
    "a bomb of stretching": (append_bomb("Expand", [1], [10**6, 10**6]), "allocate|bad alloc|memory"),
}
