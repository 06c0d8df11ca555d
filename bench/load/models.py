"""`python -m bench models FOLDER`: the models every server is measured with, random weights and all.

A program of its own, the only one here that imports torch, so that what measures stays small. Of our own code it takes
`model` and `export`, which nothing else in `bench/` does.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bench.load.workloads import LARGE, MANY, MODELS, SLOW, TRAININGS, Size
from export.artifact import Origin, export_encoder, make_samples
from export.graph import GraphOptions, build_graph
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.encoder.pooling import Pooling
from model.encoder.recurrent import Cell

FEATURES, HIDDEN, VOCABULARY = 12, 48, 40  # of the kinds
CELLS: dict[str, tuple[Cell, bool]] = {
    "lstm": ("lstm", True),
    "gru-after": ("gru", True),
    "gru-before": ("gru", False),
    "rnn": ("rnn", True),
}
POOLINGS: tuple[Pooling, ...] = ("max", "last", "attention")


def main() -> None:
    """Write them into the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench models", description=__doc__)
    parser.add_argument("folder", type=Path, help="is made if it is not there")
    parser.add_argument("--gpu", action="store_true", help="also those of `bench gpu`: large.onnx, and kinds/")
    options = parser.parse_args()
    write_models(options.folder)
    if options.gpu:
        write_gpu_models(options.folder)


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


def list_kinds() -> Iterator[tuple[str, EncoderConfig, GraphOptions]]:
    """List every kind of encoder that has kernels or nodes of its own, with a name."""
    plain = GraphOptions()
    for name, (cell, reset_after) in CELLS.items():
        one = EncoderConfig(features=FEATURES, hidden=HIDDEN, cell=cell, reset_after=reset_after, bidirectional=False)
        both = replace(one, bidirectional=True)
        yield f"{name}-forward", one, plain
        yield f"{name}-both", both, plain
        yield f"{name}-two-layers", replace(both, layers=2), plain
        yield f"{name}-everything-out", both, GraphOptions(steps=True, state=True)
        yield f"{name}-carried-on", one, GraphOptions(state=True, initial_state=True)
    for pooling in POOLINGS:
        yield f"lstm-{pooling}", EncoderConfig(features=FEATURES, hidden=HIDDEN, pooling=pooling), plain
    yield "tokens", EncoderConfig(vocabulary=VOCABULARY, hidden=HIDDEN), plain


def write_gpu_models(folder: Path) -> None:
    """Write `large.onnx`, and in `kinds/` a proven encoder of every kind."""
    (folder / "large.onnx").write_bytes(build_graph(_make(LARGE)).SerializeToString())
    (folder / "kinds").mkdir(parents=True, exist_ok=True)
    for name, config, options in list_kinds():
        torch.manual_seed(0)
        encoder = SequenceEncoder(config).eval()
        file = folder / "kinds" / f"{name}.onnx"
        export_encoder(encoder, make_samples(config, 9, 9), Origin(name=name), file, options)


def _make(size: Size, seed: int = 0) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(EncoderConfig(features=size.features, hidden=size.hidden)).eval()
