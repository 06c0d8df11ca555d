"""Show an artifact's card: what it takes and gives, its proof, its data, its licence."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.files import read_file
from service.catalogue.vetting.findings import Proven
from service.encoder.manifest import Manifest
from service.encoder.sequences import Features
from service.encoder.session import EncoderSession, find_artifact
from service.errors import ArtifactError

MOST_NAMED = 12  # columns beside what is taken; more have the last line


def main(arguments: list[str]) -> None:
    """Print the card of a file, and exit with 1 if it cannot be served.

    Args:
        arguments: the command line, without the program.
    """
    parser = argparse.ArgumentParser(prog="lengthwise inspect", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="an artifact, or a folder that holds one")
    try:
        path = find_artifact(parser.parse_args(arguments).file)
        content = read_file(path)
        with closing(Examiner()) as examiner:
            proven = examiner.examine(content, str(path))
        session = EncoderSession(content, str(path))
    except ArtifactError as error:
        sys.exit(f"lengthwise: {error}")
    rows = [("file", f"{path}, {len(content) / 2**10:,.0f} KiB, sha256 {session.sha256}"), *describe(session, proven)]
    sys.stdout.write("".join(f"{name:<9} {clean(said)}\n" for name, said in rows))


def describe(session: EncoderSession, proven: Proven) -> Iterator[tuple[str, str]]:
    """Yield what each line is of, and what it says.

    Args:
        session: the artifact, opened.
        proven: what the trial of the same file found.
    """
    manifest = session.manifest
    if manifest:
        yield "model", f"{manifest.name} {manifest.version}, exported {manifest.created}"
    yield "takes", describe_input(session)
    yield "gives", ", ".join(describe_outputs(session))
    yield "memory", f"{proven.memory_bytes / 2**20:.1f} MiB once it is loaded"
    if manifest is None:
        yield "proof", "none: it carries no manifest, so that nothing about it is verified"
        return
    yield (
        "encoder",
        ", ".join(name if value is True else f"{name} {value}" for name, value in manifest.encoder.items() if value),
    )
    if task := manifest.task:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in task.metrics.items())
        yield "learned", f"{task.name} on {task.dataset}{f', {len(task.classes)} classes' * bool(task.classes)}"
        yield "measured", f"{metrics or 'nothing'}, on held-out sequences"
    yield from describe_proof(manifest, proven)
    yield "source", manifest.source
    yield "licence", manifest.licence
    if len(manifest.input.columns) > MOST_NAMED:
        yield "columns", ", ".join(manifest.input.columns)


def describe_input(session: EncoderSession) -> str:
    """Say what a sequence is, and how long those of the training were."""
    manifest, kind = session.manifest, session.kind
    if isinstance(kind, Features):
        columns = manifest.input.columns if manifest else []
        names = ", ".join(columns) if len(columns) <= MOST_NAMED else "named in the last line"
        named = f" ({names})" if columns else ""
        taken = f"sequences of any length, {kind.features} numbers a step{named}"
    else:
        texts = "texts, or " if manifest and manifest.input.kind == "text" else ""
        taken = f"{texts}sequences of token ids{f' from 1 to {kind.vocabulary - 1}' if kind.vocabulary else ''}"
    longest = manifest.longest_training_sequence if manifest else None
    return taken if longest is None else f"{taken}; the longest in training had {longest} steps"


def describe_outputs(session: EncoderSession) -> Iterator[str]:
    """Yield what an answer may hold."""
    pooling = f" ({session.manifest.pooling} over the steps)" if session.manifest else ""
    yield f"an embedding of {session.dim} numbers{pooling}"
    if "steps" in session.outputs:
        yield f"{session.width} numbers for each step"
    if "state" in session.outputs:
        yield "the final state"


def describe_proof(manifest: Manifest, proven: Proven) -> Iterator[tuple[str, str]]:
    """Yield the claims of the export with the largest difference found, and what their replay found here."""
    if cost := manifest.quantization:
        yield "int8", f"differs from float32 by up to {cost.max_error:.2g}, {cost.mean_error:.2g} on average"
    for check in manifest.parity:
        cases = f"{check.cases} comparisons"
        yield "proof", f"{check.claim}: {cases}, at most {check.max_difference:.2g} of {check.tolerance:.2g} allowed"
    if proven.difference is not None:
        yield "here", f"{len(manifest.golden)} golden vectors replayed, within {proven.difference:.2g}"


def clean(said: str) -> str:
    """Make what a file may have written one line of printable characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())
