"""From a run directory to a proven artifact: graph, proof, manifest, golden vectors, file."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from export.graph import GraphOptions, build_graph, hash_weights
from export.oracle import Case
from export.verify import draw_sequences, run_torch, verify
from model.checkpoint import RunConfig, read_config, read_model, read_results, read_samples, read_tokenizer
from model.encoder import EncoderConfig, SequenceEncoder, Standardization
from service.artifact import METADATA_KEY, Golden, Input, Manifest, ParityCheck, Statistics, Task, Tensor
from service.sequences import Steps
from service.session import EncoderSession


class ProofFailed(Exception):
    """The exported graph is not the trained encoder; nothing was written.

    Attributes:
        checks: every claim, with what was found.
    """

    def __init__(self, checks: list[ParityCheck]) -> None:
        self.checks = checks
        failed = "; ".join(check.claim for check in checks if not check.holds)
        super().__init__(f"the exported graph fails its proof, so nothing was written. Not true: {failed}")


def export_run(
    run: Path, output: Path, name: str | None = None, version: str = "1", options: GraphOptions | None = None
) -> Manifest:
    """Export a finished run.

    Args:
        run: the run directory of `model.train`.
        output: the file to write.
        name: the name the model is served under, as `NAME` allows it; the data set's by default.
        version: of the model.
        options: what the graph offers besides embeddings; nothing by default.

    Returns:
        The manifest that the file carries.

    Raises:
        BrokenRun: the run directory is incomplete.
        ProofFailed: the graph does not do what the encoder does; `output` is left as it was.
        LengthwiseError: what was written is not what the service would serve.
        OSError: the file cannot be written.
        ValueError: the options ask for what the encoder cannot give.
    """
    config, encoder, samples = read_config(run), read_model(run).encoder, read_samples(run).sequences
    graph = build_graph(encoder, options)
    checks = prove(encoder, graph, samples)
    manifest = Manifest(
        name=name or config.data.name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        encoder=asdict(config.encoder),
        input=_describe_input(config.encoder, read_tokenizer(run)),
        dim=config.encoder.dim,
        pooling=config.encoder.pooling,
        longest_training_sequence=config.data.longest_training_sequence,
        standardization=_describe_statistics(encoder.standardization),
        task=_describe_task(config, read_results(run)),
        source=config.data.source,
        licence=config.data.licence,
        weights_sha256=hash_weights(graph),
        parity=checks,
        golden=choose_golden(encoder, samples),
    )
    write_artifact(graph, manifest, output)
    return manifest


def prove(encoder: SequenceEncoder, graph: onnx.ModelProto, samples: Sequence[Steps]) -> list[ParityCheck]:
    """Verify a graph in the session class that will serve it.

    Raises:
        ProofFailed: a claim does not hold.
    """
    checks = verify(encoder, EncoderSession(graph.SerializeToString(), "the exported graph"), samples)
    if not all(check.holds for check in checks):
        raise ProofFailed(checks)
    return checks


def choose_golden(encoder: SequenceEncoder, samples: Sequence[Steps]) -> list[Golden]:
    """Pair a few sequences with the embeddings torch gives them.

    They are as long as the shortest, median and longest real ones, one step and none, and made: whoever holds the file
    holds nobody's data.
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


def _describe_input(config: EncoderConfig, tokenizer: str | None) -> Input:
    kind: Literal["features", "tokens", "text"] = "tokens" if config.features is None else "features"
    if tokenizer is not None:
        kind = "text"
    return Input(kind=kind, features=config.features, vocabulary=config.vocabulary, tokenizer=tokenizer)


def _describe_statistics(standardization: Standardization | None) -> Statistics | None:
    if standardization is None:
        return None
    return Statistics(mean=standardization.mean.tolist(), std=standardization.std.tolist())


def _describe_task(config: RunConfig, results: dict[str, float]) -> Task:
    return Task(name=config.task, dataset=config.data.name, classes=config.data.classes, metrics=results)
