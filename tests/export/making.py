"""Encoders with random weights, as tests need them: run directories, and the artifacts that are checked in."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from export.artifact import Origin, Trained, export_encoder, export_run, make_samples
from export.graph import GraphOptions
from model.data.datasets import LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder
from model.tasks.catalogue import TASKS
from model.tasks.config import TrainConfig
from model.tasks.supervised import SequenceRegressor
from model.tasks.task import Task
from model.training.recipe import DataConfig
from model.training.run_directory import RunConfig, start_run, write_result
from service.encoder.manifest import TaskRecord
from tests.conftest import FEATURES, draw_sequences

PLAIN = GraphOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What an artifact that is checked in was exported from.

    Attributes:
        config: the encoder's configuration.
        options: what its graph offers besides embeddings.
        seed: the seed of its weights.
        reads_texts: whether it carries a tokenizer.
        task: the task whose head it carries, with random weights; none if it is empty.
        classes: the labels of that task.
    """

    config: EncoderConfig
    options: GraphOptions = PLAIN
    seed: int = 0
    reads_texts: bool = False
    task: str = ""
    classes: tuple[str, ...] = ()


TRIPLES = EncoderConfig(features=3, hidden=4)
TEXTS = EncoderConfig(vocabulary=4, hidden=4)
TEXTS_AHEAD = EncoderConfig(vocabulary=4, embedding=3, hidden=4, bidirectional=False)
STEPS = GraphOptions(steps=True)
STATES = GraphOptions(steps=True, state=True)
PREDICTION = GraphOptions(prediction=True)
IN_PARTS = GraphOptions(steps=True, state=True, initial_state=True)


def one_way(cell: str) -> EncoderConfig:
    """Return the configuration of an encoder that may start from a state."""
    return EncoderConfig(features=3, hidden=5, layers=2, bidirectional=False, cell=cell, standardize=False)  # type: ignore[arg-type]


# By the name of the file that tests.made takes.
KINDS = {
    "triples": Kind(config=TRIPLES),
    "triples-anew": Kind(config=TRIPLES, seed=1),
    "triples-third": Kind(config=TRIPLES, seed=2),
    "triples-steps": Kind(config=TRIPLES, options=STATES),
    "triples-wide": Kind(config=EncoderConfig(features=3, hidden=20), options=STATES),
    "triples-gru": Kind(config=EncoderConfig(features=3, hidden=4, cell="gru"), options=STATES),
    "singles": Kind(config=EncoderConfig(features=1, hidden=2)),
    "pairs": Kind(config=EncoderConfig(features=2, hidden=2)),
    "quintuples": Kind(config=EncoderConfig(features=5, hidden=5)),
    "parts-lstm": Kind(config=one_way("lstm"), options=IN_PARTS),
    "parts-gru": Kind(config=one_way("gru"), options=IN_PARTS),
    "parts-both": Kind(config=TRIPLES, options=IN_PARTS),
    "tokens": Kind(config=EncoderConfig(vocabulary=9, embedding=3, hidden=4, pooling="max")),
    "texts": Kind(config=TEXTS, reads_texts=True),
    "texts-steps": Kind(config=TEXTS, options=STEPS, reads_texts=True),
    "texts-states": Kind(config=EncoderConfig(vocabulary=4, hidden=4, layers=2), options=STATES, reads_texts=True),
    "classes": Kind(config=TRIPLES, options=PREDICTION, task="classification", classes=("no", "yes", "perhaps")),
    "numbers": Kind(config=TRIPLES, options=PREDICTION, task="regression"),
    "next-tokens": Kind(config=TEXTS_AHEAD, options=PREDICTION, reads_texts=True, task="language-model"),
    "int8": Kind(config=EncoderConfig(features=3, hidden=16), options=GraphOptions(quantize=True)),
}


def make_run(
    run: Path,
    encoder: EncoderConfig,
    task: str = "classification",
    classes: tuple[str, ...] = ("a", "b"),
    training: TrainConfig | None = None,
) -> Task:
    """Write a run directory as a training would leave it, with random weights."""
    torch.manual_seed(0)
    data = DataConfig(
        name="made", classes=list(classes), source="made", licence="Apache-2.0", longest_training_sequence=9
    )
    config = RunConfig(task=task, encoder=encoder, training=training or TrainConfig(), data=data)
    start_run(run, config, make_tokenizer() if encoder == TEXTS_AHEAD else None)
    model = config.build().eval()
    lengths = [1, 2, 5, 9, 9, 4]
    samples = draw_sequences(lengths, encoder.features or 0)
    if encoder.vocabulary is not None:
        draw = np.random.default_rng(0)
        samples = [draw.integers(1, encoder.vocabulary, length) for length in lengths]  # type: ignore[misc]
    draw_head(model)
    if model.encoder.standardization is not None:
        model.encoder.fit_statistics([torch.from_numpy(2 * steps + 1) for steps in samples])
    write_result(run, model, LabelledSequences(samples, np.zeros(len(samples), dtype=np.int64)), {"accuracy": 0.5})
    return model


def draw_head(model: Task) -> None:
    """Give what a head learns values that show: statistics of a norm, the scaling of targets, a bias."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, part in model.state_dict().items():
            if ".norm." in name and part.is_floating_point():
                part.copy_(torch.rand(part.shape, generator=generator) + 0.5)
        if isinstance(model, SequenceRegressor):
            model.target_mean.fill_(14.0)
            model.target_std.fill_(3.0)


def make_run_of_two_layers(run: Path) -> Path:
    """Write the run directory that `made.onnx` was exported from, and return its path."""
    make_run(run, EncoderConfig(features=FEATURES, hidden=8, layers=2))
    return run


def make_tokenizer() -> str:
    """Return the tokenizer of the encoders of texts: `so` is the id 2, `it` 3, and any other word 1."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "so": 2, "it": 3}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    definition: str = tokenizer.to_str()
    return definition


def export_kind(kind: Kind, path: Path) -> Path:
    """Export an encoder of a kind, proof and all, and return its path."""
    torch.manual_seed(kind.seed)
    encoder, samples = SequenceEncoder(kind.config).eval(), make_samples(kind.config, 9, 9)
    trained = record = None
    if kind.task:
        task = TASKS[kind.task](encoder, TrainConfig(), len(kind.classes)).eval()
        draw_head(task)
        trained = Trained(task, LabelledSequences(samples, None))
        record = TaskRecord(name=kind.task, dataset="made", classes=list(kind.classes), metrics={})
    origin = Origin(name="made", tokenizer=make_tokenizer() if kind.reads_texts else None, task=record)
    export_encoder(encoder, samples, origin, path, kind.options, trained)
    return path


class Pooled(torch.nn.Module):
    """As others write encoders: a mask of a range, Where, a sort, a gather."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return `(B, 8)`."""
        mask = torch.arange(sequences.shape[1])[None, :] < lengths[:, None]
        steps = torch.where(mask[..., None], torch.relu(self.linear(sequences)), 0.0)
        return torch.cat([steps.sum(1) / lengths.clamp(min=1)[:, None], steps.sort(1).values[:, -1]], 1)


def export_by_torch(path: Path) -> Path:
    """Export an encoder by torch's own exporter, without a manifest, and return its path."""
    torch.manual_seed(0)
    free = {"sequences": {0: "batch", 1: "time"}, "lengths": {0: "batch"}, "embedding": {0: "batch"}}
    samples = torch.zeros(2, 5, 3), torch.tensor([5, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the old one
        options = {"input_names": list(free)[:2], "output_names": ["embedding"], "dynamic_axes": free, "dynamo": False}
        torch.onnx.export(Pooled(), samples, str(path), **options)  # type: ignore[arg-type]
    return path


def write_all(folder: Path) -> None:
    """Write every artifact that is checked in."""
    with tempfile.TemporaryDirectory() as run:
        export_run(make_run_of_two_layers(Path(run)), folder / "made.onnx")
    for name, kind in KINDS.items():
        export_kind(kind, folder / f"{name}.onnx")
    export_by_torch(folder / "pooled.onnx")
