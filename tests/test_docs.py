"""The documents name what is there."""

import re
import shlex
from pathlib import Path

import pytest

from service import __version__

README = Path("README.md").read_text(encoding="utf-8")
MAKEFILE = Path("Makefile").read_text(encoding="utf-8")
DOCUMENTS = sorted([*Path().glob("*.md"), *Path("docs").glob("*.md"), *Path("artifacts").glob("*.md")])


def test_the_file_map_is_the_tree() -> None:
    """Every file or folder in README's map exists, and every module of the service stands in it."""
    block = README.partition("## Where things are")[2].split("```")[1]
    folder, listed = Path(), set()
    for line in block.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = Path(name) if name.endswith("/") else Path()
        path = folder / name if line.startswith(" ") else Path(name)
        assert path.exists(), path
        listed.add(path)
    for package in ("service", "model", "export", "client/lengthwise_client"):
        modules = {path for path in Path(package).glob("*.py") if path.name != "__init__.py"}
        if package == "export":
            modules -= {Path("export/__main__.py")}
        assert modules <= listed, modules - listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file."""
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


def test_documented_verbs_exist() -> None:
    """Each `make` verb a document uses is a target with a line in `make help`."""
    verbs = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        used = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
        assert set(used) <= verbs, document


def test_the_image_is_plain_locked_and_unprivileged() -> None:
    """The Dockerfile needs no BuildKit, installs by hash, ends as a numbered user and disables telemetry."""
    text = Path("Dockerfile").read_text(encoding="utf-8")
    instructions = [line.split()[0] for line in text.splitlines() if line and line[0].isupper()]
    assert set(instructions) <= set(
        "FROM ARG COPY RUN LABEL ENV WORKDIR USER EXPOSE HEALTHCHECK ENTRYPOINT".split()  # noqa: SIM905 - reads better
    )
    assert "--mount" not in text
    assert "<<" not in text
    assert "--require-hashes" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    assert "ORT_DISABLE_TELEMETRY=1" in text
    final = text.rpartition("FROM ")[2]
    assert "pip install" not in final
    assert "torch" not in text
    assert f'image.version="{__version__}"' in text


def test_ci_runs_the_verbs_everyone_runs() -> None:
    """`.ci/run` is `make check` and `make test`, and the hosted workflow is `.ci/run`."""
    commands = [shlex.split(line) for line in Path(".ci/run").read_text(encoding="utf-8").splitlines()]
    assert [command for command in commands if command[:1] == ["make"]] == [["make", "check"], ["make", "test"]]
    assert "bash .ci/run" in Path(".github/workflows/check.yml").read_text(encoding="utf-8")
