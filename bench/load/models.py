"""`python -m bench models FOLDER`: the models every server is measured with, random weights and all.

A program of its own, the only one here that imports torch, so that what measures stays small. Of our own code it takes
`model` and `export`, which nothing else in `bench/` does.
"""

import argparse
from pathlib import Path

import torch

from bench.load.workloads import MANY, MODELS, SLOW, TRAININGS, Size
from export.artifact import Origin, export_encoder, make_samples
from export.graph import build_graph
from model.encoder import EncoderConfig, SequenceEncoder


def main() -> None:
    """Write them into the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench models", description=__doc__)
    parser.add_argument("folder", type=Path, help="is made if it is not there")
    write_models(parser.parse_args().folder)


def write_models(folder: Path) -> None:
    """Write `NAME.onnx` for each model, and `slow.onnx`: one bidirectional LSTM layer, weights from a fixed seed.

    `trained/0.onnx` and on are `small` as if trained again and again, proof and all; `many/` has ten of other sizes.
    """
    for inside in (folder / "trained", folder / "many"):
        inside.mkdir(parents=True, exist_ok=True)
    for name, size in {**MODELS, "slow": SLOW}.items():
        (folder / f"{name}.onnx").write_bytes(build_graph(_make(size)).SerializeToString())
    small = MODELS["small"]
    for seed in range(TRAININGS):
        encoder, config = _make(small, seed), EncoderConfig(features=small.features, hidden=small.hidden)
        samples = make_samples(config, 9, 9)
        export_encoder(encoder, samples, Origin(name="trained"), folder / "trained" / f"{seed}.onnx")
    for number, hidden in enumerate(MANY):
        content = build_graph(_make(Size(SLOW.features, hidden))).SerializeToString()
        (folder / "many" / f"m{number}.onnx").write_bytes(content)


def _make(size: Size, seed: int = 0) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(EncoderConfig(features=size.features, hidden=size.hidden)).eval()
