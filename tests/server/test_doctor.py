"""`lengthwise doctor`: what a bug report needs."""

import os
import socket
from pathlib import Path

import pytest

from service import __version__
from service.server import doctor

KEY = "a-key-that-is-never-shown"


def examine(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, tuple[str, bool]]:
    """Return what is said of each thing, and whether the service can start with it."""
    for name, value in {"LENGTHWISE_PORT": "0", **variables}.items():
        monkeypatch.setenv(name, value)
    return {name: (said, is_good) for name, said, is_good in doctor.examine()}


def test_doctor_says_what_is_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, providers, CPUs, memory, the model, the port and the telemetry each have a line, and all is well."""
    said = examine(monkeypatch)
    assert all(is_good for _, is_good in said.values())
    assert said["lengthwise"][0].startswith(f"{__version__}, in ")
    assert "onnxruntime " in said["packages"][0]
    assert "CPUExecutionProvider" in said["providers"][0]
    assert said["telemetry"][0] == "off"
    assert " may be kept busy, of " in said["CPUs"][0]
    assert said["model"][0].endswith(" (the shipped one)")
    assert said["port"][0] == "127.0.0.1:0 is free"
    with pytest.raises(SystemExit) as ended:
        doctor.main([])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) == len(said)


def test_doctor_shows_no_value_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are named, misspelt ones as such, and keys stay secret."""
    said = examine(monkeypatch, LENGTHWISE_API_KEYS=KEY, LENGTHWISE_APIKEYS=KEY)
    assert said["variables"][0].startswith("LENGTHWISE_APIKEYS (there is no such setting), LENGTHWISE_API_KEYS, ")
    assert KEY not in str(said)


def test_doctor_says_what_keeps_the_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A taken port and a model that is not there are marked, and the exit code is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = examine(monkeypatch, LENGTHWISE_PORT=str(taken.getsockname()[1]), LENGTHWISE_MODEL="nothing.onnx")
        with pytest.raises(SystemExit) as ended:
            doctor.main([])
    assert said["port"][0].endswith(" cannot be listened on: Address already in use")
    assert said["model"] == ("nothing.onnx is not there", False)
    assert ended.value.code == 1
    assert capsys.readouterr().out.count("<- the service cannot start") == 2


def test_doctor_finds_a_port_free_if_the_service_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host's addresses, one of IPv6 that this machine lacks is passed over."""
    found = [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    infos = [(family, socket.SOCK_STREAM, 0, "", address) for family, address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    assert examine(monkeypatch)["port"] == ("127.0.0.1:0 is free", True)


def test_doctor_says_what_a_user_without_a_home_or_rights_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither keeps it from telling all else: a container's user has no home, and its folders may be another's."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is without a home
    assert examine(monkeypatch)["cache"][0].endswith("cannot be written, since the user has no home")
    monkeypatch.undo()
    hidden = tmp_path / "hidden"

    def permit(path: Path, asked: int) -> bool:
        return path != hidden and not (asked & os.W_OK) and hidden not in path.parents

    monkeypatch.setattr(os, "access", permit)
    said = examine(monkeypatch, LENGTHWISE_CACHE_DIR=str(hidden / "cache"), LENGTHWISE_MODEL=str(hidden / "made.onnx"))
    assert said["cache"] == (f"{hidden}/cache, cannot be written", True)
    assert said["model"] == (f"{hidden}/made.onnx is not there", False)
    monkeypatch.setattr(os, "access", lambda _, asked: asked == os.F_OK)
    assert examine(monkeypatch)["model"] == (f"{hidden}/made.onnx cannot be read", False)


def test_doctor_says_which_setting_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that contradict each other are one line, and what would follow from them is left out."""
    said = examine(monkeypatch, LENGTHWISE_RUNNERS="none")
    assert said["settings"][0].startswith("runners ")
    assert not said["settings"][1]
    assert "port" not in said
