"""What is refused from an ONNX file's structure alone, before ONNX Runtime sees it, and what is not."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.catalogue.vetting.structure import MAX_NODES, check_structure
from service.errors import ArtifactError
from tests.conftest import ARTIFACTS
from tests.hostile import STRUCTURAL, change_plain, make_plain


@pytest.mark.parametrize("kind", STRUCTURAL)
def test_hostile_structures_are_refused(kind: str) -> None:
    """Each by a sentence that names the node or tensor."""
    change, reason = STRUCTURAL[kind]
    with pytest.raises(ArtifactError, match=rf"hostile\.onnx cannot be served: .*{reason}"):
        check_structure(change_plain(change), "hostile.onnx")


def test_half_a_file_is_refused() -> None:
    """Cut anywhere but between two of its outermost fields, a file cannot be parsed; or it has lost its graph."""
    content = make_plain().SerializeToString()
    model = onnx.ModelProto(graph=make_plain().graph)
    inside = len(content) - len(model.graph.SerializeToString())
    for end in range(inside, len(content) - 8):
        with pytest.raises(ArtifactError, match="not ONNX, or was cut short"):
            check_structure(content[:end], "half.onnx")


def test_a_file_that_onnx_runtime_takes_for_another_format_is_refused() -> None:
    """A mark in bytes 4 to 8 makes ONNX Runtime read flatbuffers, though all of it is ONNX to protobuf."""
    content = make_plain().SerializeToString()
    disguised = b"\x32\x84\x80\x00ORTM" + content  # the field `doc_string` of 4 bytes, its length written in three
    assert onnx.load_from_string(disguised).graph == make_plain().graph
    check_structure(disguised.replace(b"ORTM", b"ORTN"), "other.onnx")
    with pytest.raises(ArtifactError, match="it is in ONNX Runtime's own format"):
        check_structure(disguised, "disguised.onnx")


KINDS = sorted(set(TensorProto.DataType.values()) - {0, TensorProto.FLOAT6E2M3, TensorProto.FLOAT6E3M2})


@pytest.mark.parametrize("kind", KINDS, ids=TensorProto.DataType.Name)
def test_tensors_of_every_type_are_measured_right(kind: int) -> None:
    """Five elements pass as numbers and as bytes, as `onnx` packs them, and with one more or less they do not."""
    values: Any = [b"a"] * 5 if kind == TensorProto.STRING else [1] * 5
    tensors = [helper.make_tensor("made", kind, [5], values)]
    if kind != TensorProto.STRING:
        array = np.ones(5, helper.tensor_dtype_to_np_dtype(kind))
        tensors.append(onnx.numpy_helper.from_array(array, "made"))
    for tensor in tensors:
        assert tensor.data_type == kind
        check_structure(change_plain(lambda model, one=tensor: model.graph.initializer.append(one)), "typed.onnx")  # type: ignore[misc]
        for wrong in (0, 16, 99):
            tensor.dims[:] = [wrong]
            with pytest.raises(ArtifactError, match=rf"'made' has the shape \[{wrong}\], but holds"):
                check_structure(change_plain(lambda model, one=tensor: model.graph.initializer.append(one)), "x.onnx")  # type: ignore[misc]


def test_what_our_own_int8_writes_passes() -> None:
    """The one operator outside the standard that export makes use of."""
    content = (ARTIFACTS / "int8.onnx").read_bytes()
    assert "com.microsoft" in {node.domain for node in onnx.load_from_string(content).graph.node}
    check_structure(content, "int8.onnx")


def test_what_is_large_and_honest_passes() -> None:
    """As many nodes as there may be, empty tensors, shapes without numbers, and a name that is no UTF-8."""

    def enlarge(model: onnx.ModelProto) -> None:
        model.graph.node.extend([onnx.NodeProto(op_type="Identity")] * (MAX_NODES - len(model.graph.node)))
        model.graph.initializer.append(TensorProto(name="none", data_type=1, dims=[0, 7]))
        model.graph.initializer.append(helper.make_tensor("scalar", TensorProto.FLOAT, [], [1.0]))
        model.graph.value_info.append(helper.make_tensor_value_info("open", TensorProto.FLOAT, None))

    content = change_plain(enlarge)
    check_structure(content.replace(b"scalar", b"scala\xff"), "large.onnx")
