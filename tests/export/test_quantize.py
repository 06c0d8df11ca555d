"""int8: what is written, what is measured of it, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from starlette.testclient import TestClient

import export.quantize
from export.__main__ import main
from export.artifact import export_run
from export.graph import GraphOptions, build_graph, hash_weights
from export.quantize import CannotQuantize, describe, quantize_graph
from model.encoder.config import EncoderConfig
from model.tasks.supervised import SequenceClassifier
from model.training.run_directory import read_model, read_samples
from service.app import create_app
from service.encoder.manifest import METADATA_KEY, Manifest, Quantization
from service.encoder.sequences import pad_batch
from service.encoder.session import EncoderSession, open_session
from service.errors import GoldenMismatch
from service.settings import Settings
from tests.conftest import FEATURES, draw_sequences
from tests.export.making import make_run


@pytest.fixture(scope="module")
def quantized_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder is large enough for rounding to average out."""
    path = tmp_path_factory.mktemp("run")
    make_run(path, EncoderConfig(features=FEATURES, hidden=32, layers=2))
    return path


@pytest.fixture(scope="module")
def quantized(quantized_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact quantised from `quantized_run`."""
    path = tmp_path_factory.mktemp("artifacts") / "int8.onnx"
    export_run(quantized_run, path, options=GraphOptions(quantize=True))
    return path


def cost_of(path: Path) -> Quantization:
    """Return what an artifact says quantising cost."""
    manifest = open_session(path).manifest
    assert manifest is not None
    assert manifest.quantization is not None
    return manifest.quantization


def test_every_lstm_is_quantised_and_the_manifest_proves_nothing_exact(quantized: Path) -> None:
    """No float32 LSTM is left, the hash is of the new weights, and no claim of the float32 proof is repeated."""
    graph = onnx.load(quantized)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in operators
    manifest = open_session(quantized).manifest
    assert manifest is not None
    assert manifest.parity == []
    assert manifest.weights_sha256 == hash_weights(graph)


def test_the_recorded_cost_is_what_the_sessions_give(quantized: Path, quantized_run: Path) -> None:
    """Errors and cosines are those between the float32 graph and this file, over the held-out sequences."""
    cost = cost_of(quantized)
    session, model = open_session(quantized), read_model(quantized_run)
    exact = EncoderSession(build_graph(model.encoder).SerializeToString(), "float32")
    samples = read_samples(quantized_run)
    found, expected = (
        np.concatenate([one.run(pad_batch([steps])) for steps in samples.sequences]) for one in (session, exact)
    )
    assert cost.sequences == len(samples.sequences)
    assert cost.max_error == np.abs(found - expected).max() > 0
    assert cost.mean_error == pytest.approx(np.abs(found - expected).mean())
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]
    assert cost.cosine_median == pytest.approx(np.median(cosines), abs=1e-6)
    assert 0.99 < cost.cosine_p1 <= cost.cosine_median <= 1
    assert isinstance(model, SequenceClassifier)
    logits = found @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    assert cost.accuracy_after == np.mean(logits.argmax(axis=1) == samples.labels)
    assert cost.speed_up > 0


def test_a_batch_changes_an_embedding_by_no_more_than_recorded(quantized: Path, quantized_run: Path) -> None:
    """All held-out sequences together differ from each alone, which float32 would not, and within the figure."""
    session, samples = open_session(quantized), read_samples(quantized_run).sequences
    alone = np.concatenate([session.run(pad_batch([steps])) for steps in samples])
    difference = np.abs(session.run(pad_batch(samples)) - alone).max()
    assert 0 < difference <= cost_of(quantized).batch_difference * 2  # another order takes the same ranges, or nearly


@pytest.mark.parametrize("threads", [1, 2])
def test_golden_vectors_are_its_own_and_replay(quantized: Path, threads: int) -> None:
    """Whatever the threads, within the stated tolerance; alone and with one thread, to the bit; empty ones are zero."""
    session = open_session(quantized, threads=threads)
    difference = session.replay_golden()
    assert difference is not None
    assert difference <= cost_of(quantized).golden_tolerance < 0.1
    assert session.manifest is not None
    for golden in session.manifest.golden:
        steps = golden.sequence.array()
        if threads == 1:
            assert session.run(pad_batch([steps]))[0].tobytes() == golden.embedding.array().tobytes()
        if not len(steps):
            assert not golden.embedding.array().any()


def test_another_encoder_does_not_replay(quantized: Path) -> None:
    """With its scales doubled, the file's own tolerance refuses it."""
    graph = onnx.load(quantized)
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))
    with pytest.raises(GoldenMismatch):
        EncoderSession(graph.SerializeToString(), "doubled").replay_golden()


def test_the_service_serves_it_and_says_what_it_is(quantized: Path) -> None:
    """`/encode` answers what the session gives, and `/info` repeats what quantising cost."""
    sequences = draw_sequences([4, 7])
    with TestClient(create_app(Settings(model=quantized))) as client:
        info = client.get("/info").json()["models"][0]["manifest"]
        assert info["quantization"] == cost_of(quantized).model_dump()
        assert info["parity"] == []
        answer = client.post("/encode", json={"sequences": [sequences[0].tolist()]}).json()
    expected = open_session(quantized).run(pad_batch([sequences[0]]))
    assert np.array_equal(np.float32(answer["embeddings"]), expected)


def test_a_float32_manifest_keeps_its_tolerance(artifact: Path) -> None:
    """Without quantisation nothing is loosened, and `/info` says null."""
    manifest = open_session(artifact).manifest
    assert manifest is not None
    assert manifest.golden_tolerance(1e-5) == 1e-5
    assert manifest.summary()["quantization"] is None


def test_a_tolerance_that_admits_anything_is_refused(quantized: Path) -> None:
    """A manifest cannot loosen its replay to 1, the largest an embedding can be."""
    text = next(entry.value for entry in onnx.load(quantized).metadata_props if entry.key == METADATA_KEY)
    document = Manifest.model_validate_json(text).model_dump(mode="json")
    document["quantization"]["golden_tolerance"] = 1.0
    with pytest.raises(ValueError, match="less than 1"):
        Manifest.model_validate(document)


@pytest.mark.parametrize(
    ("operators", "held"), [(["GRU"], "GRU"), (["RNN", "GRU"], "GRU and RNN"), (["Add"], "no recurrent")]
)
def test_what_holds_no_lstm_is_refused(operators: list[str], held: str) -> None:
    """The sentence says what the graph holds."""
    nodes = [helper.make_node(operator, ["x"], [f"y{place}"]) for place, operator in enumerate(operators)]
    graph = helper.make_model(helper.make_graph(nodes, "g", [], []))
    with pytest.raises(CannotQuantize, match=f"only an LSTM can be quantised, and the graph holds {held}"):
        quantize_graph(graph)


def test_an_lstm_that_cannot_be_quantised_is_refused(quantized_run: Path) -> None:
    """Weights that are not initializers are left as they were by ONNX Runtime, and the sentence says so."""
    graph = build_graph(read_model(quantized_run).encoder)
    for node in list(graph.graph.node):
        if node.op_type == "LSTM":
            graph.graph.node.insert(0, helper.make_node("Identity", [node.input[1]], [f"{node.name}.moved"]))
            node.input[1] = f"{node.name}.moved"
    with pytest.raises(CannotQuantize, match="left every LSTM as it was"):
        quantize_graph(graph)


def test_another_encoder_is_not_written(quantized_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quantising turns embeddings elsewhere, the command ends with the cosine, and no file."""
    whole = export.quantize.quantize_graph

    def negate(graph: onnx.ModelProto) -> onnx.ModelProto:
        return break_scales(whole(graph))

    monkeypatch.setattr(export.quantize, "quantize_graph", negate)
    with pytest.raises(SystemExit, match=r"has a cosine of -?0\.\d+ or less .* nothing was written"):
        main([str(quantized_run), "-o", str(tmp_path / "m.onnx"), "--quantize"])
    assert not list(tmp_path.iterdir())


def break_scales(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Give every weight row the wrong scale."""
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    return graph


def test_the_command_prints_what_it_cost(
    quantized_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--quantize` prints each figure, and no line of a proof."""
    main([str(quantized_run), "-o", str(tmp_path / "m.onnx"), "--quantize"])
    printed = capsys.readouterr().out
    assert "\n".join(describe(cost_of(tmp_path / "m.onnx"), "held-out").splitlines()[:2]) in printed
    assert "cosine to float32" in printed
    assert " ok\n" not in printed


def test_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Linux names it, and by its architecture elsewhere."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(export.quantize, "Path", lambda _name: file)
    monkeypatch.setattr("platform.machine", lambda: "x86")
    assert export.quantize._cpu_name() == "x86"
    file.write_text("model name : A CPU\n", encoding="utf-8")
    assert export.quantize._cpu_name() == "A CPU"


def test_cosines_of_zero_vectors_agree() -> None:
    """Two zero vectors have the cosine 1, one beside another vector 0."""
    zero, one = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert export.quantize._cosines(zero, zero).tolist() == [1.0]
    assert export.quantize._cosines(zero, one).tolist() == [0.0]
