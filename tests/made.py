"""Exports encoders with random weights: with tokens, texts, steps and states, as a test needs them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from export.artifact import Origin, export_encoder, make_samples
from export.graph import GraphOptions
from model.encoder import EncoderConfig, SequenceEncoder
from tests.test_outputs import add_tokenizer

PLAIN = GraphOptions()


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
