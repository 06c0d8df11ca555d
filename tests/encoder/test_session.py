"""Loading artifacts: what is served, what is refused, and what a session says of itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.encoder.manifest import METADATA_KEY, Input, Manifest, ParityCheck
from service.encoder.providers import CPU_PROVIDER, CUDA_PROVIDER, CudaOptions, choose_providers
from service.encoder.runtime import LocalRuntime
from service.encoder.sequences import Batch, Features, pad_batch
from service.encoder.session import EncoderSession, open_session
from service.errors import ArtifactError, GoldenMismatch, ProviderUnavailable
from tests.conftest import FEATURES, draw_sequences


def edit(artifact: Path, change: Callable[[onnx.ModelProto], None]) -> bytes:
    """Return the artifact's bytes after a change to its model."""
    model = onnx.load(artifact)
    change(model)
    content: bytes = model.SerializeToString()
    return content


def edit_manifest(artifact: Path, change: Callable[[Manifest], Manifest]) -> bytes:
    """Return the artifact's bytes after a change to its manifest."""

    def rewrite(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        entry.value = change(Manifest.model_validate_json(entry.value)).model_dump_json()

    return edit(artifact, rewrite)


def test_a_session_knows_its_model(artifact: Path) -> None:
    """Features, size, name and provider come from the file."""
    session = open_session(artifact, "auto")
    assert (session.kind, session.dim, session.provider) == (Features(FEATURES), 16, "cpu")
    assert session.manifest is not None
    assert session.manifest.name == "made"
    assert len(session.sha256) == 64


def test_golden_vectors_are_reproduced(artifact: Path) -> None:
    """What torch gave at export is what this session gives now, to the last bits."""
    difference = open_session(artifact).replay_golden()
    assert difference is not None
    assert difference <= 2e-6  # what export admits between torch and ONNX Runtime on small encoders


def test_changed_weights_are_refused(artifact: Path) -> None:
    """A file whose weights are not the proven ones does not start."""

    def nudge(model: onnx.ModelProto) -> None:
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == "layer0.W")
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + np.float32(0.01), weights.name))

    with pytest.raises(GoldenMismatch, match=r"does not reproduce its golden vectors here: they differ by 0\.\d+"):
        EncoderSession(edit(artifact, nudge), "nudged.onnx").replay_golden()


def test_hostile_golden_vectors_are_refused(artifact: Path) -> None:
    """Golden vectors of the wrong shape blame the file, with no traceback to read."""

    def widen(manifest: Manifest) -> Manifest:
        golden = manifest.golden[0]
        tensor = golden.sequence.model_copy(update={"shape": (1, 2, 3, 4)})
        return manifest.model_copy(update={"golden": [golden.model_copy(update={"sequence": tensor})]})

    with pytest.raises(ArtifactError, match="its golden vectors cannot be run"):
        EncoderSession(edit_manifest(artifact, widen), "hostile.onnx").replay_golden()


def test_a_file_without_manifest_is_served_unverified(artifact: Path) -> None:
    """Any graph with the right inputs and output will do; it has nothing to replay."""
    session = EncoderSession(edit(artifact, strip), "plain.onnx")
    assert session.manifest is None
    assert session.replay_golden() is None


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"dim": 999}, "its manifest says 3 features and 999 numbers an embedding, its graph 3 and 16"),
        ({"input": Input(kind="features", features=7)}, "its manifest says 7 features"),
        (
            {"parity": [ParityCheck(claim="c", cases=1, max_difference=1.0, tolerance=0.0)]},
            "the proof in its manifest does not hold",
        ),
    ],
    ids=["dim", "features", "parity"],
)
def test_a_manifest_of_something_else_is_refused(update: dict[str, object], reason: str, artifact: Path) -> None:
    """What a manifest claims must be true of the graph it came with."""
    content = edit_manifest(artifact, lambda manifest: manifest.model_copy(update=update))
    with pytest.raises(ArtifactError, match=reason):
        EncoderSession(content, "other.onnx")


def strip(model: onnx.ModelProto) -> None:
    """Remove the manifest."""
    del model.metadata_props[:]


def test_a_graph_may_leave_its_embedding_size_open(artifact: Path) -> None:
    """The size is read off a first run if the graph does not state it."""

    def open_up(model: onnx.ModelProto) -> None:
        strip(model)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "dim"

    assert EncoderSession(edit(artifact, open_up), "open.onnx").dim == 16


def test_graphs_that_only_look_like_encoders_are_refused_at_start(artifact: Path) -> None:
    """Fixed batch or time, a run that fails, and a lost row are found before the first request."""

    def fix_time(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4

    def average_batch(model: onnx.ModelProto) -> None:
        last = next(node for node in model.graph.node if "embedding" in node.output)
        last.output[0] = "rows"
        axis = helper.make_tensor("batch_axis", TensorProto.INT64, [1], [0])
        model.graph.initializer.append(axis)
        model.graph.node.append(helper.make_node("ReduceSum", ["rows", "batch_axis"], ["embedding"], keepdims=1))

    def demand_long(model: onnx.ModelProto) -> None:
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == "integers_0_16")
        weights.CopyFrom(numpy_helper.from_array(np.array([7, 16]), "integers_0_16"))

    for change, reason in (
        (fix_time, "with only features fixed"),
        (average_batch, r"its embeddings of two sequences have the shape \[1, 16\]"),
        (demand_long, "it fails on two short sequences"),
    ):
        with pytest.raises(ArtifactError, match=reason):
            EncoderSession(edit(artifact, change), "pretender.onnx")


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=9),
    extra=st.integers(0, 9),
    junk=st.sampled_from([0.0, 1e9, np.inf, np.nan]),
    order=st.randoms(use_true_random=False),
)
def test_padding_mates_and_order_change_no_bit_of_the_exported_graph(
    artifact: Path, lengths: list[int], extra: int, junk: float, order: object
) -> None:
    """In the session itself, a row is the same alone and in any batch, order, padding and junk."""
    session = open_session(artifact)
    sequences = draw_sequences(lengths)
    rows = list(range(len(lengths)))
    order.shuffle(rows)  # type: ignore[attr-defined]
    padded = np.full((len(rows), max(1, *lengths, 1) + extra, FEATURES), junk, dtype=np.float32)
    for place, row in enumerate(rows):
        padded[place, : lengths[row]] = sequences[row]
    found = session.run(Batch(padded, np.array([lengths[row] for row in rows])))
    alone = np.concatenate([session.run(pad_batch([sequences[row]])) for row in rows])
    assert found.tobytes() == alone.tobytes()


def test_files_that_are_no_artifacts_are_refused(tmp_path: Path) -> None:
    """Neither a missing file nor junk nor a folder of none is served, and the sentence names it."""
    junk, empty = tmp_path / "junk.onnx", tmp_path / "empty"
    junk.write_bytes(b"not a model")
    empty.mkdir()
    for path, reason in (
        (tmp_path / "missing.onnx", "it cannot be read: No such file or directory"),
        (tmp_path / ("x" * 300), "it cannot be read: File name too long"),
        (empty, "it is a folder without an ONNX file; if it is a run directory, `lengthwise export` makes one of it"),
        (junk, r"ONNX Runtime refuses it: .*protobuf parsing failed"),
    ):
        with pytest.raises(ArtifactError, match=rf"{path.name} cannot be served: {reason}\.$"):
            open_session(path)


def test_a_folder_of_one_artifact_stands_for_it(artifact: Path, tmp_path: Path) -> None:
    """The only file *.onnx in a folder is served; between two, none is chosen."""
    (tmp_path / "README.md").write_text("about")
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(artifact.read_bytes())
        if name == "a.onnx":
            assert open_session(tmp_path).file == str(tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"it is a folder with 2 files \*\.onnx: one is expected"):
        open_session(tmp_path)


def test_a_graph_with_other_inputs_is_refused() -> None:
    """The sentence says what was found and what an encoder has."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ArtifactError, match=r"its inputs are .*'x'.*; an encoder has the inputs sequences"):
        EncoderSession(model.SerializeToString(), "identity.onnx")


def test_cuda_is_refused_where_it_is_not(artifact: Path) -> None:
    """Asking for CUDA on a runtime without it is one clear sentence, never a silent CPU."""
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(ProviderUnavailable, match=r"`provider`=cuda.*install onnxruntime-gpu"):
        open_session(artifact, "cuda")


def test_cuda_that_does_not_start_is_refused_or_passed_over(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that lists CUDA and cannot start it: `cuda` is refused, `auto` says that it took the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    load = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda content, options, providers: load(content, options, providers[-1:])
    )
    assert open_session(artifact, "auto").provider == "cpu"
    with pytest.raises(ProviderUnavailable, match="could not start it"):
        open_session(artifact, "cuda")


def test_cuda_is_started_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device, the memory it may take, and full float32 products reach ONNX Runtime; the CPU is its fallback."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    first, fallback = choose_providers("auto", CudaOptions(device=1, memory_bytes=2**30))
    assert isinstance(first, tuple)
    name, options = first
    assert (name, fallback) == (CUDA_PROVIDER, CPU_PROVIDER)
    assert options.items() >= {"device_id": "1", "gpu_mem_limit": str(2**30), "use_tf32": "0"}.items()
    assert "gpu_mem_limit" not in choose_providers("cuda", CudaOptions())[0][1]


def test_a_bound_run_gives_the_same_bits(artifact: Path) -> None:
    """What CUDA runs through, inputs and outputs bound by name, is on the CPU the plain run."""
    session = open_session(artifact)
    batch = pad_batch(draw_sequences([3, 0, 5]))
    runtime = session._runtime
    assert isinstance(runtime, LocalRuntime)
    bound = runtime.run_bound(["embedding"], session._feed(batch), device="cpu")
    assert bound[0].tobytes() == session.run(batch).tobytes()


@pytest.mark.gpu
def test_golden_vectors_are_reproduced_on_cuda(artifact: Path) -> None:
    """The CUDA kernels agree within the tolerance of their block sums."""
    try:
        session = open_session(artifact, "cuda")
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    assert session.replay_golden() is not None
