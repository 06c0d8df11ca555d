"""Reads the recurrent cells of a TensorFlow 1 checkpoint from an NPZ file of its variables, without TensorFlow.

Kernels of TensorFlow 1 stack input and hidden state along the first axis. The `convert` functions take the arrays of
one direction of one layer, and return them in PyTorch's layout and gate order.
"""

import re
import zipfile
from pathlib import Path

import numpy as np

from export.foreign import CellWeights, Floats, ForeignEncoder, NotRepresentable, assemble
from export.gates import TF1_LSTM_TO_TORCH, reorder_gates
from model.encoder.config import EncoderConfig
from model.encoder.pooling import Pooling

CELLS = {"lstm_cell": "lstm", "basic_lstm_cell": "lstm", "gru_cell": "gru", "basic_rnn_cell": "rnn"}
VARIABLE = re.compile(rf"(?:(.*)/)?({'|'.join(CELLS)})/((?:gates/|candidate/)?(?:kernel|bias))")
UNKNOWN = re.compile(r"w_[fio]_diag|projection/(?:kernel|bias)")

Places = dict[tuple[int, str], dict[str, Floats]]  # by layer and direction, `fw` or `bw`: the arrays of a cell


def read_tensorflow1(
    path: Path,
    pooling: Pooling = "mean",
    prefix: str = "",
    embedding: str | None = None,
    *,
    forget_bias: float = 1.0,
    normalize: bool = False,
) -> ForeignEncoder:
    """Build an encoder from the variables of `dynamic_rnn` or `bidirectional_dynamic_rnn`, under their own names.

    Args:
        path: an NPZ file that maps names of variables to arrays.
        pooling: how steps become one vector; `attention` would need weights of its own.
        prefix: what the names of the encoder's variables begin with, such as `encoder/`.
        embedding: the name of the table `(V, E)`, if the model reads token ids; row 0 is padding.
        forget_bias: what an LSTM adds to its forget gate when it runs; a checkpoint does not tell.
        normalize: scale embeddings to L2 norm 1.

    Raises:
        NotRepresentable: the file holds something else, or something that has no exact counterpart here.
    """
    arrays = _load(path)
    if pooling == "attention":
        raise NotRepresentable(str(path), "attention pooling has weights, and a checkpoint of cells has none")
    table = None if embedding is None else arrays.get(embedding)
    if embedding is not None and (table is None or table.ndim != 2):
        raise NotRepresentable(str(path), f"there is no table {embedding} for token ids")
    cell, places = _sort(path, {name: array for name, array in arrays.items() if name.startswith(prefix)})
    directions = ["fw", "bw"] if any(direction == "bw" for _, direction in places) else ["fw"]
    count = 1 + max(layer for layer, _ in places)
    try:
        layers = [
            [_convert(cell, places[layer, direction], forget_bias) for direction in directions]
            for layer in range(count)
        ]
        config = EncoderConfig(
            features=layers[0][0].w.shape[1] if table is None else None,
            vocabulary=None if table is None else table.shape[0],
            embedding=None if table is None else table.shape[1],
            cell=cell,  # type: ignore[arg-type]  # a value of CELLS
            reset_after=cell != "gru",
            bidirectional=len(directions) == 2,
            hidden=layers[0][0].r.shape[1],
            layers=count,
            standardize=False,
            pooling=pooling,
            normalize=normalize,
        )
        encoder = assemble(config, layers, table)
    except (KeyError, ValueError, IndexError) as error:
        raise NotRepresentable(str(path), f"its weights do not fit together: {error}") from error
    note = f"A forget bias of {forget_bias:g} is added to the LSTM: a checkpoint does not tell; see --forget-bias."
    return ForeignEncoder(encoder, [note] if cell == "lstm" else [])


def _load(path: Path) -> dict[str, Floats]:
    """Return the arrays by the names of their variables, without the `:0` of a tensor's name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name.removesuffix(":0"): file[name].astype(np.float32) for name in file}
    except (OSError, TypeError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise NotRepresentable(str(path), f"it is not an NPZ file of numbers: {error}") from error


def _sort(path: Path, arrays: dict[str, Floats]) -> tuple[str, Places]:
    """Sort the variables of recurrent cells, all of one kind, by layer and direction."""
    places: Places = {}
    kinds, stacked = set(), False
    for name, array in arrays.items():
        if UNKNOWN.fullmatch(name.rpartition("_cell/")[2]):
            raise NotRepresentable(str(path), f"{name} is of an LSTM with peepholes or a projection, unknown here")
        if not (found := VARIABLE.fullmatch(name)):
            continue
        scope = found[1] or ""
        layer = re.search(r"(?:^|/)cell_(\d+)(?:/|$)", scope)
        direction = re.search(r"(?:^|/)(fw|bw)(?:/|$)", scope)
        stacked |= bool(layer and direction and direction.start() < layer.start() and int(layer[1]))
        parts = places.setdefault((int(layer[1]) if layer else 0, direction[1] if direction else "fw"), {})
        if found[3] in parts:
            raise NotRepresentable(str(path), f"{name} and another belong to the same layer: choose one with --prefix")
        parts[found[3]] = array
        kinds.add(CELLS[found[2]])
    if len(kinds) != 1:
        known = ", ".join(sorted(arrays)[:8]) or "nothing"
        raise NotRepresentable(str(path), f"it takes one kind of cell, of {', '.join(CELLS)}; it holds {known}")
    if stacked:
        raise NotRepresentable(str(path), "each direction is a stack of its own; a layer here reads both below it")
    return kinds.pop(), places


def _convert(cell: str, parts: dict[str, Floats], forget_bias: float) -> CellWeights:
    if cell == "gru":
        return convert_gru_cell(
            parts["gates/kernel"], parts["gates/bias"], parts["candidate/kernel"], parts["candidate/bias"]
        )
    if cell == "lstm":
        return convert_lstm_cell(parts["kernel"], parts["bias"], forget_bias)
    return convert_rnn_cell(parts["kernel"], parts["bias"])


def convert_lstm_cell(kernel: Floats, bias: Floats, forget_bias: float = 1.0) -> CellWeights:
    """Convert `LSTMCell` or `BasicLSTMCell`, without peepholes or projection.

    Args:
        kernel: `(I + H, 4H)`, gates input, candidate, forget, output.
        bias: `(4H,)`.
        forget_bias: what the cell adds to the forget gate when it runs; 1.0 is the cell's default.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    w, r = _split_kernel(kernel, 4)
    shifted = bias.copy()
    shifted.reshape(4, -1)[2] += forget_bias
    w, r, shifted = (reorder_gates(part, TF1_LSTM_TO_TORCH) for part in (w.T, r.T, shifted))
    return CellWeights(w, r, shifted, np.zeros_like(shifted))


def convert_gru_cell(gate_kernel: Floats, gate_bias: Floats, kernel: Floats, bias: Floats) -> CellWeights:
    """Convert `GRUCell`, whose reset gate acts before the recurrent product: `EncoderConfig(reset_after=False)`.

    Args:
        gate_kernel: `(I + H, 2H)`, gates reset, update.
        gate_bias: `(2H,)`.
        kernel: `(I + H, H)`, of the candidate.
        bias: `(H,)`.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    (gate_w, gate_r), (w, r) = _split_kernel(gate_kernel, 2), _split_kernel(kernel, 1)
    biases = np.concatenate([gate_bias, bias])
    return CellWeights(np.concatenate([gate_w.T, w.T]), np.concatenate([gate_r.T, r.T]), biases, np.zeros_like(biases))


def convert_rnn_cell(kernel: Floats, bias: Floats) -> CellWeights:
    """Convert `BasicRNNCell` with its default activation, tanh: kernel `(I + H, H)`, bias `(H,)`.

    Raises:
        ValueError: the shapes are not those of such a cell.
    """
    w, r = _split_kernel(kernel, 1)
    return CellWeights(w.T, r.T, bias, np.zeros_like(bias))


def _split_kernel(kernel: Floats, gates: int) -> tuple[Floats, Floats]:
    """Split a stacked kernel into the part for the input and the part for the hidden state."""
    hidden, rest = divmod(kernel.shape[1], gates)
    if rest or kernel.shape[0] <= hidden:
        raise ValueError(f"a kernel of {list(kernel.shape)} is not (inputs + hidden, {gates} * hidden)")
    return kernel[:-hidden], kernel[-hidden:]
