"""`lengthwise NAME ...`, or in a checkout `python -m lengthwise NAME ...`: run the program of that name.

The application's folders lie beside this package in a checkout, and inside it once it is installed, where nobody else
can import them. This command puts the folder that holds them first on its own path. What it does not run, it does not
import: to show its help takes little more than to start Python.
"""

import sys
from importlib import import_module
from pathlib import Path

from lengthwise.commands import COMMANDS, Command, read_help, write_help

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "application"
ROOT = INSTALLED if INSTALLED.is_dir() else HERE.parent
OURS = {"lengthwise", "service", "model", "export", "bulk"}
MISUSED, INTERRUPTED = 2, 130  # exit codes, as argparse and shells have them


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names; the rest of the command line is its own.

    Args:
        arguments: the command line, without the program; the process's own by default.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    if name in ("help", "-h", "--help"):
        sys.stdout.write(write_help())
    elif name in ("version", "--version"):
        sys.path.insert(0, str(ROOT))
        sys.stdout.write(f"lengthwise {import_module('service').__version__}\n")
    elif name in COMMANDS and rest in (["-h"], ["--help"]):
        sys.stdout.write(read_help(name))
    elif name in COMMANDS:
        run(name, COMMANDS[name], rest)
    else:
        sys.stderr.write(f"lengthwise: {name!r} is not a command{suggest(name)}; `lengthwise help` lists them.\n")
        sys.exit(MISUSED)


def run(name: str, command: Command, rest: list[str]) -> None:
    """Run a program; say in one sentence what it lacks if a package is not installed."""
    sys.path.insert(0, str(ROOT))
    try:
        import_module(command.module).main(rest)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in OURS:
            raise
        explain = import_module("lengthwise.extras").explain
        sys.exit(explain(name, missing, command.extra, None if ROOT == INSTALLED else ROOT))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def suggest(name: str) -> str:
    """Return what may have been meant, as the end of a clause."""
    near = import_module("difflib").get_close_matches(name, COMMANDS, 1)
    return f", and {near[0]!r} is" if near else ""


if __name__ == "__main__":
    main()
