"""Run the notebooks of the gallery: `python -m docs.notebooks`, or `python -m docs.notebooks speech` for one of them.

A notebook is a page of `docs/gallery/`. Its blocks of Python and of shell are run from top to bottom, and what they
print and draw is written into the page and into `docs/gallery/pictures/`. The last line of a page is a hash of its
code, output and pictures, which only a run writes: tests find what was changed by hand. The same pages become Jupyter
notebooks without outputs, for readers to run. `--check` runs them and writes nothing.

A comment `<!-- holds: EXPRESSION -->` is evaluated once the code before it has run. What the text says about the
numbers stays true that way: if the expression is false, the run fails.
"""

import argparse
import ast
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docs import figures

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "gallery"
PAGES = {path.stem: path for path in sorted(FOLDER.glob("*.md")) if path.name != "index.md"}
PICTURE = re.compile(r"^!\[[^\]]+\]\((pictures/[\w-]+\.svg)\)\n", re.MULTILINE)
PART = re.compile(
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```\n"
    r"(?P<output>\n```text\n.*?^```\n)?"
    r"(?P<pictures>(?:\n!\[[^\]]+\]\(pictures/[\w-]+\.svg\)\n)*)"
    r"(?P<claims>(?:\n<!-- holds: .*? -->\n)*)",
    re.MULTILINE | re.DOTALL,
)
FOLDER_OF_ITS_OWN = "# what this notebook writes goes into a folder\n%mkdir -p runs\n%cd runs"
CLAIM = re.compile(r"<!-- holds: (.*?) -->")
RAN = re.compile(r"\n<!-- ran: ([0-9a-f]{16}) -->\n\Z")
AT_ONCE = 2  # pages that run side by side


class NotAsWritten(Exception):
    """A page says something that its run does not bear out."""


def run_page(text: str, pictures: Path) -> str:
    """Run the code of a page, in the current folder.

    Args:
        text: the page.
        pictures: the folder to write what it draws to.

    Returns:
        The page with what its code printed, and without its hash.

    Raises:
        NotAsWritten: a claim does not hold, or what was drawn is not what the page shows.
        CalledProcessError: a command failed.
    """
    names: dict[str, Any] = {"__name__": "__main__"}

    def run(part: re.Match[str]) -> str:
        printed = run_shell(part["code"]) if part["language"] == "sh" else run_python(close(part), names)
        shown = [Path(path).name for path in PICTURE.findall(part["pictures"])]
        drawn = figures.save([pictures / name for name in shown])
        if drawn != len(shown):
            raise NotAsWritten(f"{drawn} pictures were drawn and the page shows {shown} after\n{part['code']}")
        for claim in CLAIM.findall(part["claims"]):
            if not eval(claim, names):  # noqa: S307 - the page's own
                raise NotAsWritten(f"this does not hold any more: {claim}")
        output = f"\n```text\n{printed.rstrip()}\n```\n" if printed.strip() else ""
        return f"```{part['language']}\n{part['code']}```\n{output}{part['pictures']}{part['claims']}"

    try:
        return PART.sub(run, RAN.sub("\n", text))
    finally:
        for started in [one for one in names.values() if isinstance(one, subprocess.Popen)]:
            started.kill()
            started.wait()


def close(part: re.Match[str]) -> str:
    """Return a block's code, with a semicolon if it draws: its pictures are shown, and not its last value."""
    return f"{part['code'].rstrip()};\n" if part["pictures"] else str(part["code"])


def run_python(code: str, names: dict[str, Any]) -> str:
    """Run Python as a notebook does: return what was printed, and the last expression without a semicolon."""
    *statements, last = ast.parse(code).body
    out = io.StringIO()
    with redirect_stdout(out):
        if not isinstance(last, ast.Expr) or code.rstrip().endswith(";"):
            exec(compile(code, "page", "exec"), names)  # noqa: S102 - the page's own
        else:
            exec(compile(ast.Module(statements, []), "page", "exec"), names)  # noqa: S102
            value = eval(compile(ast.Expression(last.value), "page", "eval"), names)  # noqa: S307
            if value is not None:
                out.write(f"{value!r}\n")
    return out.getvalue()


def run_shell(code: str) -> str:
    """Run a block of shell, and return what it printed.

    Raises:
        CalledProcessError: a command failed; it has said why.
    """
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", code], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603, S607
    return ran.stdout


def hash_page(text: str, folder: Path) -> str:
    """Return the hash of a page's code, of what it printed, and of its pictures."""
    digest = hashlib.sha256()
    for part in PART.finditer(text):
        digest.update(f"{part['language']}\n{part['code']}{part['output'] or ''}".encode())
        for picture in PICTURE.findall(part["pictures"]):
            digest.update((folder / picture).read_bytes())
    return digest.hexdigest()[:16]


def write_notebook(text: str) -> str:
    """Return a page as a Jupyter notebook without outputs."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        if source.strip():
            cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": source.strip("\n")}
            cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))

    done = 0
    for part in PART.finditer(text):
        add("markdown", text[done : part.start()])
        if not done:
            add("code", FOLDER_OF_ITS_OWN)
        add("code", close(part) if part["language"] == "python" else f"%%bash\n{part['code']}")
        done = part.end()
    add("markdown", RAN.sub("", text[done:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, ensure_ascii=False, indent=1) + "\n"


def run_here(name: str, *, writes: bool) -> None:
    """Run a page in this process, in an empty folder; `lengthwise` is this checkout's."""
    page, home = PAGES[name], Path.cwd()
    old = page.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        work = Path(folder)
        command = work / "bin" / "lengthwise"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m lengthwise "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        ours = os.pathsep.join([str(ROOT), str(ROOT / "client")])
        os.environ.update(PATH=f"{command.parent}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=ours)
        sys.path[:0] = ours.split(os.pathsep)
        os.chdir(work)
        drawn = page.parent if writes else work
        (drawn / "pictures").mkdir(exist_ok=True)
        figures.use_style()
        try:
            new = run_page(old, drawn / "pictures")
        finally:
            os.chdir(home)
        new = f"{new.rstrip()}\n\n<!-- ran: {hash_page(new, drawn)} -->\n"
    if writes:
        page.write_text(new, encoding="utf-8")
        page.with_suffix(".ipynb").write_text(write_notebook(new), encoding="utf-8")
    same = "as on the page" if new == old else "with numbers or pictures that differ from the page's"
    print(f"docs: {name} ran, {'and was written' if writes else same}")  # noqa: T201 - a command-line program


def main(arguments: list[str] | None = None) -> None:
    """Run the named pages, or all, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m docs.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PAGES)}; all if none is named")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page does not run or hold")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PAGES):
        parser.error(f"{unknown.pop()!r} is not a notebook: expected one of {', '.join(PAGES)}")
    if len(options.names) == 1:
        run_here(options.names[0], writes=not options.check)
        return
    flags = ["--check"] if options.check else []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        commands = [[sys.executable, "-m", "docs.notebooks", name, *flags] for name in options.names or PAGES]
        ended = [*threads.map(lambda command: subprocess.run(command, cwd=ROOT, check=False), commands)]  # noqa: S603
    sys.exit(any(one.returncode for one in ended))


if __name__ == "__main__":
    main()
