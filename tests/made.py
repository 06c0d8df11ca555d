"""Artifacts with random weights, checked in and small, one of each kind that tests serve, so that tests need no torch.

`python -m tests.made` writes them anew, which needs torch; `tests/export/test_made.py` holds that they are what an
export writes today.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from service.encoder.manifest import METADATA_KEY, Manifest
from tests.conftest import ARTIFACTS


def take(kind: str, path: Path, *, name: str = "made", version: str = "1", columns: Sequence[str] = ()) -> Path:
    """Copy the artifact of a kind, with its own name, version and columns in its manifest; return the copy's path."""
    model = onnx.load(ARTIFACTS / f"{kind}.onnx")
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            manifest = Manifest.model_validate_json(entry.value)
            own: dict[str, Any] = {"name": name, "version": version}
            own["input"] = manifest.input.model_copy(update={"columns": [*columns]})
            entry.value = manifest.model_copy(update=own).model_dump_json()
    path.write_bytes(model.SerializeToString())
    return path


def make_wide(path: Path, features: int, hidden: int) -> Path:
    """Write an encoder of one bidirectional LSTM, too large to be checked in, and return its path.

    It has the graph of the kind `triples`, other sizes, random weights, and no manifest.
    """
    model = onnx.load(ARTIFACTS / "triples.onnx")
    old_features, old_hidden = 3, 4
    draw = np.random.default_rng(0)
    sizes = {old_features: features, old_hidden: hidden}
    sizes |= {times * old_hidden: times * hidden for times in (2, 4, 8)}  # both directions; four gates; both biases
    for tensor in model.graph.initializer:
        found = numpy_helper.to_array(tensor)
        if tensor.name.startswith("layer0."):
            shape = (2, *(sizes[size] for size in found.shape[1:]))
            changed = draw.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(hidden))
        elif tensor.name.startswith("standardization."):
            changed = np.full(features, tensor.name.endswith("std"), np.float32)
        else:
            changed = np.where(found == 2 * old_hidden, 2 * hidden, found)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "hidden_size":
                attribute.i = hidden
    for value, size in ((model.graph.input[0], features), (model.graph.output[0], 2 * hidden)):
        value.type.tensor_type.shape.dim[-1].dim_value = size
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    return path


if __name__ == "__main__":
    from tests.export.making import write_all

    write_all(ARTIFACTS)
