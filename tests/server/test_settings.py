"""Settings: one class, two ways in, no contradictions."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.__main__ import main
from service.costs import calibrate
from service.observing.logs import find_log_format
from service.settings import SHIPPED_MODEL, Settings, unknown_variables

PAGE = Path("docs/reference/settings.md").read_text(encoding="utf-8")


def test_the_shipped_encoder_is_the_default() -> None:
    """Without settings the service serves the file in the repository, on this machine only."""
    settings = Settings()
    assert settings.model == SHIPPED_MODEL
    assert SHIPPED_MODEL.exists()
    assert settings.host == "127.0.0.1"
    assert (settings.runners, settings.threads) == (0, 0)


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LENGTHWISE_` and the name; an empty variable counts as unset."""
    monkeypatch.setenv("LENGTHWISE_MAX_BATCH_SEQUENCES", "7")
    monkeypatch.setenv("LENGTHWISE_EMPTY_SEQUENCES", "zero")
    monkeypatch.setenv("LENGTHWISE_PORT", "")
    settings = Settings()
    assert (settings.max_batch_sequences, settings.limits.empty_allowed, settings.port) == (7, True, 8000)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("max_sequence_steps", "max_batch_steps"),
        ("max_sequence_steps", "max_request_steps"),
        ("max_request_steps", "max_queue_steps"),
        ("max_text_characters", "max_request_characters"),
    ],
)
def test_contradictions_are_refused(small: str, large: str) -> None:
    """A limit no request could reach is a mistake, and the sentence names both settings."""
    with pytest.raises(ValidationError, match=rf"{small} is \d+, over {large}, which is 10"):
        Settings(**{large: 10})  # type: ignore[arg-type]


def test_a_kubernetes_service_link_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named lengthwise sets LENGTHWISE_PORT to an address in every pod; the default port stands."""
    monkeypatch.setenv("LENGTHWISE_PORT", "tcp://10.0.0.7:8000")
    assert Settings().port == 8000


def test_measurements_are_kept_where_the_user_keeps_such_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """`XDG_CACHE_HOME` moves the default; a folder that is named stands."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Settings().cache_dir == Path("~/.cache/lengthwise")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert Settings().cache_dir == Path("/var/cache/me/lengthwise")
    assert Settings(cache_dir=Path("mine")).cache_dir == Path("mine")


def test_misspelt_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that looks like a setting and is none is told, not passed over."""
    monkeypatch.setenv("LENGTHWISE_PROVIDR", "cuda")
    monkeypatch.setenv("LENGTHWISE_PROVIDER", "cpu")
    assert unknown_variables() == ["LENGTHWISE_PROVIDR"]


def test_a_kserve_runtimes_flags_are_taken() -> None:
    """They have underscores, and two of them other names; `--help` lists them, too."""
    settings = CliApp.run(Settings, cli_args=["--model_name=mine", "--model_dir=/mnt/models", "--http_port=8080"])
    assert (settings.model_name, settings.model, settings.port) == ("mine", Path("/mnt/models"), 8080)
    with pytest.raises(ValidationError, match="String should match pattern"):
        Settings(model_name="no/slash")


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` explains each setting and exits."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in printed for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "missing.onnx"], "missing.onnx cannot be served: it cannot be read"),
        (["--provider", "cuda"], ".*install onnxruntime-gpu"),
        (["--ssl-certfile", "missing.pem"], "TLS cannot be spoken with missing.pem: "),
    ],
)
def test_a_start_that_cannot_succeed_ends_in_a_sentence(arguments: list[str], sentence: str) -> None:
    """The process exits with the reason, without a traceback: a line of the log, or words for a person."""
    with pytest.raises(SystemExit, match=f"^lengthwise: {sentence}"):
        main([*arguments, "--processes=1", "--log-format=human"])
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--processes=1", "--log-format", "json"])
    line = json.loads(caught.value.code)  # type: ignore[arg-type]
    assert re.match(sentence, line["event"])
    assert line["level"] == "error"
    assert datetime.fromisoformat(line["timestamp"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "x"], "port should be a valid integer"),
        (["--port", "65536"], "port should be less than or equal to 65535\n"),
        (["--max-batch-steps", "5"], "max_sequence_steps is 8192, over max_batch_steps, which is 5\n"),
        (["--processes", "0"], "processes should be greater than or equal to 1, or should be 'auto'\n"),
        (["--model-name", "a b"], "model_name should match pattern '"),
    ],
)
@pytest.mark.parametrize("program", [main, calibrate.main], ids=["serve", "calibrate"])
def test_a_wrong_setting_is_named_and_ends_with_the_code_of_a_wrong_flag(
    program: Callable[[list[str]], None], arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what it should be; of several kinds, what each asks."""
    with pytest.raises(SystemExit) as caught:
        program([*arguments, "--log-format=human"])
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(f"lengthwise: {sentence}")
    assert told.count("\n") == 1


def test_a_wrong_setting_is_told_in_the_form_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """If that is JSON, the line is an object like all others."""
    with pytest.raises(SystemExit):
        main(["--port", "x", "--log-format", "json"])
    line = json.loads(capsys.readouterr().err)
    assert line["event"].startswith("port should be a valid integer")
    assert line["level"] == "error"


def test_the_form_of_the_last_line_is_found_though_settings_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over its variable, and what is neither form is left to the terminal."""
    assert find_log_format(["--port", "x"]) == "auto"
    monkeypatch.setenv("LENGTHWISE_LOG_FORMAT", "human")
    assert find_log_format(["--port", "x"]) == "human"
    assert find_log_format(["--log_format=json", "--port", "x"]) == "json"
    assert find_log_format(["--log-format", "xml"]) == "auto"


def test_what_nobody_foresaw_ends_the_start_in_the_log() -> None:
    """The traceback is inside one line of JSON, and the process exits with 1."""
    program = "import sys; from service.server import serve as main; main.create_app = None; main.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "--processes", "1", "--log-format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, line = map(json.loads, ended.stderr.splitlines())
    assert ended.returncode == 1
    assert line["event"] == "The service ended by what nobody foresaw"
    assert line["exception"].endswith("TypeError: 'NoneType' object is not callable")


def test_the_settings_page_is_the_settings_class() -> None:
    """Each setting's row holds its variable, its default and its description, and there are no others."""
    rows = dict(re.findall(r"^\| `LENGTHWISE_(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        expected[name.upper()] = f"{default} | {field.description}"
    assert rows == expected


def test_so_many_processes_are_a_slip() -> None:
    """Thousands of workers would take all of a machine's memory, so the number has a bound."""
    assert Settings(processes=256).processes == 256
    with pytest.raises(ValidationError, match="less than or equal to 256"):
        Settings(processes=257)
