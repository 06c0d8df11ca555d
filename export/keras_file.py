"""Reads the recurrent stack of a `.keras` file, without TensorFlow or Keras.

The file is a zip of `config.json`, the layers as they were made, and `model.weights.h5`, their arrays.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from export.foreign import CellWeights, Floats, ForeignEncoder, NotRepresentable, assemble
from export.gates import KERAS_TO_TORCH, reorder_gates
from model.encoder.config import EncoderConfig

CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "rnn"}
POOLINGS = {"GlobalAveragePooling1D": "mean", "GlobalMaxPooling1D": "max"}
MASK_OPERATORS = {"NotEqual", "Any"}
WITHOUT_EFFECT = {"InputLayer", "Dropout", "SpatialDropout1D", "Masking"}

MASKING = (
    "The Masking layer is read as a mark of padding: send lengths instead. A step between others that equals its mask "
    "value is read here, and skipped by Keras."
)


class _Reader:
    """One file, while it is read."""

    def __init__(self, path: Path) -> None:
        self._file = str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                self._config = json.loads(archive.read("config.json"))
                self._weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise self.refuse(f"it is not a .keras file: {error}") from error

    def refuse(self, reason: str) -> NotRepresentable:
        return NotRepresentable(self._file, reason)

    def layers(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield class, config and the group of arrays of each layer; they must be one chain."""
        kind = self._config.get("class_name")
        if kind not in ("Sequential", "Functional"):
            raise self.refuse(f"it is a {kind}; a Sequential or a Functional model of one chain can be read")
        seen: Counter[str] = Counter()
        before: str | None = None
        for layer in self._config["config"]["layers"]:
            name, config = layer["class_name"], layer["config"]
            if name in MASK_OPERATORS:  # they feed masks; if one feeds a layer, that layer's source is not the chain
                continue
            inputs = [_read_inputs(node) for node in layer.get("inbound_nodes", [])]
            sources = re.findall(r"'keras_history': \['([^']*)'", str(inputs))
            if kind == "Functional" and sources != ([] if before is None else [before]):
                raise self.refuse(f"its layer {config['name']} is not fed by the one before it alone")
            before = config["name"]
            group = re.sub(r"(?<=[a-z0-9])([A-Z])|(?<=[A-Z])([A-Z])(?=[a-z])", r"_\1\2", name).lower()
            yield name, config, f"layers/{group}_{seen[name]}" if seen[name] else f"layers/{group}"
            seen[name] += 1
        if re.search(r", [1-9]\d*\]", str(self._config["config"].get("output_layers", ""))):
            raise self.refuse(f"it gives the state of its layer {before}, and not its output")

    def arrays(self, group: str) -> list[Floats]:
        """Return the arrays of a group, in order."""
        if f"{group}/vars" not in self._weights:
            raise self.refuse(f"it holds no weights for {group}")
        stored = self._weights[f"{group}/vars"]
        return [np.asarray(stored[str(place)], dtype=np.float32) for place in range(len(stored))]


def _read_inputs(node: dict[str, Any]) -> list[Any]:
    """Return all that a layer is called with but its mask: its input, and an initial state if it is given one."""
    return [node["args"], {name: value for name, value in node["kwargs"].items() if name != "mask"}]


def read_keras(path: Path, *, normalize: bool = False) -> ForeignEncoder:
    """Build an encoder from a Keras model: `Embedding`, then `LSTM`, `GRU`, `SimpleRNN` or `Bidirectional` layers.

    A last layer with `return_sequences=False` is `last` pooling; `GlobalAveragePooling1D` is `mean` and
    `GlobalMaxPooling1D` is `max`. Dropout layers have no effect.

    Args:
        path: the `.keras` file.
        normalize: scale embeddings to L2 norm 1.

    Raises:
        NotRepresentable: the model has a part with no exact counterpart here; the reason names the layer.
    """
    reader = _Reader(path)
    table: Floats | None = None
    stack: list[tuple[dict[str, Any], list[CellWeights]]] = []
    pooling, notes = "", []
    for name, config, group in reader.layers():
        if pooling and name not in WITHOUT_EFFECT:
            raise reader.refuse(
                f"its layer {config['name']} ({name}) follows the pooling: save the model without its head"
            )
        if name in WITHOUT_EFFECT:
            notes += [MASKING] if name == "Masking" else []
        elif name == "Embedding" and not stack:
            table = _read_embedding(reader, config, group)
        elif name in POOLINGS and stack:
            pooling = POOLINGS[name]
        elif name in (*CELLS, "Bidirectional"):
            cell, weights = _read_layer(reader, name, config, group)
            stack.append((cell, weights))
            pooling = "" if cell["return_sequences"] else "last"
        else:
            raise reader.refuse(f"its layer {config['name']} is a {name}, which has no counterpart here")
    if not stack:
        raise reader.refuse("it has no recurrent layer")
    if not pooling:
        raise reader.refuse("it ends in one output a step: add GlobalAveragePooling1D, or set return_sequences=False")
    kinds = {(cell["kind"], cell["units"], len(weights), cell.get("reset_after", True)) for cell, weights in stack}
    if len(kinds) > 1:
        raise reader.refuse("its recurrent layers differ in cell, units or direction; all must be alike")
    ((kind, units, directions, reset_after),) = kinds
    encoder_config = EncoderConfig(
        features=stack[0][1][0].w.shape[1] if table is None else None,
        vocabulary=None if table is None else table.shape[0],
        embedding=None if table is None else table.shape[1],
        cell=CELLS[kind],  # type: ignore[arg-type]  # its values are cells
        reset_after=reset_after,
        bidirectional=directions == 2,
        hidden=units,
        layers=len(stack),
        standardize=False,
        pooling=pooling,  # type: ignore[arg-type]  # set from poolings above
        normalize=normalize,
    )
    return ForeignEncoder(assemble(encoder_config, [weights for _, weights in stack], table), notes)


def _read_embedding(reader: _Reader, config: dict[str, Any], group: str) -> Floats:
    if not config.get("mask_zero"):
        reason = "does not mask zero: there id 0 is a token, and here it is padding"
        raise reader.refuse(f"its layer {config['name']} {reason}")
    (table,) = reader.arrays(group)
    return table


def _read_layer(
    reader: _Reader, name: str, config: dict[str, Any], group: str
) -> tuple[dict[str, Any], list[CellWeights]]:
    """Return a recurrent layer's config, with its class as `kind`, and the weights of its directions."""
    if name != "Bidirectional":
        if config.get("go_backwards"):
            raise reader.refuse(f"its layer {config['name']} reads backwards only")
        return {**config, "kind": name}, [_read_cell(reader, name, config, f"{group}/cell")]
    if config.get("merge_mode") != "concat":
        raise reader.refuse(
            f"its layer {config['name']} merges by {config.get('merge_mode')}, and only concat is known"
        )
    kind, ahead = config["layer"]["class_name"], config["layer"]["config"]
    behind = (config.get("backward_layer") or config["layer"])["config"]
    said = ("units", "activation", "recurrent_activation", "use_bias", "reset_after")
    if kind not in CELLS or any(ahead.get(key) != behind.get(key) for key in said):
        raise reader.refuse(f"its layer {config['name']} wraps a {kind}, or two layers that differ")
    places = ("forward_layer", "backward_layer")
    weights = [_read_cell(reader, kind, ahead, f"{group}/{place}/cell") for place in places]
    return {**ahead, "kind": kind}, weights


def _read_cell(reader: _Reader, kind: str, config: dict[str, Any], group: str) -> CellWeights:
    """Read one direction; refuse activations other than the ones that LSTM, GRU and RNN have here."""
    expected = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise reader.refuse(f"its layer {config['name']} has the {key} {config[key]}: only {value} is known")
    kernel, recurrent, *biases = reader.arrays(group)
    order = KERAS_TO_TORCH[kind]
    rows = np.zeros((2, kernel.shape[1]), dtype=np.float32)
    if biases:  # one row, or two if a GRU's reset gate acts after the recurrent product
        rows[: biases[0].ndim] = biases[0]
    return CellWeights(*(reorder_gates(part, order) for part in (kernel.T, recurrent.T, rows[0], rows[1])))
