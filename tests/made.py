"""Trains nothing and exports encoders with random weights, as tests need them.

`python -m tests.made` writes the one anew that is checked in for the tests that run without torch.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from export.artifact import Origin, export_encoder, export_run, make_samples
from export.graph import GraphOptions
from model.checkpoint import RunConfig, start_run, write_result
from model.config import DataConfig, TrainConfig
from model.datasets import LabelledSequences
from model.encoder import EncoderConfig, SequenceEncoder
from model.tasks import Task
from tests.api.test_outputs import add_tokenizer
from tests.conftest import FEATURES, MADE, draw_sequences

PLAIN = GraphOptions()


def make_run(run: Path, encoder: EncoderConfig) -> Task:
    """Write a run directory as a training would leave it, with random weights."""
    torch.manual_seed(0)
    data = DataConfig(name="made", classes=["a", "b"], source="made", licence="Apache-2.0", longest_training_sequence=9)
    config = RunConfig(encoder=encoder, training=TrainConfig(), data=data)
    start_run(run, config)
    model = config.build().eval()
    samples = draw_sequences([1, 2, 5, 9, 9, 4], encoder.features or 0)
    if model.encoder.standardization is not None:
        model.encoder.standardization.fit([torch.from_numpy(2 * steps + 1) for steps in samples])
    write_result(run, model, LabelledSequences(samples, np.zeros(len(samples), dtype=np.int64)), {"accuracy": 0.5})
    return model


def make_run_of_two_layers(run: Path) -> Path:
    """Write the run directory that the checked-in artifact was exported from, and return its path."""
    make_run(run, EncoderConfig(features=FEATURES, hidden=8, layers=2))
    return run


def export_made(
    path: Path,
    config: EncoderConfig,
    options: GraphOptions = PLAIN,
    *,
    seed: int = 0,
    name: str = "made",
    version: str = "1",
) -> Path:
    """Export an encoder with the weights of a seed, and return its path."""
    torch.manual_seed(seed)
    encoder = SequenceEncoder(config).eval()
    export_encoder(encoder, make_samples(config, 9, 9), Origin(name=name, version=version), path, options)
    return path


def export_texts(path: Path, options: GraphOptions = PLAIN) -> Path:
    """Export an encoder of texts, where `so` is the id 2, `it` 3, and any other word 1."""
    export_made(path, EncoderConfig(vocabulary=4, hidden=4), options)
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "so": 2, "it": 3}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    path.write_bytes(add_tokenizer(path, tokenizer.to_str()))
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        export_run(make_run_of_two_layers(Path(folder)), MADE)
