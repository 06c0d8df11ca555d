"""The export and its proof: right graphs pass, subtly wrong ones are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

import export.artifact
from export.__main__ import main
from export.artifact import ProofFailed, export_run, prove
from export.graph import GraphOptions, build_graph, hash_weights
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.head import FoldedHead
from model.training.run_directory import BrokenRun, read_model, read_samples
from service.catalogue.vetting.structure import check_structure
from service.encoder.sequences import pad_batch
from service.encoder.session import EncoderSession, open_session
from tests import oracle
from tests.conftest import MADE, draw_sequences
from tests.export.making import make_run

# Fields of config.json that runs of 0.1.0 lack.
LATER_ENCODER_FIELDS = ["deltas"]
LATER_TRAINING_FIELDS = ["head_dropout", "head_norm"]


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(features=1, hidden=1, standardize=False),
        EncoderConfig(features=12, hidden=5, layers=1),
        EncoderConfig(features=3, hidden=16, layers=3, dropout=0.5),
    ],
    ids=["smallest", "one-layer", "three-layers"],
)
def test_the_proof_holds_for_encoders_of_any_size(config: EncoderConfig, tmp_path: Path) -> None:
    """Each claim holds, the exact ones with a difference of zero, and the file says so."""
    make_run(tmp_path / "run", config)
    manifest = export_run(tmp_path / "run", tmp_path / "model.onnx")
    assert manifest == open_session(tmp_path / "model.onnx").manifest
    assert all(check.holds for check in manifest.parity)
    exact = [check for check in manifest.parity if check.tolerance == 0]
    assert len(exact) == 4
    assert all(check.max_difference == 0 and check.cases > 40 for check in exact)


def test_the_artifact_equals_the_independent_oracle(artifact: Path) -> None:
    """A numpy loop over the file's own weights gives the embeddings its session gives."""
    session, weights = open_session(artifact), oracle.read_weights(artifact)
    sequences = draw_sequences([1, 7, 0, 30])
    found = session.run(pad_batch(sequences))
    expected = [oracle.encode(weights, steps) for steps in sequences]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)  # float32 against float64, see export.verify


@pytest.mark.parametrize("window", [1, 3])
def test_an_artifact_that_reads_slopes_equals_the_independent_oracle(window: int, tmp_path: Path) -> None:
    """The file's nodes measure the slopes that a line of least squares has, and the vetting takes them."""
    make_run(tmp_path / "run", EncoderConfig(features=3, hidden=4, deltas=window))
    manifest = export_run(tmp_path / "run", tmp_path / "model.onnx")
    assert manifest.encoder["deltas"] == window
    check_structure((tmp_path / "model.onnx").read_bytes(), "model.onnx")
    session, weights = open_session(tmp_path / "model.onnx"), oracle.read_weights(tmp_path / "model.onnx")
    sequences = draw_sequences([1, 7, 0, 30, 2])
    expected = [oracle.encode(weights, steps) for steps in sequences]
    np.testing.assert_allclose(session.run(pad_batch(sequences)), expected, rtol=0, atol=5e-6)  # see export.verify


def test_the_artifact_that_is_checked_in_is_what_is_exported_today(run: Path, tmp_path: Path) -> None:
    """It has the graph and the kinds of claims that an export writes now; `python -m tests.made` writes it anew."""
    manifest = export_run(run, tmp_path / "made.onnx")
    checked_in = open_session(MADE).manifest
    assert checked_in is not None
    assert checked_in.weights_sha256 == manifest.weights_sha256
    assert [check.claim for check in checked_in.parity] == [check.claim for check in manifest.parity]
    assert checked_in.model_dump().keys() == manifest.model_dump().keys()
    assert onnx.load(MADE).graph == onnx.load(tmp_path / "made.onnx").graph


def test_a_number_that_never_changes_has_a_deviation_of_zero_in_the_graph() -> None:
    """Outputs that are 0.99 at every step, and as large as nothing rounds well, deviate by exactly 0 in any batch."""
    encoder = SequenceEncoder(EncoderConfig(features=1, hidden=2, cell="rnn", pooling="mean+std", standardize=False))
    with torch.no_grad():
        for name, weights in encoder.named_parameters():
            weights.fill_(0.7 if "bias" in name else 0.0)
    session = EncoderSession(build_graph(encoder.eval()).SerializeToString(), "constant")
    found = session.run(pad_batch(draw_sequences([7, 1, 0, 30], 1)))
    assert found[:2, :4].all()
    assert not found[:, 4:].any()


def find(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    """Return the first node of a kind."""
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type == operator)
    return found


def replace_weights(model: onnx.ModelProto, name: str, change: Callable[[npt.NDArray[np.float32]], object]) -> None:
    """Change an initializer."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))


def permute_gates(model: onnx.ModelProto) -> None:
    """Leave the gates in PyTorch's order."""
    replace_weights(model, "layer0.W", lambda w: np.concatenate(np.split(w, 4, axis=1)[::-1], axis=1))


def drop_lengths(model: onnx.ModelProto) -> None:
    """Run the LSTM over the padding, as an exporter that leaves `sequence_lens` unset does."""
    for node in model.graph.node:
        if node.op_type == "LSTM":
            del node.input[4:]


def average_padded_time(model: onnx.ModelProto) -> None:
    """Divide by the padded time instead of the length."""
    reduce = find(model, "ReduceSum")
    reduce.op_type = "ReduceMean"
    axes = reduce.input.pop()
    reduce.attribute.append(helper.make_attribute("axes", [0]))
    nothing = helper.make_node("Sub", ["lengths", "lengths"], ["nothing"])
    model.graph.node.insert(0, nothing)
    find(model, "Max").input[0] = "nothing"
    keep = [tensor for tensor in model.graph.initializer if tensor.name != axes]
    del model.graph.initializer[:]
    model.graph.initializer.extend(keep)


def swap_directions(model: onnx.ModelProto) -> None:
    """Give each direction the other's weights."""
    for letter in "WRB":
        replace_weights(model, f"layer0.{letter}", lambda weights: weights[::-1])


def forget_standardization(model: onnx.ModelProto) -> None:
    """Read features as they come."""
    replace_weights(model, "standardization.mean", np.zeros_like)
    replace_weights(model, "standardization.std", np.ones_like)


def let_padding_in(model: onnx.ModelProto) -> None:
    """Standardise by the batch's own largest number, so that mates and padding change a row."""
    peak = helper.make_node("ReduceMax", ["sequences"], ["peak"], keepdims=0)
    scaled = helper.make_node("Div", ["sequences", "peak"], ["scaled"])
    times = helper.make_node("Mul", ["scaled", "peak"], ["again"])
    find(model, "Sub").input[0] = "again"
    nodes = [peak, scaled, times, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_the_floor(model: onnx.ModelProto) -> None:
    """Divide an empty sequence by zero."""
    replace_weights(model, "integer_1", np.zeros_like)


BREAKAGES: dict[Callable[[onnx.ModelProto], None], str] = {
    permute_gates: "equals torch over a grid",
    drop_lengths: "is the same with more padding",
    average_padded_time: "is the same alone and in any batch",
    swap_directions: "equals a numpy oracle",
    forget_standardization: "equals torch on real sequences, alone",
    let_padding_in: "is the same with more padding",
    drop_the_floor: "embedding is zero for an empty sequence",
}


@pytest.mark.parametrize(("breakage", "claim"), BREAKAGES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_graph_is_refused(
    breakage: Callable[[onnx.ModelProto], None],
    claim: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each breakage fails its claim, and leaves an existing file as it was."""

    def build_broken(
        encoder: SequenceEncoder, options: GraphOptions | None, head: FoldedHead | None
    ) -> onnx.ModelProto:
        model = build_graph(encoder, options, head)
        breakage(model)
        return model

    monkeypatch.setattr(export.artifact, "build_graph", build_broken)
    output = tmp_path / "model.onnx"
    output.write_bytes(b"before")
    with pytest.raises(ProofFailed, match="nothing was written") as caught:
        export_run(run, output)
    assert any(claim in check.claim for check in caught.value.checks if not check.holds)
    assert output.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [output]


def test_an_unbroken_graph_is_not_refused(run: Path) -> None:
    """The same proof, on the graph as it is built, holds: the refusals above are for the breakage."""
    encoder = read_model(run).encoder
    assert prove(encoder, build_graph(encoder), read_samples(run).sequences)


def test_the_weights_hash_follows_the_weights(run: Path) -> None:
    """Equal weights hash alike, and one changed number shows."""
    encoder = read_model(run).encoder
    before = hash_weights(build_graph(encoder))
    assert before == hash_weights(build_graph(read_model(run).encoder))
    next(encoder.parameters()).data[0, 0] += 1
    assert hash_weights(build_graph(encoder)) != before


def test_the_command_prints_its_proof(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m export` reports each claim, and what it wrote."""
    main([str(run), "-o", str(tmp_path / "deep" / "m.onnx"), "--name", "mine", "--version", "7"])
    printed = capsys.readouterr().out
    assert printed.count(" ok\n") == 8
    assert "mine 7, 16 numbers an embedding" in printed


def test_the_command_exits_with_the_reason(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed proof, a broken run and a bad name end in one sentence, and no file."""
    with pytest.raises(SystemExit, match=r"export: .* cannot be used: config\.json"):
        main([str(tmp_path), "-o", str(tmp_path / "m.onnx")])
    with pytest.raises(SystemExit):
        main([str(run), "-o", str(tmp_path / "m.onnx"), "--name", "../etc"])
    assert "'../etc' is not a name" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit, match=r"export: .*Is a directory"):
        main([str(run), "-o", str(tmp_path / "folder")])
    (tmp_path / "folder").rmdir()
    monkeypatch.setattr("export.verify.TOLERANCE", 0.0)
    with pytest.raises(SystemExit, match="export: the exported graph fails its proof"):
        main([str(run), "-o", str(tmp_path / "m.onnx")])
    assert "FAILED" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN", "--normalize"], "--normalize changes nothing about a run, which says it itself"),
        (["RUN", "--pooling", "max"], "--pooling changes nothing about a run"),
        (["RUN", "--licence", "mine"], "--licence changes nothing about a run"),
        (["--from-keras", "a.keras", "--prefix", "a."], "--prefix changes nothing about --from-keras"),
        (["--from-torch", "a.safetensors", "--forget-bias", "0"], "--forget-bias changes nothing about --from-torch"),
    ],
)
def test_what_would_change_nothing_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is left to believe that a run was exported with another pooling than it was trained with."""
    with pytest.raises(SystemExit):
        main([*arguments, "-o", "m.onnx"])
    assert sentence in capsys.readouterr().err


def test_a_file_whose_name_no_model_may_have_needs_another(run: Path, tmp_path: Path) -> None:
    """The sentence says so before anything is proven, for a run of such a data set and for weights in such a file."""
    named = tmp_path / "my run"
    shutil.copytree(run, named)
    config = json.loads((named / "config.json").read_text())
    config["data"]["name"] = "my data"
    (named / "config.json").write_text(json.dumps(config))
    save_file(torch.nn.LSTM(2, 3).state_dict(), tmp_path / "my net.safetensors")
    for arguments, name in (
        ([str(named)], "my data"),
        (["--from-torch", str(tmp_path / "my net.safetensors")], "my net"),
    ):
        with pytest.raises(SystemExit, match=rf"^export: '{name}' is not a name: .*; --name gives another"):
            main([*arguments, "-o", str(tmp_path / "m.onnx")])


def test_a_metric_that_is_not_a_number_is_left_out_of_the_manifest(tmp_path: Path) -> None:
    """The share that is explained of one target's variance is none, which JSON cannot say, and no export fails by."""
    make_run(tmp_path, EncoderConfig(features=2, hidden=2), "regression", ())
    (tmp_path / "results.json").write_text('{"mse": 0.25, "r2": NaN}')
    task = export_run(tmp_path, tmp_path / "m.onnx").task
    assert task is not None
    assert task.metrics == {"mse": 0.25}
    assert open_session(tmp_path / "m.onnx").manifest is not None


def test_a_run_of_an_earlier_version_is_exported(tmp_path: Path) -> None:
    """A config that lacks the fields that came later means what it meant."""
    make_run(tmp_path, EncoderConfig(features=2, hidden=2))
    config = json.loads((tmp_path / "config.json").read_text())
    for part, later in (("encoder", LATER_ENCODER_FIELDS), ("training", LATER_TRAINING_FIELDS)):
        for name in later:
            del config[part][name]
    del config["data"]["columns"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert export_run(tmp_path, tmp_path / "m.onnx").encoder["deltas"] == 0


@pytest.mark.usefixtures("small_grid")
def test_the_names_of_features_are_in_the_manifest(tmp_path: Path) -> None:
    """Those of the file that was trained on, in the order of a step's numbers."""
    make_run(tmp_path, EncoderConfig(features=2, hidden=2))
    config = json.loads((tmp_path / "config.json").read_text())
    config["data"]["columns"] = ["weight", "height"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert export_run(tmp_path, tmp_path / "m.onnx").input.columns == ["weight", "height"]


@pytest.mark.parametrize("missing", ["config.json", "weights.safetensors", "samples.safetensors", "results.json"])
def test_an_unfinished_run_is_refused_by_file(missing: str, tmp_path: Path) -> None:
    """The sentence names what the run directory lacks."""
    make_run(tmp_path, EncoderConfig(features=2, hidden=2))
    (tmp_path / missing).unlink()
    with pytest.raises(BrokenRun, match=f"cannot be used: {missing}"):
        export_run(tmp_path, tmp_path / "m.onnx")
