"""`python -m model train`, `evaluate` or `report`: learn, measure what was learned, or write its report anew."""

import sys
from importlib import import_module

PROGRAMS = {
    "train": "model.training.train",
    "evaluate": "model.training.evaluate",
    "report": "model.training.report",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names; the rest of the command line is its own.

    Args:
        arguments: the command line, without the program; the process's own by default.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in PROGRAMS:
        usage = f"usage: python -m model {{{','.join(PROGRAMS)}}} ...; each takes --help"
        if given in (["-h"], ["--help"]):
            print(usage)
            return
        print(usage, file=sys.stderr)
        sys.exit(2)  # as argparse does
    import_module(PROGRAMS[given[0]]).main(given[1:])


if __name__ == "__main__":
    main()
