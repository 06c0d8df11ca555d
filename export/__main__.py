"""`python -m export RUN_DIR -o FILE`: export a trained encoder, prove it, print the proof."""

import argparse
import re
import sys
from pathlib import Path

from export.artifact import ProofFailed, export_run
from export.quantize import CannotQuantize, describe
from model.checkpoint import BrokenRun
from service.artifact import NAME, ParityCheck
from service.errors import LengthwiseError


def main(arguments: list[str] | None = None) -> None:
    """Export as the command line says; exit with the reason where the proof fails."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a finished run of model.train")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--name", type=model_name, help="the name it is served under; the data set's by default")
    parser.add_argument("--version", default="1", help="of the model; 1 by default")
    parser.add_argument(
        "--quantize", action="store_true", help="int8 LSTM weights: faster, and nothing is exact any more"
    )
    options = parser.parse_args(arguments)
    try:
        manifest = export_run(options.run, options.output, options.name, options.version, quantize=options.quantize)
    except ProofFailed as failure:
        print_report(failure.checks)
        sys.exit(f"export: {failure}")
    except (BrokenRun, CannotQuantize, LengthwiseError, OSError) as error:
        sys.exit(f"export: {error}")
    if manifest.quantization is None:
        print_report(manifest.parity)
    else:
        print(describe(manifest.quantization))
    size = options.output.stat().st_size / 2**10
    print(f"{options.output}: {manifest.name} {manifest.version}, {manifest.dim} numbers an embedding, {size:.0f} KiB")


def model_name(text: str) -> str:
    """Return a name a model may have.

    Raises:
        ArgumentTypeError: this is none.
    """
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: letters, digits, dots, dashes, underscores, up to 100")
    return text


def print_report(checks: list[ParityCheck]) -> None:
    """Print one line a claim: what was compared, how often, the largest difference and whether it is tolerated."""
    width = max(len(check.claim) for check in checks)
    print(f"{'an embedding':{width}}  {'cases':>6}  {'difference':>10}  {'tolerated':>9}")
    for check in checks:
        verdict = "ok" if check.holds else "FAILED"
        row = f"{check.cases:6}  {check.max_difference:10.2g}  {check.tolerance:9.2g}  {verdict}"
        print(f"{check.claim:{width}}  {row}")


if __name__ == "__main__":
    main()
