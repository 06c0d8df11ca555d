"""Reads the state dict of an `nn.LSTM`, `nn.GRU` or `nn.RNN` from a safetensors file."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from export.foreign import GATES, CellWeights, Floats, ForeignEncoder, NotRepresentable, assemble
from model.encoder.config import EncoderConfig
from model.encoder.pooling import Pooling

Array = npt.NDArray[np.generic]

KEY = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d+)(_reverse)?")


def read_torch_state(
    path: Path, pooling: Pooling = "mean", prefix: str = "", embedding: str | None = None, *, normalize: bool = False
) -> ForeignEncoder:
    """Build an encoder from a state dict; cell, sizes, layers and directions follow from the shapes.

    A state dict does not say whether an `nn.RNN` was tanh or relu: it is read as tanh, torch's default.

    Args:
        path: a safetensors file.
        pooling: how steps become one vector; `attention` would need weights of its own.
        prefix: of the recurrent module's names, such as `encoder.lstm.`.
        embedding: name of an `nn.Embedding`'s weight `(V, E)`, if the model reads token ids; row 0 is padding.
        normalize: scale embeddings to L2 norm 1.

    Raises:
        NotRepresentable: the file holds something else, or something that has no exact counterpart here.
    """
    try:
        state = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise NotRepresentable(str(path), f"it is not a safetensors file: {error}") from error
    if pooling == "attention":
        raise NotRepresentable(
            str(path), "attention pooling has weights, and a state dict of a recurrent layer has none"
        )
    parts = _choose_parts(path, state, prefix)
    hidden = parts["weight_hh_l0"].shape[1]
    gates = parts["weight_hh_l0"].shape[0] / hidden
    cells = [cell for cell, count in GATES.items() if count == gates]
    if not cells:
        raise NotRepresentable(str(path), f"weight_hh_l0 of {list(parts['weight_hh_l0'].shape)} is of no known cell")
    table = None if embedding is None else state.get(embedding)
    if embedding is not None and table is None:
        raise NotRepresentable(str(path), f"there is no {embedding} for token ids")
    if table is not None and table.ndim != 2:
        raise NotRepresentable(str(path), f"{embedding} of {list(table.shape)} is not a table (V, E) for token ids")
    bidirectional = "weight_ih_l0_reverse" in parts
    layers = 1 + max(int(KEY.fullmatch(name)[2]) for name in parts)  # type: ignore[index]  # each name matched above
    config = EncoderConfig(
        features=parts["weight_ih_l0"].shape[1] if table is None else None,
        vocabulary=None if table is None else table.shape[0],
        embedding=None if table is None else table.shape[1],
        cell=cells[0],  # type: ignore[arg-type]  # a key of GATES
        bidirectional=bidirectional,
        hidden=hidden,
        layers=layers,
        standardize=False,
        pooling=pooling,
        normalize=normalize,
    )
    suffixes = ["", "_reverse"] if bidirectional else [""]
    try:
        weights = [[_read_cell(parts, f"_l{index}{suffix}") for suffix in suffixes] for index in range(layers)]
        encoder = assemble(config, weights, None if table is None else _to_float32(table))
    except (KeyError, ValueError) as error:
        raise NotRepresentable(str(path), f"its weights do not fit together: {error}") from error
    notes = ["An nn.RNN is read as tanh: a state dict does not tell."] if cells == ["rnn"] else []
    return ForeignEncoder(encoder, notes)


def _choose_parts(path: Path, state: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return what belongs to the recurrent module, by the names that torch gives it there."""
    found = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
    parts = {name: array for name, array in found.items() if KEY.fullmatch(name)}
    if "weight_ih_l0" not in parts or "weight_hh_l0" not in parts:
        known = ", ".join(sorted(state)[:8])
        raise NotRepresentable(str(path), f"there is no {prefix}weight_ih_l0 and weight_hh_l0; it holds {known}")
    if any("weight_hr" in name for name in parts):
        raise NotRepresentable(str(path), "its LSTM projects its state (proj_size), which ONNX's LSTM does not")
    return parts


def _read_cell(parts: Mapping[str, Array], suffix: str) -> CellWeights:
    w = _to_float32(parts[f"weight_ih{suffix}"])
    none = np.zeros(len(w), dtype=np.float32)  # of a module without bias
    return CellWeights(
        w,
        _to_float32(parts[f"weight_hh{suffix}"]),
        _to_float32(parts.get(f"bias_ih{suffix}", none)),
        _to_float32(parts.get(f"bias_hh{suffix}", none)),
    )


def _to_float32(array: Array) -> Floats:
    return array.astype(np.float32)
