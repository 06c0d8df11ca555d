"""Write into the pages what the code knows: `python -m docs.generate`, or `--check` to name the files that differ.

A page holds a block between `<!-- begin NAME -->` and `<!-- end NAME -->`. What stands between them is replaced by what
`BLOCKS` makes. `FILES` are written whole, and so is the notebook of each page of the gallery.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from docs import drawing, from_code, from_service, notebooks
from model.encoder.config import EncoderConfig
from model.tasks.config import TrainConfig

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
NOTEBOOKS = [page.relative_to(notebooks.ROOT).with_suffix(".ipynb") for page in notebooks.PAGES.values()]
BLOCK = re.compile(r"(<!-- begin ([a-z-]+) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[], str]] = {
    "commands": from_code.write_commands,
    "datasets": from_code.write_datasets,
    "command-exit-codes": from_code.write_exit_codes,
    "command-names": from_code.write_examples,
    "encode-headers": from_service.write_headers,
    "encode-parameters": from_service.write_parameters,
    "encode-request": partial(from_service.write_fields, "EncodeRequest"),
    "encode-response": partial(from_service.write_fields, "EncodeResponse"),
    "encoder-fields": partial(from_code.write_dataclass, EncoderConfig),
    "formats": from_service.write_formats,
    "manifest": from_code.write_manifest,
    "metrics": from_service.write_metrics,
    "problem": partial(from_service.write_fields, "Problem"),
    "problems": from_service.write_problems,
    "rooms": from_code.write_rooms,
    "routes": from_service.write_routes,
    "run-directory": from_code.write_run_directory,
    "settings": from_code.write_settings,
    "tasks": from_code.write_tasks,
    "training-fields": partial(from_code.write_dataclass, TrainConfig),
    "verbs": from_code.write_verbs,
}
FILES: dict[Path, Callable[[], str]] = {
    Path("lengthwise/flags.txt"): from_code.write_flags,  # for shells, to complete command lines
    Path("docs/pictures/architecture.svg"): drawing.draw_architecture,
    Path("lengthwise/help.txt"): from_code.write_helps,  # to be shown without the imports of what it is about
}


def main(arguments: list[str] | None = None) -> None:
    """Write the blocks of all pages, or name the files that are not what the code says."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file differs")
    options = parser.parse_args(arguments)
    files = [*PAGES, *FILES, *NOTEBOOKS]
    stale = [file for file in files if not file.exists() or file.read_text(encoding="utf-8") != fill(file)]
    if options.check and stale:
        sys.exit(f"docs: run `make docs`, these files differ from the code: {', '.join(map(str, stale))}")
    for page in stale:
        page.write_text(fill(page), encoding="utf-8")


@cache
def fill(page: Path) -> str:
    """Return the text of a page with its blocks as the code has them now, or that of a file that is written whole."""
    if page in FILES:
        return FILES[page]()
    if page.suffix == ".ipynb":
        return notebooks.write_notebook(page.with_suffix(".md").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    return BLOCK.sub(lambda found: f"{found[1]}\n{make_block(found[2])}\n\n{found[4]}", text)


@cache
def make_block(name: str) -> str:
    """Return the Markdown of a block."""
    return BLOCKS[name]()


if __name__ == "__main__":
    main()
