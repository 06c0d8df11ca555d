"""From an encoder to a proven artifact: graph, proof, manifest, golden vectors, file."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from export.graph import GraphOptions, build_graph, hash_weights
from export.oracle import Case
from export.quantize import Judge, quantize_artifact
from export.verify import SampleKind, draw_sequences, run_torch, verify
from model.data.datasets import LabelledSequences
from model.encoder.config import EncoderConfig
from model.encoder.encoder import SequenceEncoder, Standardization
from model.tasks.head import FoldedHead
from model.tasks.supervised import SequenceClassifier
from model.tasks.task import Task
from model.threads import limit_threads
from model.training.run_directory import RunConfig, read_config, read_model, read_results, read_samples, read_tokenizer
from service.encoder.manifest import (
    METADATA_KEY,
    Golden,
    Input,
    Manifest,
    ParityCheck,
    Prediction,
    Statistics,
    TaskRecord,
    Tensor,
)
from service.encoder.sequences import Steps
from service.encoder.session import EncoderSession


class ProofFailed(Exception):
    """The exported graph is not the trained encoder; nothing was written.

    Attributes:
        checks: every claim, with what was found.
    """

    def __init__(self, checks: list[ParityCheck]) -> None:
        self.checks = checks
        failed = "; ".join(check.claim for check in checks if not check.holds)
        super().__init__(f"the exported graph fails its proof, so nothing was written. Not true: {failed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an encoder comes from, for its manifest.

    Attributes:
        name: it is served under, as `NAME` allows it.
        version: of the model.
        source: of the data, or of the weights.
        licence: under which terms.
        longest_training_sequence: steps; None if nobody knows.
        task: what it was trained to do; None if nobody knows.
        tokenizer: of texts, as the JSON of the `tokenizers` library; None if it reads none.
        samples: what it is proven on: `real` sequences of a data set, or `made` ones.
        columns: the names of the numbers in a step; empty if nobody knows.
    """

    name: str
    version: str = "1"
    source: str = "not stated"
    licence: str = "not stated"
    longest_training_sequence: int | None = None
    task: TaskRecord | None = None
    tokenizer: str | None = None
    samples: SampleKind = "made"
    columns: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """What an encoder was trained to do, and what that is judged on.

    Attributes:
        task: in evaluation mode.
        held_out: labelled sequences, the samples of the proof.
    """

    task: Task
    held_out: LabelledSequences


def export_run(
    run: Path, output: Path, name: str | None = None, version: str = "1", options: GraphOptions | None = None
) -> Manifest:
    """Export a finished run.

    Args:
        run: the directory of a finished run.
        output: the file to write.
        name: the name the model is served under, as `NAME` allows it; the data set's by default.
        version: of the model.
        options: what the graph offers besides embeddings; nothing by default.

    Returns:
        The manifest that the file carries.

    Raises:
        BrokenRun: the run directory is incomplete.
        ProofFailed: the graph does not do what the encoder does; `output` is left as it was.
        CannotQuantize: there is nothing to quantise, or it became another encoder.
        LengthwiseError: what was written is not what the service would serve.
        OSError: the file cannot be written.
        ValueError: the options ask for what the encoder cannot give.
    """
    config, model, samples = read_config(run), read_model(run), read_samples(run)
    origin = Origin(
        name=name or config.data.name,
        version=version,
        source=config.data.source,
        licence=config.data.licence,
        longest_training_sequence=config.data.longest_training_sequence,
        task=_describe_task(config, read_results(run)),
        tokenizer=read_tokenizer(run),
        samples="real",
        columns=config.data.columns,
    )
    trained = Trained(model, samples)
    return export_encoder(model.encoder, samples.sequences, origin, output, options, trained)


def export_encoder(
    encoder: SequenceEncoder,
    samples: Sequence[Steps],
    origin: Origin,
    output: Path,
    options: GraphOptions | None = None,
    trained: Trained | None = None,
) -> Manifest:
    """Export an encoder, however it came by its weights.

    Args:
        encoder: in evaluation mode.
        samples: n >= 1 sequences to prove it on.
        origin: what the manifest says of where it comes from.
        output: the file to write.
        options: what the graph offers besides embeddings; nothing by default.
        trained: the task that the encoder was trained on here; None where it was trained elsewhere.

    Returns:
        The manifest that the file carries.

    Raises:
        ProofFailed: the graph does not do what the encoder does; `output` is left as it was.
        CannotQuantize: there is nothing to quantise, or it became another encoder.
        LengthwiseError: what was written is not what the service would serve.
        OSError: the file cannot be written.
        ValueError: the options ask for what the encoder cannot give.
    """
    limit_threads(encoder.config.hidden)
    options = options or GraphOptions()
    task = trained.task if trained is not None and options.prediction else None
    head = None if task is None else task.fold_head()
    graph = build_graph(encoder, options, head)
    checks = prove(encoder, graph, samples, origin.samples, task)
    manifest = Manifest(
        name=origin.name,
        version=origin.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=asdict(encoder.config),
        input=_describe_input(encoder.config, origin),
        dim=encoder.config.dim,
        pooling=encoder.config.pooling,
        longest_training_sequence=origin.longest_training_sequence,
        standardization=_describe_statistics(encoder.standardization),
        task=origin.task,
        prediction=_describe_head(head, origin),
        source=origin.source,
        licence=origin.licence,
        weights_sha256=hash_weights(graph),
        parity=checks,
        golden=choose_golden(encoder, samples),
    )
    if options.quantize:
        graph, manifest = quantize_artifact(graph, manifest, samples, None if trained is None else _judge(trained))
    write_artifact(graph, manifest, output)
    return manifest


def make_samples(config: EncoderConfig, count: int = 60, longest: int = 40) -> list[Steps]:
    """Make sequences to prove an encoder on if nobody has real ones: standard normal features, or any tokens."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, longest + 1, count)
    if config.features is None:
        return [draw.integers(1, config.vocabulary or 2, length) for length in lengths]
    return [draw.standard_normal((length, config.features)).astype(np.float32) for length in lengths]


def prove(
    encoder: SequenceEncoder,
    graph: onnx.ModelProto,
    samples: Sequence[Steps],
    kind: SampleKind = "made",
    task: Task | None = None,
) -> list[ParityCheck]:
    """Verify a graph in the session class that will serve it, and the predictions of a task if it has them.

    Raises:
        ProofFailed: a claim does not hold.
    """
    checks = verify(encoder, EncoderSession(graph.SerializeToString(), "the exported graph"), samples, kind, task)
    if not all(check.holds for check in checks):
        raise ProofFailed(checks)
    return checks


def choose_golden(encoder: SequenceEncoder, samples: Sequence[Steps]) -> list[Golden]:
    """Pair a few sequences with the embeddings torch gives them.

    They are as long as the shortest, median and longest of the samples, one step and none, and made: whoever holds the
    file holds nobody's data.
    """
    lengths = sorted(map(len, samples))
    made = draw_sequences(samples, [lengths[0], lengths[len(lengths) // 2], lengths[-1], 1, 0], seed=0)
    answers = [run_torch(encoder, [Case(steps)])[0] for steps in made]
    return [
        Golden(sequence=Tensor.of(steps), embedding=Tensor.of(answer.embedding.astype(np.float32)))
        for steps, answer in zip(made, answers, strict=True)
    ]


def write_artifact(graph: onnx.ModelProto, manifest: Manifest, output: Path) -> None:
    """Write graph and manifest as one file, whole or not at all, once the file's own bytes replay its golden vectors.

    Raises:
        GoldenMismatch: they do not.
    """
    graph.metadata_props.add(key=METADATA_KEY, value=manifest.model_dump_json())
    content = graph.SerializeToString()
    EncoderSession(content, str(output)).replay_golden()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _judge(trained: Trained) -> Judge | None:
    """Return what scores embeddings of the held-out sequences by a classifier's head; None for other tasks."""
    if not isinstance(trained.task, SequenceClassifier):
        return None
    head, labels = trained.task.fold_head(), trained.held_out.labels
    return lambda embeddings: float(np.mean((embeddings @ head.weight.T + head.bias).argmax(axis=1) == labels))


def _describe_head(head: FoldedHead | None, origin: Origin) -> Prediction | None:
    """Say what the logits of a head mean."""
    if head is None:
        return None
    classes = [] if origin.task is None else origin.task.classes
    return Prediction(kind=head.predicts, labels=classes if head.predicts == "class" else [])


def _describe_input(config: EncoderConfig, origin: Origin) -> Input:
    kind: Literal["features", "tokens", "text"] = "tokens" if config.features is None else "features"
    if origin.tokenizer is not None:
        kind = "text"
    return Input(
        kind=kind,
        features=config.features,
        vocabulary=config.vocabulary,
        tokenizer=origin.tokenizer,
        columns=list(origin.columns),
    )


def _describe_statistics(standardization: Standardization | None) -> Statistics | None:
    if standardization is None:
        return None
    return Statistics(mean=standardization.mean.tolist(), std=standardization.std.tolist())


def _describe_task(config: RunConfig, results: dict[str, float]) -> TaskRecord:
    # What is not a number, as a share of the variance of one target, is a metric nobody has.
    metrics = {name: value for name, value in results.items() if math.isfinite(value)}
    return TaskRecord(name=config.task, dataset=config.data.name, classes=config.data.classes, metrics=metrics)
