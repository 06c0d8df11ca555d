"""The command `lengthwise`: its help, what shells complete, what it says of what is missing, and its installation."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from bench.load.launch import start_service
from lengthwise import __main__ as entry
from lengthwise import completion, extras
from lengthwise.commands import COMMANDS, EXIT_CODES
from service import __version__
from service.api import keys
from tests.waiting import wait_until


def ask(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the checkout, to its end."""
    line = [sys.executable, "-m", "lengthwise", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


def test_help_shows_every_command_with_an_example_and_every_exit_code() -> None:
    """It is shown with `help`, `--help`, `-h` and nothing, and each example is of its own command."""
    shown = ask("help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == ask().stdout == ask("--help").stdout == ask("-h").stdout
    for name, command in COMMANDS.items():
        assert f"  {name:<11}{command.summary}\n" in shown.stdout
        assert f"  {command.example}\n" in shown.stdout
        assert f"lengthwise {name}" in command.example
    assert re.findall(r"^  (\d+) ", shown.stdout, re.MULTILINE) == [str(code) for code in EXIT_CODES]


def test_help_of_a_command_begins_with_its_example() -> None:
    """What follows is the program's own help, whatever that program needs."""
    shown = ask("keys", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == ask("keys", "-h").stdout
    assert shown.stdout.endswith("\n")
    assert "usage: lengthwise ready" not in shown.stdout
    assert shown.stdout.startswith(
        "Make a key for a caller of the service, for example:\n\n  lengthwise keys keys.txt "
    )
    assert "\nusage: lengthwise keys [-h]" in shown.stdout


def test_the_command_imports_nothing_that_takes_time() -> None:
    """To show help, its own or a program's, it loads some modules of the standard library, and none of the program."""
    script = "import sys; kept = {*sys.modules}; from lengthwise.__main__ import main; main(['help'])\n"
    script += f"for name in {[*COMMANDS]}: main([name, '--help'])\n"
    script += "print(*sorted({*sys.modules} - kept), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert {"lengthwise", "lengthwise.__main__", "lengthwise.commands"} <= loaded
    slow = {"service", "numpy", "onnxruntime", "pydantic", "torch", "argparse", "asyncio", "dataclasses", "inspect"}
    assert not loaded & slow
    assert not {name for name in loaded if name.partition(".")[0] not in {"lengthwise", *sys.stdlib_module_names}}


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("trian --data x", 2, "'trian' is not a command, and 'train' is; `lengthwise help` lists them."),
        ("xyzzy", 2, "'xyzzy' is not a command; `lengthwise help` lists them."),
        ("keys nowhere/keys.txt", 1, "nowhere/keys.txt cannot be written: No such file or directory"),
        ("inspect nothing.onnx", 1, "nothing.onnx cannot be served: it cannot be read: No such file or directory."),
        ("serve --port 0 --model nothing.onnx", 1, "nothing.onnx cannot be served: it cannot be read: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(line: str, code: int, sentence: str) -> None:
    """One line on stderr, and the exit code that the help names."""
    ended = ask(*line.split(), LENGTHWISE_LOG_FORMAT="human", LENGTHWISE_LOG_LEVEL="warning")
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith(f"lengthwise: {sentence}")
    assert ended.stderr.count("\n") == 1
    assert code in EXIT_CODES


def test_version_is_the_projects() -> None:
    """`version` and `--version` print it."""
    for name in ("version", "--version"):
        assert ask(name).stdout == f"lengthwise {__version__}\n"


def test_what_is_interrupted_ends_with_the_exit_code_of_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in any program ends it as the help says, without a traceback."""

    def interrupt(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(keys, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        entry.main(["keys", "x"])
    assert ended.value.code == 130
    assert "Ctrl-C" in EXIT_CODES[130]


# Python imports it before anything else, if it finds it.
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{refused}":
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize(
    ("name", "missing", "said"),
    [
        ("train", "torch", "which the extra 'train' brings: {python} -m pip install '{root}[train]'"),
        ("export", "onnx", "which the extra 'export' brings: {python} -m pip install '{root}[export]'"),
        ("encode", "pyarrow", "which the extra 'bulk' brings: {python} -m pip install '{root}[bulk]'"),
        ("serve", "fastapi", "which every installation brings: {python} -m pip install '{root}'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_line_for_pip(
    name: str, missing: str, said: str, tmp_path: Path
) -> None:
    """The sentence names the command, the package, the extra and what pip installs."""
    if name == "export":
        pytest.importorskip("torch", reason="it is imported first")
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(refused=missing), encoding="utf-8")
    arguments = {"export": ["nothing", "-o", "x.onnx"], "encode": ["nothing.parquet", "-o", str(tmp_path / "x")]}
    ended = ask(name, *arguments.get(name, []), PYTHONPATH=str(tmp_path))
    wanted = said.format(python=sys.executable, root=Path.cwd())
    assert ended.stderr == f"lengthwise: {name} needs {missing}, {wanted}\n"
    assert ended.returncode == 1


def test_a_module_of_ours_that_is_missing_keeps_its_traceback(tmp_path: Path) -> None:
    """It is a defect, which pip cannot mend."""
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(refused="service"), encoding="utf-8")
    ended = ask("keys", "x", PYTHONPATH=str(tmp_path))
    assert ended.stderr.startswith("Traceback")


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"url": "file:///src/lengthwise", "dir_info": {}}, "lengthwise[train] @ file:///src/lengthwise"),
        (
            {"url": "https://example.org/l.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "lengthwise[train] @ git+https://example.org/l.git@abc",
        ),
        (None, "lengthwise[train]"),
    ],
)
def test_pip_is_told_where_the_installation_came_from(
    told: object, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry is asked by name only if the installation came from one."""
    record = tmp_path / "lengthwise-9.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: lengthwise\nVersion: 9\n")
    if told:
        (record / "direct_url.json").write_text(json.dumps(told))
    monkeypatch.syspath_prepend(tmp_path)
    assert extras.find_requirement("train", None) == wanted


ASK_BASH = """
eval "$0"
COMP_WORDS=(lengthwise "$@"); COMP_CWORD=$#; _lengthwise; echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], "report ready"),
        (["serve", "--max-b"], "--max-body-bytes --max-batch-sequences --max-batch-steps"),
        (["keys", "--"], "--help --name"),
        (["completion", ""], "bash zsh fish"),
        (["keys", "ke"], ""),  # then bash looks for files
    ],
)
def test_bash_completes_commands_and_flags(words: list[str], offered: str) -> None:
    """Its own function, called as bash calls it."""
    script = completion.write_bash(completion.read_flags())
    asked = ["bash", "-c", ASK_BASH, script, *words]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == f"{offered}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_reads_its_script_without_complaint(shell: str) -> None:
    """`lengthwise completion SHELL` prints what the shell can parse."""
    printed = ask("completion", shell)
    assert printed.returncode == 0
    assert all(name in printed.stdout for name in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here to parse it")
    parsed = subprocess.run([shell, "-n"], input=printed.stdout, capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
def test_fish_completes_commands_and_flags() -> None:
    """Fish itself is asked what it would offer."""
    script = completion.write_fish(completion.read_flags())
    for line, offered in (("lengthwise calib", "calibrate"), ("lengthwise keys --na", "--name")):
        asked = ["fish", "--no-config", "-c", f"{script}\ncomplete -C '{line}'"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert [one.partition("\t")[0] for one in found.splitlines()] == [offered]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the project's wheel, whose other packages are those of this one; the path of its command."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--no-compile", "--disable-pip-version-check", str(wheel)], check=True)
    (packages,) = (folder / "env").glob("lib/python3.*/site-packages")
    assert {path.name.partition("-")[0] for path in packages.iterdir()} == {"lengthwise"}
    (packages / "others.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    return folder / "env" / "bin" / "lengthwise"


def test_an_installation_serves_from_any_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves the artifact that it carries, and no name of a folder of ours can be imported."""
    monkeypatch.chdir(tmp_path)
    script = "import importlib.util as u; print(*(bool(u.find_spec(m)) for m in sys.argv[1:]))"
    ours = ["service", "model", "export", "bulk", "lengthwise"]
    asked = [str(installed.with_name("python")), "-c", f"import sys; {script}", *ours]
    assert subprocess.check_output(asked, text=True) == "False False False False True\n"
    with start_service(program=[str(installed), "serve"]) as (process, url):
        asked = [str(installed), "ready", str(process.pid)]
        ready = "The service is ready.\n"  # on a busy machine it may not have heard of a worker for a second
        wait_until(lambda: subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False).stdout == ready)
        said = httpx.get(f"{url}/info").json()
    assert [model["name"] for model in said["models"]] == ["japanese-vowels"]


def test_an_installation_trains_exports_and_encodes_from_any_folder(installed: Path, tmp_path: Path) -> None:
    """From a file of its user's to an artifact, its card and a file of embeddings."""
    pytest.importorskip("torch", reason="it trains")
    draw = np.random.default_rng(0)
    rows = [
        {"sequence": draw.normal(label, 1, (4 + label, 2)).round(3).tolist(), "label": label} for label in [0, 1] * 20
    ]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "small.json").write_text('{"encoder": {"hidden": 2}, "training": {"epochs": 1}}')
    for line in (
        "train --data mine.jsonl --recipe small.json --out run",
        "export run -o mine.onnx --name mine",
        "encode mine.jsonl -o out --model mine.onnx --format npy --quiet",
    ):
        ended = subprocess.run([installed, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    card = subprocess.run([installed, "inspect", "mine.onnx"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "\ntakes     sequences of any length, 2 numbers a step; " in card.stdout
    assert np.load(next((tmp_path / "out").glob("*.npy"))).shape == (40, 4)
