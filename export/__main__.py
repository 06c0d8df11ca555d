"""`lengthwise export RUN_DIR -o FILE`: export a trained encoder, prove it, print the proof.

Weights that were trained elsewhere are read with `--from-torch` (a state dict of nn.LSTM, nn.GRU or nn.RNN in
safetensors), `--from-keras` (a .keras file) or `--from-tf1` (the variables of a TensorFlow 1 checkpoint as NPZ). What
cannot be represented exactly is refused.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import get_args

from export.artifact import Origin, ProofFailed, export_encoder, export_run, make_samples
from export.graph import GraphOptions
from export.keras_file import read_keras
from export.quantize import CannotQuantize, describe
from export.tensorflow1 import read_tensorflow1
from export.torch_state import read_torch_state
from model.encoder.pooling import Pooling
from model.training.run_directory import BrokenRun, read_config
from service.encoder.manifest import Manifest, ParityCheck
from service.errors import LengthwiseError
from service.settings import NAME

# By what is exported: the arguments that it leaves nothing to.
IDLE = {
    "run": ("pooling", "prefix", "embedding", "forget_bias", "normalize", "source", "licence"),
    "from_torch": ("forget_bias",),
    "from_keras": ("pooling", "prefix", "embedding", "forget_bias"),
    "from_tf1": (),
}


def main(arguments: list[str] | None = None) -> None:
    """Export as the command line says; exit with the reason if the proof fails."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    _refuse_idle(parser, options)
    try:
        manifest = export(options)
    except ProofFailed as failure:
        print_report(failure.checks)
        sys.exit(f"export: {failure}")
    except (argparse.ArgumentTypeError, BrokenRun, CannotQuantize, LengthwiseError, OSError, ValueError) as error:
        sys.exit(f"export: {error}")
    if manifest.quantization is None:
        print_report(manifest.parity)
    else:
        print(describe(manifest.quantization, "made" if options.run is None else "held-out"))
    size = options.output.stat().st_size / 2**10
    print(f"{options.output}: {manifest.name} {manifest.version}, {manifest.dim} numbers an embedding, {size:.0f} KiB")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="lengthwise export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", type=Path, nargs="?", metavar="RUN_DIR", help="the directory of a finished run")
    what.add_argument("--from-torch", type=Path, metavar="FILE", help="safetensors state dict of a recurrent layer")
    what.add_argument("--from-keras", type=Path, metavar="FILE", help=".keras file of a recurrent stack")
    what.add_argument("--from-tf1", type=Path, metavar="FILE", help="NPZ of a TensorFlow 1 checkpoint's variables")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument(
        "--name", type=model_name, help="the name it is served under; the data set's or file's by default"
    )
    parser.add_argument("--version", default="1", help="of the model; 1 by default")
    parser.add_argument("--steps", action="store_true", help="give the outputs of every step too")
    parser.add_argument("--state", action="store_true", help="give the final state too")
    parser.add_argument(
        "--initial-state", action="store_true", help="let sequences start from a state, in each direction from its own"
    )
    parser.add_argument(
        "--prediction", action="store_true", help="give what the trained task predicts: a class, a number, a next token"
    )
    parser.add_argument(
        "--quantize", action="store_true", help="int8 LSTM weights: faster, and nothing is exact any more"
    )
    foreign = parser.add_argument_group("weights trained elsewhere")
    poolings = [pooling for pooling in get_args(Pooling) if pooling != "attention"]
    foreign.add_argument(
        "--pooling", choices=poolings, default="mean", help="of --from-torch and --from-tf1; mean by default"
    )
    foreign.add_argument("--prefix", default="", help="of names in --from-torch and --from-tf1, such as encoder.lstm.")
    foreign.add_argument(
        "--embedding",
        metavar="NAME",
        help="the table in --from-torch or --from-tf1 that embeds token ids; id 0 is padding",
    )
    foreign.add_argument(
        "--forget-bias", type=float, default=1.0, help="of the LSTM in --from-tf1; 1.0 by default, as LSTMCell's"
    )
    foreign.add_argument("--normalize", action="store_true", help="scale embeddings to L2 norm 1")
    foreign.add_argument("--source", default="not stated", help="where the weights come from, for the manifest")
    foreign.add_argument("--licence", default="not stated", help="under which terms, for the manifest")
    return parser


def _refuse_idle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what would change nothing, rather than let somebody believe that it did."""
    given = next(name for name in IDLE if getattr(options, name) is not None)
    for name in IDLE[given]:
        if getattr(options, name) != parser.get_default(name):
            found = "a run" if given == "run" else f"--{given.replace('_', '-')}"
            parser.error(f"--{name.replace('_', '-')} changes nothing about {found}, which says it itself")


def export(options: argparse.Namespace) -> Manifest:
    """Export what the command line names, and print what a reader of foreign weights noted."""
    offered = GraphOptions(
        steps=options.steps,
        state=options.state,
        initial_state=options.initial_state,
        prediction=options.prediction,
        quantize=options.quantize,
    )
    if options.run is not None:
        name = options.name or model_name(read_config(options.run).data.name)
        return export_run(options.run, options.output, name, options.version, offered)
    if options.from_torch is not None:
        file = options.from_torch
        found = read_torch_state(file, options.pooling, options.prefix, options.embedding, normalize=options.normalize)
    elif options.from_tf1 is not None:
        file, chosen = options.from_tf1, (options.pooling, options.prefix, options.embedding)
        found = read_tensorflow1(file, *chosen, forget_bias=options.forget_bias, normalize=options.normalize)
    else:
        file = options.from_keras
        found = read_keras(file, normalize=options.normalize)
    for note in found.notes:
        print(f"note: {note}")
    name = options.name or model_name(file.stem)
    origin = Origin(name=name, version=options.version, source=options.source, licence=options.licence)
    return export_encoder(found.encoder, make_samples(found.encoder.config), origin, options.output, offered)


def model_name(text: str) -> str:
    """Return a name a model may have.

    Raises:
        ArgumentTypeError: this is none.
    """
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name: letters, digits, dots, dashes, underscores, up to 100; --name gives another"
        )
    return text


def print_report(checks: list[ParityCheck]) -> None:
    """Print one line a claim: what was compared, how often, the largest difference and whether it is tolerated."""
    width = max(len(check.claim) for check in checks)
    print(f"{'claim':{width}}  {'cases':>6}  {'difference':>10}  {'tolerated':>9}")
    for check in checks:
        verdict = "ok" if check.holds else "FAILED"
        row = f"{check.cases:6}  {check.max_difference:10.2g}  {check.tolerance:9.2g}  {verdict}"
        print(f"{check.claim:{width}}  {row}")


if __name__ == "__main__":
    main()
