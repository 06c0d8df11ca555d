"""Weights trained elsewhere: each export is judged by the program they come from, or by its published equations."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from export.__main__ import main
from export.artifact import prove
from export.foreign import CellWeights, NotRepresentable, assemble
from export.graph import build_graph
from export.keras_file import read_keras
from export.tensorflow1 import convert_gru_cell, convert_lstm_cell, convert_rnn_cell, read_tensorflow1
from export.torch_state import read_torch_state
from model.encoder.config import EncoderConfig
from service.encoder.manifest import Manifest
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from tests.conftest import draw_sequences

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
layers = keras.layers

# Keras converts its own variables in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("small_grid"),
]

Arrays = npt.NDArray[np.float32]
SEQUENCES = draw_sequences([7, 1, 4])


def encode_file(path: Path, sequences: list[Any]) -> Arrays:
    """Encode with the service's session class, in one padded batch."""
    return open_session(path).run(pad_batch(sequences))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_torch_state_dict_is_exported_as_the_module_itself(
    kind: type[nn.LSTM | nn.GRU | nn.RNN], directions: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cell, sizes, layers and directions follow from the shapes, and the embedding is the mean of torch's outputs."""
    torch.manual_seed(0)
    module = kind(3, 5, num_layers=2, bidirectional=directions == 2, batch_first=True)
    state = {f"encoder.{name}": value for name, value in module.state_dict().items()}
    safetensors.torch.save_file({**state, "head.weight": torch.zeros(2, 2)}, tmp_path / "net.safetensors")
    arguments = [
        "--from-torch",
        str(tmp_path / "net.safetensors"),
        "--prefix",
        "encoder.",
        "-o",
        str(tmp_path / "n.onnx"),
    ]
    main([*arguments, "--source", "a colleague", "--licence", "MIT"])
    with torch.inference_mode():
        expected = [module(torch.from_numpy(steps)[None])[0][0].mean(dim=0).numpy() for steps in SEQUENCES]
    found = encode_file(tmp_path / "n.onnx", SEQUENCES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # float32, values below 1
    manifest = open_session(tmp_path / "n.onnx").manifest
    assert isinstance(manifest, Manifest)
    assert (manifest.name, manifest.source, manifest.licence, manifest.task) == ("net", "a colleague", "MIT", None)
    printed = capsys.readouterr().out
    assert ("read as tanh" in printed) == (kind is nn.RNN)
    for proof in (printed, " ".join(check.claim for check in manifest.parity)):
        assert "embedding equals torch on made sequences, alone" in proof  # nobody gave real ones
        assert "real" not in proof


def test_a_torch_embedding_makes_a_token_encoder(tmp_path: Path) -> None:
    """With the table of an `nn.Embedding` named, the exported file reads ids; a missing bias is zero."""
    torch.manual_seed(0)
    table, module = nn.Embedding(11, 4), nn.LSTM(4, 5, bias=False, batch_first=True)
    state = {"table": table.weight.data, **module.state_dict()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    named = ["--embedding", "table", "--pooling", "last", "--normalize"]
    main(["--from-torch", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "n.onnx"), *named])
    ids = np.array([3, 10, 1])
    with torch.inference_mode():
        expected = nn.functional.normalize(module(table(torch.from_numpy(ids))[None])[0][0, -1], dim=0).numpy()
    np.testing.assert_allclose(encode_file(tmp_path / "n.onnx", [ids])[0], expected, rtol=0, atol=1e-6)
    assert open_session(tmp_path / "n.onnx").kind.vocabulary == 11


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("weight_hh_l0"), "there is no weight_ih_l0 and weight_hh_l0; it holds"),
        (lambda state: state.update(weight_hr_l0=np.zeros((2, 5))), "proj_size"),
        (lambda state: state.update(weight_hh_l0=np.zeros((10, 5))), "is of no known cell"),
        (lambda state: state.update(weight_ih_l0=np.zeros((20, 7, 1))), "its weights do not fit together"),
        (lambda state: state.pop("weight_hh_l1"), "its weights do not fit together: 'weight_hh_l1'"),
        (lambda state: state.update(bias_ih_l1=np.zeros(3)), r"bias_ih_l0 of layer 1 has the shape \[3\]"),
    ],
)
def test_a_state_dict_that_fits_nothing_is_refused(
    change: Callable[[dict[str, Any]], object], reason: str, tmp_path: Path
) -> None:
    """The sentence names the file and what is wrong with it."""
    state: dict[str, Any] = {name: value.numpy() for name, value in nn.LSTM(3, 5, num_layers=2).state_dict().items()}
    change(state)
    safetensors.numpy.save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(NotRepresentable, match=rf"net\.safetensors cannot be exported: .*{reason}"):
        read_torch_state(tmp_path / "net.safetensors")


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    """A pickle is not read, a pooling with weights has none here, and a missing table is named."""
    path = tmp_path / "net.pt"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(NotRepresentable, match="it is not a safetensors file"):
        read_torch_state(path)
    safetensors.torch.save_file(nn.LSTM(3, 5).state_dict(), path)
    with pytest.raises(NotRepresentable, match="attention pooling has weights"):
        read_torch_state(path, "attention")
    with pytest.raises(NotRepresentable, match="there is no table for token ids"):
        read_torch_state(path, embedding="table")
    with pytest.raises(NotRepresentable, match=r"bias_ih_l0 of \[20\] is not a table \(V, E\) for token ids"):
        read_torch_state(path, embedding="bias_ih_l0")
    with pytest.raises(SystemExit, match=r"export: .* there is no wrong"):
        main(["--from-torch", str(path), "--prefix", "wrong.", "-o", str(tmp_path / "n.onnx")])


def save_keras(path: Path, *stack: Any, inputs: tuple[int | None, ...] = (None, 3)) -> Any:
    """Make a Keras model with random biases, too, and save it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(inputs, dtype="int32" if len(inputs) == 1 else "float32"), *stack])
    draw = np.random.default_rng(0)
    model.set_weights([draw.normal(0, 0.4, weights.shape) for weights in model.weights])
    model.save(path)
    return model


STACKS: dict[str, Callable[[], list[Any]]] = {
    "lstm-last": lambda: [layers.LSTM(5)],
    "bilstm-mean": lambda: [
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.Dropout(0.5),
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.GlobalAveragePooling1D(),
    ],
    "bilstm-last": lambda: [
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.Bidirectional(layers.LSTM(5)),
    ],
    "gru-after": lambda: [layers.GRU(5, return_sequences=True), layers.GRU(5)],
    "gru-before": lambda: [layers.Bidirectional(layers.GRU(5, reset_after=False))],
    "rnn-max": lambda: [layers.SimpleRNN(5, return_sequences=True), layers.GlobalMaxPooling1D()],
    "no-bias": lambda: [layers.LSTM(5, use_bias=False)],
    "named": lambda: [layers.LSTM(5, return_sequences=True, name="first"), layers.LSTM(5, name="second")],
}


@pytest.mark.parametrize("stack", STACKS)
def test_a_keras_model_is_exported_as_keras_runs_it(stack: str, tmp_path: Path) -> None:
    """The embedding of each sequence is what Keras itself gives for it, unpadded."""
    model = save_keras(tmp_path / "net.keras", *STACKS[stack]())
    main(["--from-keras", str(tmp_path / "net.keras"), "-o", str(tmp_path / "n.onnx")])
    expected = [np.asarray(model(steps[None]).detach())[0] for steps in SEQUENCES]
    np.testing.assert_allclose(encode_file(tmp_path / "n.onnx", SEQUENCES), expected, rtol=0, atol=1e-6)


def test_a_keras_embedding_masks_zero(tmp_path: Path) -> None:
    """Padded ids in Keras and ragged ids here give the same; without `mask_zero`, id 0 would be a token."""
    stack = [layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.GlobalAveragePooling1D()]
    model = save_keras(tmp_path / "net.keras", layers.Embedding(9, 3, mask_zero=True), *stack, inputs=(None,))
    main(["--from-keras", str(tmp_path / "net.keras"), "-o", str(tmp_path / "n.onnx")])
    padded = np.array([[1, 8, 3, 2], [5, 0, 0, 0]])
    expected = np.asarray(model(padded).detach())
    found = encode_file(tmp_path / "n.onnx", [padded[0].astype(np.int64), np.array([5])])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_functional_chain_with_masking_is_read_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mask is a mark of padding here, and the command says so."""
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.LSTM(4)(layers.Masking()(inputs)))
    model.save(tmp_path / "net.keras")
    main(["--from-keras", str(tmp_path / "net.keras"), "-o", str(tmp_path / "n.onnx")])
    assert "note: The Masking layer is read as a mark of padding" in capsys.readouterr().out
    expected = [np.asarray(model(steps[None]).detach())[0] for steps in SEQUENCES]
    np.testing.assert_allclose(encode_file(tmp_path / "n.onnx", SEQUENCES), expected, rtol=0, atol=1e-6)


REFUSED: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "head": (lambda: [layers.LSTM(4), layers.Dense(2)], r"\(Dense\) follows the pooling"),
    "convolution": (lambda: [layers.Conv1D(4, 2), layers.LSTM(4)], "is a Conv1D, which has no counterpart"),
    "mixed": (lambda: [layers.LSTM(4, return_sequences=True), layers.GRU(4)], "differ in cell, units or direction"),
    "sizes": (lambda: [layers.LSTM(4, return_sequences=True), layers.LSTM(5)], "differ in cell, units or direction"),
    "steps": (lambda: [layers.LSTM(4, return_sequences=True)], "ends in one output a step"),
    "relu": (lambda: [layers.SimpleRNN(4, activation="relu")], "has the activation relu: only tanh is known"),
    "hard": (lambda: [layers.LSTM(4, recurrent_activation="hard_sigmoid")], "recurrent_activation hard_sigmoid"),
    "backwards": (lambda: [layers.LSTM(4, go_backwards=True)], "reads backwards only"),
    "sum": (lambda: [layers.Bidirectional(layers.LSTM(4), merge_mode="sum")], "merges by sum"),
    "resets": (
        lambda: [
            layers.Bidirectional(
                layers.GRU(4), backward_layer=layers.GRU(4, reset_after=False, go_backwards=True), merge_mode="concat"
            )
        ],
        "wraps a GRU, or two layers that differ",
    ),
    "none": (lambda: [layers.GlobalAveragePooling1D()], "has no counterpart"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_exact_counterpart_is_refused(case: str, tmp_path: Path) -> None:
    """The sentence names the layer and what of it cannot be had."""
    stack, reason = REFUSED[case]
    save_keras(tmp_path / "net.keras", *stack())
    with pytest.raises(NotRepresentable, match=rf"net\.keras cannot be exported: .*{reason}"):
        read_keras(tmp_path / "net.keras")


def test_other_keras_files_are_refused(tmp_path: Path) -> None:
    """No zip, an embedding of token 0, a branching model: each has its sentence."""
    path = tmp_path / "net.keras"
    path.write_bytes(b"no zip")
    with pytest.raises(NotRepresentable, match=r"it is not a \.keras file"):
        read_keras(path)
    save_keras(path, layers.Embedding(9, 3), layers.LSTM(4), inputs=(None,))
    with pytest.raises(NotRepresentable, match="does not mask zero"):
        read_keras(path)
    inputs = keras.Input((None, 3))
    keras.Model(inputs, layers.Add()([layers.LSTM(4)(inputs), layers.LSTM(4)(inputs)])).save(path)
    with pytest.raises(NotRepresentable, match="is not fed by the one before it alone"):
        read_keras(path)


def test_a_keras_layer_that_starts_from_a_state_is_refused(tmp_path: Path) -> None:
    """The state that a layer below hands over would be left out, and a state in place of an output be taken for one."""
    inputs, path = keras.Input((None, 3)), tmp_path / "net.keras"
    steps, *state = layers.LSTM(4, return_sequences=True, return_state=True)(inputs)
    keras.Model(inputs, layers.LSTM(4)(steps, initial_state=state)).save(path)
    with pytest.raises(NotRepresentable, match="is not fed by the one before it alone"):
        read_keras(path)
    output, _, cells = layers.LSTM(4, return_state=True)(inputs)
    keras.Model(inputs, cells).save(path)
    with pytest.raises(NotRepresentable, match=r"it gives the state of its layer lstm.*, and not its output"):
        read_keras(path)
    keras.Model(inputs, output).save(path)
    assert read_keras(path).encoder.config.pooling == "last"


def run_tf1_lstm(steps: Arrays, kernel: Arrays, bias: Arrays, forget_bias: float) -> Arrays:
    """TensorFlow 1's LSTMCell as its documentation defines it: gates i, j, f, o of one product."""
    hidden = kernel.shape[1] // 4
    h = c = np.zeros(hidden)
    outputs = []
    for x in steps:
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def run_tf1_gru(steps: Arrays, gates: tuple[Arrays, Arrays], candidate: tuple[Arrays, Arrays]) -> Arrays:
    """TensorFlow 1's GRUCell: gates r, u; the reset gate acts on the state before the product."""
    h = np.zeros(candidate[0].shape[1])
    outputs = []
    for x in steps:
        r, u = np.split(sigmoid(np.concatenate([x, h]) @ gates[0] + gates[1]), 2)
        new = np.tanh(np.concatenate([x, r * h]) @ candidate[0] + candidate[1])
        h = u * h + (1 - u) * new
        outputs.append(h)
    return np.array(outputs)


def sigmoid(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the logistic function."""
    return np.asarray(1 / (1 + np.exp(-x)))


def prove_and_encode(config: EncoderConfig, weights: list[CellWeights]) -> Callable[[Arrays], Arrays]:
    """Assemble an encoder of one direction, prove its export, and return its embedding of a sequence."""
    encoder = assemble(config, [[cell] for cell in weights])
    assert prove(encoder, build_graph(encoder), list(SEQUENCES))
    return lambda steps: encoder(torch.from_numpy(steps)[None], torch.tensor([len(steps)]))[0].detach().numpy()


def test_tensorflow_1_cells_become_the_same_cells() -> None:
    """LSTM with its forget bias, GRU with its early reset and the basic cell: the mean of their outputs is ours."""
    draw = np.random.default_rng(1)

    def array(*shape: int) -> Arrays:
        return draw.normal(0, 0.5, shape).astype(np.float32)

    shape: dict[str, Any] = {"features": 3, "hidden": 4, "bidirectional": False, "standardize": False}
    kernel, bias = array(7, 16), array(16)
    lstm = prove_and_encode(EncoderConfig(**shape), [convert_lstm_cell(kernel, bias, forget_bias=0.7)])
    gates, candidate = (array(7, 8), array(8)), (array(7, 4), array(4))
    gru = prove_and_encode(
        EncoderConfig(**shape, cell="gru", reset_after=False), [convert_gru_cell(*gates, *candidate)]
    )
    rnn = prove_and_encode(EncoderConfig(**shape, cell="rnn"), [convert_rnn_cell(*candidate)])
    for steps in SEQUENCES:
        close: dict[str, Any] = {"rtol": 0, "atol": 1e-6}  # float32 against float64, values below 1
        np.testing.assert_allclose(lstm(steps), run_tf1_lstm(steps, kernel, bias, 0.7).mean(axis=0), **close)
        np.testing.assert_allclose(gru(steps), run_tf1_gru(steps, gates, candidate).mean(axis=0), **close)
        h, outputs = np.zeros(4), []
        for x in steps:
            h = np.tanh(np.concatenate([x, h]) @ candidate[0] + candidate[1])
            outputs.append(h)
        np.testing.assert_allclose(rnn(steps), np.mean(outputs, axis=0), **close)


def test_a_kernel_of_another_cell_is_refused() -> None:
    """Shapes tell a kernel of four gates from one that cannot be."""
    with pytest.raises(ValueError, match=r"a kernel of \[7, 15\] is not \(inputs \+ hidden, 4 \* hidden\)"):
        convert_lstm_cell(np.zeros((7, 15), np.float32), np.zeros(15, np.float32))
    with pytest.raises(ValueError, match="is not"):
        convert_rnn_cell(np.zeros((4, 4), np.float32), np.zeros(4, np.float32))


def draw_tf1_lstm(inputs: int, hidden: int, seed: int) -> tuple[Arrays, Arrays]:
    """Draw the kernel and the bias of an LSTM of TensorFlow 1."""
    draw = np.random.default_rng(seed)
    kernel = draw.normal(0, 0.5, (inputs + hidden, 4 * hidden)).astype(np.float32)
    return kernel, draw.normal(0, 0.5, 4 * hidden).astype(np.float32)


@pytest.mark.parametrize("forget_bias", [1.0, 0.25])
def test_a_tensorflow_1_checkpoint_is_exported_as_tensorflow_1_runs_it(
    forget_bias: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two bidirectional LSTM layers, their optimizer's slots beside them, give the mean of the published equations."""
    arrays: dict[str, Arrays] = {}
    cells: dict[tuple[int, str], tuple[Arrays, Arrays]] = {}
    for layer, inputs in enumerate((3, 8)):
        for direction in ("fw", "bw"):
            cells[layer, direction] = draw_tf1_lstm(inputs, 4, len(cells))
            scope = f"net/cell_{layer}/bidirectional_rnn/{direction}/lstm_cell"
            arrays[f"{scope}/kernel"], arrays[f"{scope}/bias:0"] = cells[layer, direction]
            arrays[f"{scope}/kernel/Adam"] = np.zeros(1, np.float32)
    np.savez(tmp_path / "net.npz", **arrays, allow_pickle=False)
    main(["--from-tf1", str(tmp_path / "net.npz"), "-o", str(tmp_path / "n.onnx"), f"--forget-bias={forget_bias}"])
    printed = capsys.readouterr().out
    assert f"note: A forget bias of {forget_bias:g} is added" in printed
    assert "embedding equals torch on made sequences, alone" in printed
    expected = []
    for steps in SEQUENCES:
        below: Arrays = steps
        for layer in (0, 1):
            ahead = run_tf1_lstm(below, *cells[layer, "fw"], forget_bias)
            behind = run_tf1_lstm(below[::-1], *cells[layer, "bw"], forget_bias)[::-1]
            below = np.concatenate([ahead, behind], axis=1)
        expected.append(below.mean(axis=0))
    np.testing.assert_allclose(encode_file(tmp_path / "n.onnx", SEQUENCES), expected, rtol=0, atol=1e-6)


def test_a_tensorflow_1_gru_of_token_ids_is_exported(tmp_path: Path) -> None:
    """The prefix chooses it from among other variables, and the table embeds the ids."""
    draw = np.random.default_rng(0)

    def array(*shape: int) -> Arrays:
        return draw.normal(0, 0.5, shape).astype(np.float32)

    table, gates, candidate = array(9, 3), (array(7, 8), array(8)), (array(7, 4), array(4))
    names = ["table", *(f"a/rnn/gru_cell/{part}" for part in ("gates/kernel", "gates/bias"))]
    names += [f"a/rnn/gru_cell/candidate/{part}" for part in ("kernel", "bias")]
    other = {"b/rnn/gru_cell/gates/kernel": array(7, 8)}
    np.savez(
        tmp_path / "n.npz", **dict(zip(names, [table, *gates, *candidate], strict=True)), **other, allow_pickle=False
    )
    flags = ["--prefix", "a/", "--embedding", "table", "--pooling", "last"]
    main(["--from-tf1", str(tmp_path / "n.npz"), "-o", str(tmp_path / "n.onnx"), *flags])
    ids = np.array([3, 8, 1])
    expected = run_tf1_gru(table[ids], gates, candidate)[-1]
    np.testing.assert_allclose(encode_file(tmp_path / "n.onnx", [ids])[0], expected, rtol=0, atol=1e-6)


LSTM_3_4 = draw_tf1_lstm(3, 4, 0)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["dense/kernel", "dense/bias"], "it takes one kind of cell, of lstm_cell.*it holds dense/bias, dense/kernel"),
        (["a/lstm_cell/kernel", "b/lstm_cell/kernel"], "belong to the same layer: choose one with --prefix"),
        (["rnn/lstm_cell/w_f_diag"], "peepholes or a projection"),
        (["rnn/lstm_cell/kernel"], "its weights do not fit together: 'bias'"),
        (["fw/cell_1/lstm_cell/kernel", "bw/cell_1/lstm_cell/kernel"], "each direction is a stack of its own"),
        (["rnn/gru_cell/gates/kernel", "rnn/lstm_cell/kernel"], "it takes one kind of cell"),
    ],
)
def test_a_tensorflow_1_file_that_fits_nothing_is_refused(names: list[str], reason: str, tmp_path: Path) -> None:
    """The sentence names the file and what is wrong with it."""
    np.savez(tmp_path / "n.npz", **{name: LSTM_3_4[name.endswith("bias")] for name in names}, allow_pickle=False)
    with pytest.raises(NotRepresentable, match=rf"n\.npz cannot be exported: .*{reason}"):
        read_tensorflow1(tmp_path / "n.npz")


def test_what_is_not_an_npz_file_of_cells_is_refused(tmp_path: Path) -> None:
    """A pickle is not read, a pooling with weights has none here, and a missing table is named."""
    path = tmp_path / "n.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(NotRepresentable, match="it is not an NPZ file of numbers"):
        read_tensorflow1(path)
    np.savez(path, **{"rnn/lstm_cell/kernel": LSTM_3_4[0], "rnn/lstm_cell/bias": LSTM_3_4[1]}, allow_pickle=False)
    with pytest.raises(NotRepresentable, match="attention pooling has weights"):
        read_tensorflow1(path, "attention")
    with pytest.raises(NotRepresentable, match="there is no table ids for token ids"):
        read_tensorflow1(path, embedding="ids")
