"""What others build on does not change by accident: the public surface, held as files in `tests/surface/`.

A change on purpose is written anew with `pytest tests/project/test_surface.py --write-surface`, and has a line in
CHANGELOG.
Prose is left out: what a description or a title says may become better at any time.
"""

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from types import FunctionType
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from starlette.testclient import TestClient

from service.api import problems
from service.app import create_app
from service.encoder.manifest import Manifest
from service.settings import SHIPPED_MODEL, Settings

SURFACE = Path("tests/surface")
PROSE = {"description", "summary", "title", "example", "examples", "detail"}
KEY, ADMIN_KEY = "a-key-of-a-caller", "a-key-of-admins-only"
BODY = {"sequences": [[[0.25] * 12] * 3]}


@pytest.fixture
def hold(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file that holds it, or write that file if the command line says so."""

    def compare(name: str, found: str) -> None:
        file = SURFACE / name
        if request.config.getoption("--write-surface"):
            file.write_text(found)
        assert found == file.read_text(), f"{name} has changed: is it on purpose?"

    return compare


@pytest.fixture
def shipped() -> Iterator[TestClient]:
    """The shipped encoder, served with keys, so that nothing is left out."""
    settings = Settings(model=SHIPPED_MODEL, api_keys=SecretStr(KEY), admin_key=SecretStr(ADMIN_KEY), log_format="json")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def without_prose(node: Any, *, names_are_free: bool = False) -> Any:
    """Leave out what is written for people; below `properties`, names are a schema's own."""
    if isinstance(node, dict):
        kept = node if names_are_free else {name: part for name, part in node.items() if name not in PROSE}
        free = {"properties", "schemas", "parameters", "$defs"}
        return {name: without_prose(part, names_are_free=name in free) for name, part in kept.items()}
    return [without_prose(part) for part in node] if isinstance(node, list) else node


def to_json(found: object) -> str:
    """Write what is compared line by line."""
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def test_surface_of_http_stays(shipped: TestClient, hold: Callable[[str, str], None]) -> None:
    """Paths, parameters, schemas and responses of the OpenAPI document are the ones that are held."""
    document = shipped.get("/openapi.json", headers={"Authorization": ""}).json()  # without anything of the model
    hold("openapi.json", to_json(without_prose({name: document[name] for name in ("paths", "components")})))


def test_surface_of_metrics_stays(shipped: TestClient, hold: Callable[[str, str], None]) -> None:
    """Names, types and labels of the service's own metrics are the ones that are held."""
    assert shipped.post("/encode", json=BODY).status_code == 200
    assert shipped.post("/encode", content=b"{").status_code == 422
    lines = []
    for family in text_string_to_metric_families(shipped.get("/metrics").text):
        labels = sorted({label for sample in family.samples for label in sample.labels})
        if family.name.startswith("lengthwise_"):
            lines.append(f"{family.name} {family.type} {','.join(labels)}".strip() + "\n")
    hold("metrics.txt", "".join(sorted(lines)))


def test_surface_of_settings_stays(hold: Callable[[str, str], None]) -> None:
    """Variables, flags, types and defaults of the settings are the ones that are held."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = None if field.default is PydanticUndefined else field.default
        kind = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
        kind = kind.replace("pathlib._local.", "pathlib.")  # as Python 3.13 calls it
        if kind.startswith("typing.Annotated") and " | " in kind:  # as Python 3.14 writes it
            kind = f"typing.Union[{kind.replace(' | ', ', ')}]"
        lines.append(f"LENGTHWISE_{name.upper()} --{name.replace('_', '-')} {kind} = {default}\n")
    shortcuts = Settings.model_config["cli_shortcuts"]
    lines += [f"--{short} is --{name.replace('_', '-')}\n" for name, short in sorted(shortcuts.items())]  # type: ignore[union-attr]
    hold("settings.txt", "".join(lines))


def test_surface_of_problems_stays(hold: Callable[[str, str], None]) -> None:
    """Types, statuses and headers of problems are the ones that are held."""
    lines = [
        f"{problems.name_problem(kind)} {refusal.status} retry={refusal.retry} overload={refusal.is_overload}\n"
        for kind, refusal in problems.REFUSALS.items()
    ]
    hold("problems.txt", "".join(sorted(lines)))


def test_surface_of_log_lines_stays(
    shipped: TestClient, capsys: pytest.CaptureFixture[str], hold: Callable[[str, str], None]
) -> None:
    """The fields of a request's log line are the ones that are held."""
    shipped.post("/encode", json=BODY)
    shipped.get("/metrics")  # which settles what was noted
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = (one for one in lines if one.get("route") == "/encode")
    hold("log-fields.txt", "".join(f"{name} {type(value).__name__}\n" for name, value in line.items()))


def test_surface_of_the_manifest_stays(hold: Callable[[str, str], None]) -> None:
    """The manifest inside an artifact has the schema that is held."""
    hold("manifest.json", to_json(without_prose(Manifest.model_json_schema())))


# Runs a program with several command lines, one after the other, so that what it imports is imported once.
ENDS = """
import contextlib, io, runpy, sys
program, *lines = sys.argv[1:]
for line in lines:
    sys.argv = [program, *line.split()]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_module(program, run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    print(code)
"""


def test_surface_of_exit_codes_stays(tmp_path: Path, hold: Callable[[str, str], None]) -> None:
    """Each command ends with the code that is held, whether it succeeds, is misused, or finds nothing to work on."""
    pytest.importorskip("torch", reason="most of these commands train or export")
    calls = {
        "lengthwise": ["help", "version", "nothing"],
        "lengthwise keys": ["--help", "--no-such-flag"],
        "lengthwise inspect": ["nothing.onnx"],
        "lengthwise check": ["nothing.onnx"],
        "lengthwise encode": ["nothing -o out"],
        "service": ["--help", "--no-such-flag", "--port=x", "--model=nothing.onnx"],
        "model train": ["--help", "--no-such-flag"],
        "model evaluate": ["--help", "nothing"],
        "model report": ["--help", "nothing"],
        "export": ["--help", "nothing -o out.onnx"],
    }
    begun = {
        command: subprocess.Popen(
            [
                sys.executable,
                "-c",
                ENDS,
                *command.split()[:1],
                *(" ".join([*command.split()[1:], line]) for line in lines),
            ],
            stdout=PIPE,
            stderr=DEVNULL,
            text=True,
            env={"HOME": str(tmp_path)},
        )
        for command, lines in calls.items()
    }
    ends = {command: process.communicate()[0].split() for command, process in begun.items()}
    hold(
        "exit-codes.txt",
        "".join(
            f"python -m {command} {line}: {code}\n"
            for command, lines in calls.items()
            for line, code in zip(lines, ends[command], strict=True)
        ),
    )


def describe_call(name: str, member: object) -> str:
    """Write a method with its arguments; their types are in the source, and some are long where numpy names them."""
    if not isinstance(member, FunctionType):
        return f"  {name}"
    bare = [one.replace(annotation=one.empty) for one in inspect.signature(member).parameters.values()]
    return f"  {name}{inspect.Signature(bare)}"


def describe_class(kind: type) -> list[str]:
    """List what a class offers: its bases, attributes and methods."""
    fields = [name for name in inspect.get_annotations(kind) if not name.startswith("_")]
    members = {name: member for name, member in vars(kind).items() if not name.startswith("_") or name == "__init__"}
    methods = [describe_call(name, member) for name, member in members.items() if name not in fields]
    title = f"class {kind.__name__}({', '.join(base.__name__ for base in kind.__bases__)})"
    return [title, *(f"  {name}" for name in sorted(fields)), *sorted(methods)]


def test_surface_of_the_client_stays(hold: Callable[[str, str], None]) -> None:
    """The client's classes, methods and arguments are the ones that are held."""
    client = importlib.import_module("lengthwise_client")
    members = [getattr(client, name) for name in sorted(client.__all__)]
    lines = [
        line
        for member in members
        for line in (describe_class(member) if isinstance(member, type) else [describe_call(member.__name__, member)])
    ]
    hold("client.txt", re.sub(r"<(?:built-in )?function (\w+)(?: at \w+)?>", r"\1", "\n".join(lines)) + "\n")
