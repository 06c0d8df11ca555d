"""Say for each file whether it can be served, as the service itself would find out."""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.files import read_file
from service.errors import ArtifactError


def main(arguments: list[str]) -> None:
    """Examine files, and exit with 1 if one cannot be served."""
    parser = argparse.ArgumentParser(prog="lengthwise check", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="an artifact")
    is_good = True
    with closing(Examiner()) as examiner:
        for path in parser.parse_args(arguments).files:
            try:
                found = examiner.examine(read_file(path), str(path))
            except ArtifactError as error:
                is_good = False
                sys.stdout.write(f"{error}\n")
                continue
            proof = "unverified" if found.difference is None else f"golden vectors within {found.difference:.2g}"
            taken = f"{found.memory_bytes / 2**20:.1f} MiB"
            sys.stdout.write(f"{path} can be served: {found.name or path.stem}, {proof}, {taken}\n")
    sys.exit(int(not is_good))
