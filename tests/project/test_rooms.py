"""The rooms of the code: each says what is in it, and what waits in the service has one owner."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BATCHING = Path("service/batching")
# What decides which sequences run next, and all that it may import.
PURE = ("sharing", "queue", "lanes", "cutting", "jobs", "policy")
ALLOWED = {f"service.batching.{name}" for name in PURE} | {"service.costs.model", "service.errors"}
ALLOWED |= {"bisect", "collections.abc", "dataclasses", "heapq", "itertools", "math", "operator", "typing"}


def parse(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


ROOMS = sorted(".".join(path.parts[:-1]) for path in Path("service").rglob("*/__init__.py"))
ROOMS += sorted(
    ".".join(path.parts[:-1])
    for folder in ("lengthwise", "model", "export", "bulk", "bench")
    for path in Path(folder).rglob("__init__.py")
)


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_docstring_names_every_module(room: str) -> None:
    """It is the room's map: each module and each room inside stands in it once, with a clause on what it holds."""
    package = importlib.import_module(room)
    folder = Path(package.__path__[0])
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    modules |= {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    lines = re.findall(r"^- (.*?): \S", package.__doc__ or "", re.MULTILINE)
    assert sorted(re.findall(r"`([\w/]+)`", " ".join(lines))) == sorted(modules)


@pytest.mark.parametrize("name", PURE)
def test_what_runs_next_is_decided_without_a_clock_a_thread_or_a_session(name: str) -> None:
    """The modules that decide it import none, so that a test says what time it is and what runs took."""
    imported = set()
    for node in ast.walk(parse(BATCHING / f"{name}.py")):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert imported <= ALLOWED


def find_writes(path: Path, names: set[str]) -> Iterator[str]:
    """Yield each attribute that a module sets on something of one of the names, as in `job.due`."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if owner in names:
                yield f"{owner}.{node.attr}"


def test_what_waits_is_written_by_its_owner_alone() -> None:
    """Jobs are written by their queue and its lanes, but for where their rows go; nothing else is from outside."""
    names = {"job", "entry", "run", "queue", "queues", "lane"}
    found = {path: set(find_writes(path, names)) for path in Path("service").rglob("*.py")}
    waiting = found.pop(BATCHING / "queue.py")
    assert {name.partition(".")[0] for name in waiting} == {"job"}
    assert found.pop(BATCHING / "lanes.py") == {"job.cut"}
    assert found.pop(BATCHING / "engine.py") == {"job.delivery"}
    assert not {path: writes for path, writes in found.items() if writes}


def test_settings_are_a_leaf() -> None:
    """Whoever reads them loads neither ONNX Runtime nor numpy."""
    script = "import sys, service.settings; print({'onnxruntime', 'numpy'} & set(sys.modules))"
    read = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert read.stdout == "set()\n"
