"""The page "From the tutorials": its commands run as they stand there, on less data."""

import importlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import service  # noqa: F401 - it turns telemetry off before onnxruntime is imported
from export.__main__ import main as export_main
from model.data.catalogue import DATASETS
from model.data.datasets import Dataset
from model.training.train import main as train_main

PAGE = Path("docs/guides/tutorials.md").read_text(encoding="utf-8")
SERVES = "lengthwise serve --model "  # held by other tests, which serve such files
PROGRAMS: dict[str, Callable[[list[str]], None]] = {"train": train_main, "export": export_main}
SECTIONS = {
    title: re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for title, _, text in (part.partition("\n") for part in PAGE.split("\n## "))
}
COMMANDS = {title: "".join(blocks).splitlines() for title, blocks in SECTIONS.items() if blocks}


def shrink(load: Callable[[], Dataset]) -> Dataset:
    """Keep some sequences of a data set."""
    whole = load()
    some = np.random.default_rng(0).permutation(len(whole.train))[:60]
    return replace(whole, train=whole.train.subset(some), test=whole.test.subset(np.arange(20)), longer=None)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, with data sets of a few sequences."""
    for name, load in [*DATASETS.items()]:
        monkeypatch.setitem(DATASETS, name, partial(shrink, load))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_file(path: Path) -> Any:
    """Open an exported file as anyone would."""
    return importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])


def run(line: str) -> None:
    """Run a line of a shell: one that writes a recipe, or one that trains for an epoch or exports."""
    if written := re.fullmatch(r"echo '(.*)' > (\S+)", line):
        Path(written[2]).write_text(written[1], encoding="utf-8")
        return
    command, name, *arguments = shlex.split(line)
    assert command == "lengthwise"
    if name == "train":
        arguments += ["--epochs", "1", *(["--seeds", "1"] if "--seeds" in arguments else [])]  # the last one counts
    PROGRAMS[name](arguments)


def test_the_page_has_all_five() -> None:
    """Each tutorial has commands of its own, and a result."""
    titles = ["dynamic_rnn with lengths", "bidirectional_dynamic_rnn", "The average of the outputs", "Many-to-one"]
    assert [*COMMANDS] == [*titles, "A language model"]
    assert PAGE.count("**Result:**") == len(COMMANDS)


@pytest.mark.parametrize("title", COMMANDS)
def test_its_commands_run(title: str, small: Path) -> None:
    """Every command trains or exports; each file that is exported carries a proof that holds."""
    lines = [line for line in COMMANDS[title] if not line.startswith(SERVES)]
    for line in lines:
        run(line)
    exported = re.findall(r"-o (\S+)", "\n".join(lines))
    served = re.findall(rf"{SERVES}(\S+)", "\n".join(COMMANDS[title]))
    assert set(served) <= set(exported)
    for path in exported:
        claims = json.loads(open_file(small / path).get_modelmeta().custom_metadata_map["lengthwise"])["parity"]
        assert claims
        assert all(claim["max_difference"] <= claim["tolerance"] for claim in claims)
    assert exported or (small / "runs").is_dir()


def test_steps_and_state_are_those_of_dynamic_rnn(small: Path) -> None:
    """Outputs are zero past a sequence's end, and the state is the output of its last real step."""
    lines = COMMANDS["dynamic_rnn with lengths"]
    for line in lines:
        if not line.startswith(SERVES):
            run(line)
    draw = np.random.default_rng(0)
    lengths = np.array([5, 2, 1])
    feed = {"sequences": draw.standard_normal((3, 7, 3)).astype(np.float32), "lengths": lengths}
    steps, state = open_file(small / "runs/lstm.onnx").run(["steps", "state_h"], feed)
    for row, length in enumerate(lengths):
        assert not steps[row, length:].any()
        assert np.array_equal(state[row].ravel(), steps[row, length - 1])


def test_the_average_is_that_of_the_real_steps() -> None:
    """The function on the page averages each row's own steps, whatever is in the padding; an empty row is zero."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the page's own
    draw = np.random.default_rng(0)
    outputs: npt.NDArray[np.float64] = draw.standard_normal((4, 6, 3))
    lengths = np.array([6, 3, 1, 0])
    expected = [outputs[row, :length].mean(axis=0) if length else np.zeros(3) for row, length in enumerate(lengths)]
    for row, length in enumerate(lengths):
        outputs[row, length:] = np.nan
    assert np.allclose(names["average"](outputs, lengths), expected, rtol=0, atol=1e-15)
