"""`python -m bench.models FOLDER`: the models every server is measured with, random weights and all.

A program of its own, the only one here that imports torch, so that what measures stays small. Of our own code it takes
`model` and `export`, which nothing else in `bench/` does.
"""

import sys
from pathlib import Path

import torch

from bench.workloads import MODELS, SLOW
from export.graph import build_graph
from model.encoder import EncoderConfig, SequenceEncoder


def write_models(folder: Path) -> None:
    """Write `NAME.onnx` for each model, and `slow.onnx`: one bidirectional LSTM layer, weights from a fixed seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in {**MODELS, "slow": SLOW}.items():
        torch.manual_seed(0)
        encoder = SequenceEncoder(EncoderConfig(features=size.features, hidden=size.hidden)).eval()
        (folder / f"{name}.onnx").write_bytes(build_graph(encoder).SerializeToString())


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
