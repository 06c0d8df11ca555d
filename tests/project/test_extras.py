"""Programs if no extra is installed: each says in one sentence what it lacks."""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bench.__main__ import EVERY
from model.__main__ import PROGRAMS as LEARNING

PROGRAMS = {"export"} | {f"model {name}" for name in LEARNING} | {f"bench {name}" for name in EVERY}
# These begin with what the service needs; some run `bench models` later.
SERVING_ONLY = {
    f"bench {name}"
    for name in (
        [
            "chaos",
            "cost",
            "fairness",
            "gpu",
            "ledger",
            "many",
            "multiplied",
            "overload",
            "path",
            "replicas",
            "schedule",
            "soak",
        ]
    )
}

# Python imports it before anything else, if it finds it.
SITECUSTOMIZE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of an environment in which nothing but requirements.lock can be imported."""
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    locked = {name.replace("-", "_") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    refused = {"torch", "onnx", "httpx", "pyarrow", "sklearn"} | {
        module
        for module, packages in packages_distributions().items()
        if not {re.sub(r"[-.]", "_", package).lower() for package in packages} & locked
    }
    assert not {"numpy", "onnxruntime"} & refused
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(refused=refused), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def start(program: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    command = [sys.executable, "-m", *program.split(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("program", sorted(PROGRAMS - SERVING_ONLY))
def test_a_program_names_the_extra_it_lacks(program: str, bare: dict[str, str]) -> None:
    """It ends in failure with one line: what is missing, which extra brings it, and the command that installs it."""
    ended = start(program, bare, "--help")
    name = program.partition(" ")[0]
    extra = {"model": "train", "export": "export", "bench": "bench"}[name]
    verb = "" if extra == "bench" else "run `make install` and use \\.venv/bin/python, or "
    sentence = (
        rf"{name}: \w+ is not installed; the extra '{extra}' brings it: {verb}\S+ -m pip install '\.\[{extra}\]'\n"
    )
    assert re.fullmatch(sentence, ended.stderr), ended.stderr
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize("program", ["bench chaos", "bench overload"])
def test_a_program_whose_part_lacks_an_extra_says_no_more(program: str, bare: dict[str, str], tmp_path: Path) -> None:
    """The program that makes the models has said what is missing; the one that started it ends without a traceback."""
    ended = start(program, bare, "--folder", str(tmp_path))
    assert re.fullmatch(r"bench: torch is not installed; .*\n", ended.stderr), ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize("program", sorted(SERVING_ONLY))
def test_a_program_that_needs_no_extra_starts_without_one(program: str, bare: dict[str, str]) -> None:
    """Its command line is described."""
    ended = start(program, bare, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "usage:" in ended.stdout


@pytest.mark.parametrize("program", ["export", "bench models"])
def test_an_export_needs_nothing_that_training_alone_brings(program: str, tmp_path: Path) -> None:
    """Whoever installs the extra `export` has all that it takes."""
    refused = {"lightning_fabric", "matplotlib", "scipy", "sklearn", "sktime", "tqdm"}
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(refused=refused), encoding="utf-8")
    ended = start(program, {**os.environ, "PYTHONPATH": str(tmp_path)}, "--help")
    assert ended.returncode == 0, ended.stderr


def test_the_example_of_own_data_names_the_verb_it_lacks(bare: dict[str, str]) -> None:
    """It is a script, and says for itself what installs what it needs."""
    command = [sys.executable, "examples/plaid.py"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=bare)
    assert ended.stderr.startswith("plaid: pyarrow is not installed: run `make install`")
    assert ended.returncode == 1


def test_other_missing_modules_keep_their_traceback(bare: dict[str, str], tmp_path: Path) -> None:
    """A module of our own that is missing is a defect, and what a user's own script lacks is not ours to explain."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(refused={"service"}), encoding="utf-8")
    ours = start("bench chaos", {**os.environ, "PYTHONPATH": str(tmp_path)}, "--help")
    command = [sys.executable, "-c", "import model, torch"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=False, env=bare)
    for ended, missing in ((ours, "service"), (theirs, "torch")):
        assert ended.stderr.startswith("Traceback")
        assert ended.stderr.endswith(f"No module named '{missing}'\n")
