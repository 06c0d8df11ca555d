"""What may import what, and what never lands anywhere else."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import NEED_TORCH

# Folder, or a file that differs from its folder: the project's own top-level modules it may import.
ALLOWED = {
    "lengthwise": {"lengthwise"},
    "service": {"service"},
    "model": {"model"},
    "export": {"export", "model", "service"},
    "bulk": {"bulk", "lengthwise_client", "service"},
    "bench": {"bench", "bulk", "model", "service"},
    "bench/load/models.py": {"bench", "model", "export"},
    "client": {"lengthwise_client"},
}
OURS = {"lengthwise", "service", "model", "export", "bulk", "bench", "lengthwise_client", "tests"}
CACHED = "__pycache__"  # tests beside this one write there
NEVER_IN_SERVICE = {"torch", "onnx", "lightning_fabric", "sklearn", "sktime"}


def imports_of(path: Path) -> set[str]:
    """Return the top-level modules a file imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules.add((node.module or "").partition(".")[0])
    return modules


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_import_one_way(folder: str) -> None:
    """Each folder imports only what its row of the table allows."""
    files = list(Path(folder).rglob("*.py")) or [Path(folder)]
    for path in files:
        if str(path) in ALLOWED and str(path) != folder:
            continue  # it has a row of its own
        found = imports_of(path)
        assert found & OURS <= ALLOWED[folder], path
        assert folder != "service" or not found & NEVER_IN_SERVICE, path


# What the extra `test` does not bring.
LEARNING = ["torch", "lightning_fabric", "safetensors", "scipy", "sklearn", "sktime", "matplotlib", "h5py", "keras"]
IMPORT_WITHOUT_TORCH = f"import sys; sys.modules |= dict.fromkeys({LEARNING}); import pytest"


def test_only_tests_of_learning_and_exporting_need_torch() -> None:
    """Every test file that is not left out without torch is imported without it, and without what comes with it."""
    left_out = tuple(f"tests/{name}" for name in NEED_TORCH)
    assert {path.partition("/")[0] for path in NEED_TORCH} == {"model", "export", "project"}
    files = [file for file in sorted(Path("tests").rglob("test_*.py")) if not str(file).startswith(left_out)]
    modules = [".".join(file.with_suffix("").parts) for file in files]
    assert {"tests.server.test_processes", "tests.api.test_outputs", "tests.project.test_bench"} <= {*modules}
    imported = ", ".join([IMPORT_WITHOUT_TORCH, "tests.conftest", "tests.made", *modules])
    subprocess.run([sys.executable, "-c", imported], check=True, env={**os.environ, "PYTHONPATH": "client"})


SERVE_WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ImportError(f"the service imported {{name}}")

sys.meta_path.insert(0, Refuse())
from starlette.testclient import TestClient
from service.app import create_app
from service.settings import Settings

with TestClient(create_app(Settings())) as client:
    features = client.get("/info").json()["models"][0]["features"]
    response = client.post("/encode", json={{"sequences": [[[0.5] * features]]}})
    assert response.status_code == 200, response.text
print("encoded")
"""


def test_the_service_runs_where_torch_cannot_be_imported() -> None:
    """It starts, replays its golden vectors and encodes with torch and onnx out of reach."""
    script = SERVE_WITHOUT_TORCH.format(forbidden=NEVER_IN_SERVICE | {"model", "export"})
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout == "encoded\n", ran.stderr


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    """Whatever the environment says, importing the session leaves ONNX Runtime's telemetry disabled."""
    script = "import service.encoder.session, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout == "1\n"


def test_installing_the_project_installs_the_command_alone(tmp_path: Path) -> None:
    """The wheel that `pip install .` builds holds the command and what it runs: no `service` or `model` for anyone."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lengthwise-*.whl")
    names = {path for path in map(Path, zipfile.ZipFile(wheel).namelist()) if CACHED not in path.parts}
    assert {path.parts[0].rpartition(".")[2] for path in names} == {"lengthwise", "dist-info"}
    carried = {path.parts[2] for path in names if path.parts[:2] == ("lengthwise", "application")}
    assert carried == {"artifacts", "bulk", "export", "model", "service"}
    assert {path.relative_to("lengthwise/application") for path in names if path.parts[1] == "application"} == {
        path for folder in carried for path in Path(folder).rglob("*") if path.is_file() and CACHED not in path.parts
    }


def test_the_client_is_a_distribution_of_its_own(tmp_path: Path) -> None:
    """Its wheel holds its module, marked as typed, and the licence; without an extra it asks for httpx and numpy."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd="client")
    (wheel,) = tmp_path.glob("lengthwise_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        names = {name for name in archive.namelist() if not name.startswith(info)}
        metadata = archive.read(f"{info}/METADATA").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == Path("LICENSE").read_bytes()
    modules = {f"lengthwise_client/{path.name}" for path in Path("client/lengthwise_client").glob("*.py")}
    assert names == modules | {"lengthwise_client/py.typed", "lengthwise_client/open_inference.binpb"}
    needed = re.findall(r"^Requires-Dist: ([a-z]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needed) == ["httpx", "numpy"]


def test_the_installed_project_left_no_module_here() -> None:
    """This environment was made by `pip install .`, and outside the checkout our folders cannot be imported."""
    script = "import importlib.util as u; print([m for m in ('service', 'model', 'export') if u.find_spec(m)])"
    command = [sys.executable, "-P", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(("extra", "packages"), [("bulk", {"pyarrow", "rich"}), ("grpc", {"grpcio"})])
def test_the_lock_of_an_extra_adds_packages_and_changes_none(extra: str, packages: set[str]) -> None:
    """An image that encodes files, or speaks gRPC, serves with the same versions, and has what that needs."""
    serving, more = (
        {line.rstrip(" \\") for line in Path(file).read_text(encoding="utf-8").splitlines() if "==" in line}
        for file in ("requirements.lock", f"requirements-{extra}.lock")
    )
    assert serving < more
    assert packages <= {line.partition("==")[0] for line in more - serving}


def test_the_lock_pins_what_the_project_asks_for() -> None:
    """Every serving dependency is pinned with a hash, torch is not among them, and no registry is named."""
    for file in ("requirements.lock", "requirements-gpu.lock", "requirements-bulk.lock", "requirements-grpc.lock"):
        lock = Path(file).read_text(encoding="utf-8")
        pinned = {line.partition("==")[0] for line in lock.splitlines() if "==" in line and not line.startswith(" ")}
        needed = {"fastapi", "httptools", "numpy", "orjson", "protobuf", "pydantic", "pydantic-settings", "pysimdjson"}
        assert needed | {"uvicorn"} <= pinned
        assert any(name.startswith("onnxruntime") for name in pinned)
        assert "torch" not in pinned
        assert "://" not in lock
        assert lock.count("--hash=sha256:") >= len(pinned)
