"""Checks the structure of an ONNX file before ONNX Runtime sees it: nothing outside the file, nothing absurd.

It reads with protobuf the part of onnx.proto that matters here; all else in a file is skipped. Strings are read as
bytes, because protobuf refuses a whole file if one string is not UTF-8. Graphs within attributes are refused,
and so are read as bytes, too.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from service.errors import ArtifactError

MAX_NODES = 50_000  # a recurrent layer unrolled over hundreds of steps has some thousand
MAX_RANK = 64
MAX_DIMENSION = 2**28  # 1 GiB of float32
MAX_DENSE_BYTES = 2**31  # of a sparse tensor once it is unfolded; no file is larger
MAX_METADATA_BYTES = 32 * 2**20  # a manifest is about 10 kB, the largest tokenizers it may carry some 20 MB
ORT_MARK = slice(4, 8), b"ORTM"  # if ONNX Runtime sees it, it reads the file as a format of its own, not as protobuf

STANDARD_DOMAINS = {"", "ai.onnx"}
OTHER_OPERATORS = {("com.microsoft", "DynamicQuantizeLSTM")}  # what `python -m export --quantize` writes
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}

# Fields by message: name, number, type; `*` if there may be several.
SCHEMA = {
    "Model": "graph 7 Graph, metadata_props 14 Entry*, training_info 20 bytes*, functions 25 bytes*",
    "Graph": (
        "node 1 Node*, initializer 5 Tensor*, sparse_initializer 15 SparseTensor*, input 11 Value*, output 12 Value*, "
        "value_info 13 Value*"
    ),
    "Node": "name 3 bytes, op_type 4 bytes, attribute 5 Attribute*, domain 7 bytes",
    "Attribute": (
        "name 1 bytes, t 5 Tensor, g 6 bytes, tensors 10 Tensor*, graphs 11 bytes*, sparse_tensor 22 SparseTensor, "
        "sparse_tensors 23 SparseTensor*"
    ),
    "Tensor": (
        "dims 1 int64*, data_type 2 int32, float_data 4 float*, int32_data 5 int32*, string_data 6 bytes*, "
        "int64_data 7 int64*, name 8 bytes, raw_data 9 bytes, double_data 10 double*, uint64_data 11 uint64*, "
        "external_data 13 bytes*, data_location 14 int32"
    ),
    "SparseTensor": "values 1 Tensor, indices 2 Tensor, dims 3 int64*",
    "Value": "name 1 bytes, type 2 Type",
    "Type": "tensor_type 1 TensorType",
    "TensorType": "shape 2 Shape",
    "Shape": "dim 1 Dimension*",
    "Dimension": "dim_value 1 int64",
    "Entry": "key 1 bytes, value 2 bytes",
}

# By TensorProto.DataType: the bits of an element, and how many of them one entry of the typed field holds.
STRING = 8
WIDTHS = {
    **dict.fromkeys((1, 6, 12), (32, 32)),  # float, int32, uint32
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), (8, 8)),  # integers, booleans and floats of 8 bits
    **dict.fromkeys((4, 5, 10, 16), (16, 16)),
    **dict.fromkeys((7, 11, 13), (64, 64)),
    **dict.fromkeys((21, 22, 23), (4, 8)),  # packed, two in an entry
    **dict.fromkeys((25, 26), (2, 8)),
    14: (64, 32),  # complex numbers, each two entries
    15: (128, 64),
    STRING: (1, 1),
}


def check_structure(content: bytes, file: str) -> None:
    """Refuse an ONNX file that reaches out of itself, branches or loops, or whose sizes cannot be true.

    ONNX Runtime itself finds unknown operators and types that do not fit.

    Args:
        content: the whole file.
        file: the file's name, for the error.

    Raises:
        ArtifactError: the file is refused; names the node or tensor.
    """
    place, mark = ORT_MARK
    if content[place] == mark:
        raise ArtifactError(file, "it is in ONNX Runtime's own format, not in ONNX")
    model = MODEL()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ArtifactError(file, "it cannot be parsed: it is not ONNX, or was cut short or damaged") from error
    reason = next(_find_faults(model), None)
    if reason is not None:
        raise ArtifactError(file, reason)


def _find_faults(model: Any) -> Iterator[str]:
    """Yield what is wrong with a model. Only the first counts: what follows it may rely on its absence."""
    graph = model.graph
    if not graph.node:
        yield "it holds no graph: it is not ONNX, or was cut short"
    if model.functions or model.training_info:
        yield f"it defines {'functions' if model.functions else 'a training'}, which an encoder does not need"
    metadata = sum(len(entry.key) + len(entry.value) for entry in model.metadata_props)
    if metadata > MAX_METADATA_BYTES:
        yield f"its metadata take {metadata} bytes, and may take {MAX_METADATA_BYTES} at most"
    for kind in ("node", "initializer", "sparse_initializer"):
        if len(getattr(graph, kind)) > MAX_NODES:
            yield f"it has {len(getattr(graph, kind))} {kind.replace('_', ' ')}s, and may have {MAX_NODES} at most"
    yield from _find_stored_faults(graph)
    for node in graph.node:
        yield from _find_node_faults(node)


def _find_stored_faults(graph: Any) -> Iterator[str]:
    """Yield what is wrong with a graph's weights and declared shapes."""
    for tensor in graph.initializer:
        yield from _find_tensor_faults(tensor, f"its initializer {_quote(tensor.name)}")
    for sparse in graph.sparse_initializer:
        yield from _find_sparse_faults(sparse, f"its sparse initializer {_quote(sparse.values.name)}")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value > MAX_DIMENSION:
                yield f"its value {_quote(value.name)} has the dimension {size.dim_value}, over {MAX_DIMENSION}"


def _find_node_faults(node: Any) -> Iterator[str]:
    operator, domain = _read(node.op_type), _read(node.domain)
    where = f"its node {_quote(node.name)} ({_quote(node.op_type)})"
    if domain not in STANDARD_DOMAINS and (domain, operator) not in OTHER_OPERATORS:
        yield f"{where} is of the domain {_quote(node.domain)}, whose operators are not served"
    if operator in CONTROL_FLOW:
        yield f"{where} is control flow, which an encoder does not need"
    for attribute in node.attribute:
        name = f"{where} in its attribute {_quote(attribute.name)}"
        if attribute.HasField("g") or attribute.graphs:
            yield f"{name} holds a graph: control flow, which an encoder does not need"
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            yield from _find_tensor_faults(tensor, name)
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from _find_sparse_faults(sparse, name)


def _find_tensor_faults(tensor: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with a tensor; `where` names it."""
    if tensor.external_data or tensor.data_location:
        yield f"{where} keeps its data in another file: an artifact holds all of it"
    shape = list(tensor.dims)
    if _is_absurd(shape):
        yield f"{where} has the absurd shape {_shorten(shape)}"
    elements = prod(shape)
    if tensor.data_type not in WIDTHS:
        yield f"{where} is of the unknown type {tensor.data_type}"
        return
    bits, entry_bits = WIDTHS[tensor.data_type]
    if tensor.HasField("raw_data"):
        found, unit, unit_bits = len(tensor.raw_data), "bytes", 8
    else:
        found, unit, unit_bits = _count_entries(tensor), "numbers", entry_bits
    if found != -(-elements * bits // unit_bits):  # rounded up
        yield f"{where} has the shape {_shorten(shape)}, but holds {found} {unit}"


def _find_sparse_faults(sparse: Any, where: str) -> Iterator[str]:
    yield from _find_tensor_faults(sparse.values, where)
    yield from _find_tensor_faults(sparse.indices, where)
    shape = list(sparse.dims)
    if _is_absurd(shape) or 8 * prod(shape) > MAX_DENSE_BYTES:
        yield f"{where} has the absurd shape {_shorten(shape)}"


def _is_absurd(shape: list[int]) -> bool:
    """Whether no tensor can have such a shape; the sizes of any other can be multiplied."""
    return len(shape) > MAX_RANK or any(not 0 <= size <= MAX_DIMENSION for size in shape)


def _count_entries(tensor: Any) -> int:
    """Count what the typed fields hold; only one of them is of the tensor's own type."""
    fields = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
    return sum(len(getattr(tensor, field)) for field in fields)


def _read(text: bytes) -> str:
    return text.decode(errors="replace")


def _quote(text: bytes) -> str:
    return repr(_read(text[:60]))


def _shorten(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', ...' if len(shape) > 8 else ''}]"


def _build_model() -> Any:
    """Return the class of `Model`, made from `SCHEMA`."""
    file = descriptor_pb2.FileDescriptorProto(name="lengthwise/structure.proto", package="lengthwise", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in SCHEMA.items():
        declared = file.message_type.add(name=message)
        for name, number, kind in (field.split() for field in fields.split(", ")):
            one = kind.rstrip("*")
            field = declared.field.add(name=name, number=int(number))
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            field.type = kinds.TYPE_MESSAGE if one in SCHEMA else kinds.Type.Value(f"TYPE_{one.upper()}")
            if one in SCHEMA:
                field.type_name = f".lengthwise.{one}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lengthwise.Model"))


MODEL = _build_model()
