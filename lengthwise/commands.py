"""What `lengthwise` can be asked for, and its help."""

from pathlib import Path
from typing import NamedTuple

HELP = Path(__file__).with_name("help.txt")  # of all programs, one after the other; `python -m docs.generate` writes it


class Command(NamedTuple):
    """A program.

    Attributes:
        module: the module whose `main` takes the rest of the command line.
        summary: what it does.
        example: a command line that works once the files in it are there.
        extra: the extra that brings what it needs; empty if every installation can run it.
    """

    module: str
    summary: str
    example: str
    extra: str = ""


COMMANDS = {
    "serve": Command(
        "service.server.serve",
        "Answer POST /encode with embeddings",
        "lengthwise serve --model mine.onnx --port 8000",
    ),
    "train": Command(
        "model.training.train",
        "Train an encoder on your sequences",
        "lengthwise train --data mine.parquet --out runs/mine",
        "train",
    ),
    "evaluate": Command(
        "model.training.evaluate",
        "Measure trained encoders on held-out sequences",
        "lengthwise evaluate runs/mine",
        "train",
    ),
    "report": Command(
        "model.training.report",
        "Write the report of a training anew",
        "lengthwise report runs/mine",
        "train",
    ),
    "export": Command(
        "export.__main__",
        "Make one ONNX file of a trained encoder, and prove it",
        "lengthwise export runs/mine -o mine.onnx",
        "export",
    ),
    "encode": Command(
        "bulk.__main__",
        "Encode every sequence in files",
        "lengthwise encode sequences.parquet -o embeddings --model mine.onnx",
        "bulk",
    ),
    "inspect": Command(
        "service.catalogue.card",
        "Show what an artifact takes and gives, and its proof",
        "lengthwise inspect mine.onnx",
    ),
    "check": Command(
        "service.catalogue.vetting.command",
        "Say whether files can be served",
        "lengthwise check mine.onnx theirs.onnx",
    ),
    "calibrate": Command(
        "service.costs.calibrate",
        "Measure what runs cost on this machine",
        "lengthwise calibrate --model mine.onnx",
    ),
    "keys": Command(
        "service.api.keys",
        "Make a key for a caller of the service",
        "lengthwise keys keys.txt --name alice",
    ),
    "ready": Command(
        "service.server.check",
        "Say whether the service that runs here is ready",
        "lengthwise ready",
    ),
    "doctor": Command(
        "service.server.doctor",
        "Show what a bug report needs: versions, CPUs, memory",
        "lengthwise doctor",
    ),
    "completion": Command(
        "lengthwise.completion",
        "Print what bash, zsh or fish needs to complete",
        "source <(lengthwise completion bash)",
    ),
}

EXIT_CODES = {
    0: "done",
    1: "it could not be done, and a sentence on stderr says why",
    2: "a command, flag or argument is unknown or missing, or a setting is wrong",
    130: "interrupted by Ctrl-C",
    143: "stopped by SIGTERM; `encode` goes on where it stopped",
}


def read_help(name: str) -> str:
    """Return what a program shows with `--help`: its summary, its example and its flags."""
    command, text = COMMANDS[name], HELP.read_text(encoding="utf-8")
    usage = text[text.index(f"usage: lengthwise {name} ") :].partition("\nusage: ")[0]
    return f"{command.summary}, for example:\n\n  {command.example}\n\n{usage}"


def write_help() -> str:
    """Write the names with what each is for and an example, and the exit codes."""
    lines = ["Turns variable-length sequences into fixed-size embeddings.", "", "usage: lengthwise COMMAND ...", ""]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<11}{command.summary}", f"  {'':<11}  {command.example}"]
    lines += [f"  {'version':<11}Print the version", "", "`lengthwise COMMAND --help` tells of each. Exit codes:", ""]
    lines += [f"  {code:<11}{meaning}" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"
