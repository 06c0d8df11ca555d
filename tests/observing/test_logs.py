"""Log lines: one a request, JSON for machines, words for people."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.testclient import TestClient

from service.observing import logs
from service.observing.counts import HUNG_UP, Exchange
from service.settings import Form
from tests.api.test_encode import PAIR

Serve = Callable[..., TestClient]


def read_lines(client: TestClient, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged since the last look."""
    client.get("/metrics")  # which settles what was noted
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    client.app.state.service.telemetry.settle()  # type: ignore[attr-defined]
    capsys.readouterr()  # of this look itself
    return lines


def test_a_request_is_one_line(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the request, what was in it, where its time went and what came of it, and nothing of its numbers."""
    client = serve(log_format="json")
    client.post("/encode", json={"sequences": PAIR}, headers={"X-Request-Id": "mine-1"})
    (line,) = read_lines(client, capsys)
    times = {name: line.pop(name) for name in list(line) if name.endswith("_ms")}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", line.pop("timestamp"))
    assert line == {
        "event": "Request",
        "level": "info",
        "request_id": "mine-1",
        "method": "POST",
        "route": "/encode",
        "status": 200,
        "outcome": "answered",
        "model": "made",
        "sequences": 2,
        "steps": 4,
    }
    total = times.pop("total_ms")
    assert set(times) == {"decode_ms", "queue_ms", "run_ms", "encode_ms"}
    assert 0 < sum(times.values()) <= total + 0.002  # each is rounded to 0.001


@pytest.mark.parametrize(
    ("method", "path", "status", "outcome"),
    [
        ("POST", "/encode", 422, "malformed-json"),
        ("GET", "/encode", 405, "refused"),
        ("GET", "/nowhere%0A{}", 404, "refused"),
    ],
)
def test_what_is_refused_says_why(
    method: str, path: str, status: int, outcome: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outcome is the problem's name, and a path nobody documented is not repeated."""
    client = serve(log_format="json")
    client.request(method, path)
    (line,) = read_lines(client, capsys)
    assert (line["status"], line["outcome"], line["level"]) == (status, outcome, "info")
    assert line["route"] == ("/encode" if outcome == "malformed-json" else "other")
    assert "steps" not in line


def test_levels_choose_among_requests(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Failures are warnings, probes and scrapes are for debugging; with `log_requests` off there is no line."""

    def visit(**settings: object) -> list[str]:
        client = serve(log_format="json", **settings)
        for path in ("/health/live", "/metrics", "/v1/models"):
            client.get(path)
        client.app.state.service.is_draining = True  # type: ignore[attr-defined]
        client.get("/health/ready")
        return [line["route"] for line in read_lines(client, capsys)]

    assert visit(log_level="debug") == ["/health/live", "/metrics", "/v1/models", "/health/ready"]
    assert visit(log_level="info") == ["/v1/models", "/health/ready"]
    assert visit(log_level="warning") == ["/health/ready"]
    assert visit(log_requests=False) == []


def test_people_read_words(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """In the human form a line has the same fields, and is no JSON."""
    client = serve(log_format="human")
    client.post("/encode", json={"sequences": PAIR})
    client.get("/metrics")
    written = capsys.readouterr().err
    assert "status=200" in written
    assert "sequences=2" in written
    assert not written.startswith("{")


@pytest.mark.parametrize(
    ("form", "reader", "is_json"),
    [
        ("auto", "a person", False),
        ("auto", "a machine", True),
        ("json", "a person", True),
        ("human", "a machine", False),
    ],
)
def test_a_terminal_is_for_people(form: Form, reader: str, is_json: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the setting says otherwise, who reads decides."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: reader == "a person")
    assert logs.is_json(form) == is_json


def test_a_traceback_stays_in_its_line() -> None:
    """The record of an exception is one document, with the traceback as a string."""
    options = logs.configure("info", "json")["formatters"]["line"]
    formatter = structlog.stdlib.ProcessorFormatter(**{name: options[name] for name in options if name != "()"})
    try:
        raise ValueError("broken")  # noqa: TRY301 - its traceback is what is looked at
    except ValueError:
        record = logging.LogRecord("lengthwise", logging.ERROR, __file__, 1, "Request %s", ("a",), sys.exc_info())
    line = json.loads(formatter.format(record))
    assert (line["event"], line["level"]) == ("Request a", "error")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: broken")


def test_the_process_writes_nothing_but_json(artifact: Path) -> None:
    """From its first line, uvicorn's own among them."""
    command = [sys.executable, "-m", "service", "--port", "0", "--model", str(artifact), "--processes", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    events = []
    try:
        for line in process.stderr:
            events.append(json.loads(line)["event"])
            if "running on" in events[-1]:
                break
    finally:
        process.terminate()
        events += [json.loads(line)["event"] for line in process.stderr]
        process.wait()
        process.stderr.close()
    assert events[0].startswith("Workers: 1")
    assert "made.onnx was tried in" in events[1]
    assert events[2].startswith("Serving made@1 on cpu")
    assert events[3].startswith("Started server process")
    assert events[-1].startswith("Finished server process")


@pytest.mark.parametrize(("level", "number"), [("info", 0), ("debug", 2)])
def test_a_hang_up_is_a_line_for_debugging(level: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether or not the answer had begun; nothing is wrong with the service."""
    begun = Exchange("1", "POST", "/encode", "made", 200, HUNG_UP)
    logs.RequestLog(level, "json").write([begun, Exchange("2", "POST", "/encode", problem=HUNG_UP)])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["outcome"]) for line in lines] == [("debug", "hung-up")] * number
