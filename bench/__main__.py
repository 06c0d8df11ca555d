"""`python -m bench NAME`: the one entry to all that is measured here. Without a name it lists them."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from bench.load.servers import Unavailable

ROOMS = ("speed", "stress")
EVERY = {
    file.stem.replace("_", "-"): f"bench.{room}.{file.stem}"
    for room in ROOMS
    for file in sorted((Path(__file__).parent / room).glob("*.py"))
    if "\ndef main(" in file.read_text(encoding="utf-8")
} | {"models": "bench.load.models"}


def main() -> None:
    """Run what the first argument names; the rest of the command line is its own."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in EVERY:
        listing = "\n".join(f"  {known:15} {describe(module)}" for known, module in EVERY.items())
        sys.exit(f"usage: python -m bench NAME [options]\n\n{listing}")
    sys.argv[:2] = [f"python -m bench {name}"]
    try:
        import_module(EVERY[name]).main()
    except Unavailable as error:
        sys.exit(f"python -m bench {name}: {error}")


def describe(module: str) -> str:
    """Return the first line of a module's docstring, without importing it."""
    source = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return line.partition("`: ")[2] or line


if __name__ == "__main__":
    main()
