"""What keeps strangers and the slow away from the service, and its insides from them."""

import asyncio
import re
import socket
import ssl
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bench.load.launch import start_service
from service.__main__ import main
from service.api.routing import read_body
from service.app import create_app
from service.errors import BodyTooSlow
from service.server.transport import WatchingProtocol
from service.settings import Settings
from tests.api.test_encode import PAIR, Serve
from tests.api.test_keys import FIRST, bearing
from tests.api.test_stream import Stream, write_lines
from tests.listening import listen

ORIGIN = "https://pages.example"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_pages_of_other_origins_are_not_let_in(serve: Serve) -> None:
    """By default no answer allows a browser to show it to another origin's page."""
    client = serve()
    answers = [
        client.options("/encode", headers=PREFLIGHT),
        client.post("/encode", json={"sequences": PAIR}, headers={"Origin": ORIGIN}),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answers[0].status_code == 405


def test_pages_of_named_origins_are_let_in(serve: Serve) -> None:
    """They may send keys and read every header, of direct routes and of others; unnamed ones may not."""
    client = serve(cors_origins=f"{ORIGIN}, http://localhost:3000", api_keys=FIRST)
    allowed = client.options("/encode", headers=PREFLIGHT)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    for path in ("/info", "/openapi.json", "/nowhere"):
        answer = client.get(path, headers={"Origin": "http://localhost:3000", **bearing(FIRST)})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    stranger = client.get("/info", headers={"Origin": "https://other.example", **bearing(FIRST)})
    assert "access-control-allow-origin" not in stranger.headers
    assert client.options("/encode", headers={**PREFLIGHT, "Origin": "https://other.example"}).status_code == 400
    refused = client.post("/encode", headers={"Origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


@pytest.mark.parametrize("text", ["pages.example", "https://pages.example/", "https://a.example https://b.example"])
def test_an_origin_is_scheme_and_host(text: str) -> None:
    """What no browser would ever send as one ends the start."""
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=text)


@pytest.mark.parametrize(
    ("method", "path", "broken"),
    [
        ("POST", "/encode", "service.codecs.json.ragged.parse_plain"),
        ("POST", "/v1/embeddings", "service.codecs.json.openai.parse_fields"),
        ("POST", "/v2/models/made/infer", "service.codecs.kserve.tensors.read"),
        ("GET", "/info", "service.api.endpoints.operations.platform.python_version"),
        ("GET", "/openapi.json", "service.api.fallback.get_openapi"),
    ],
)
def test_no_answer_tells_of_the_insides(
    method: str, path: str, broken: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was not foreseen is a 500 that names neither the error nor its text, on every kind of route."""
    client = serve()

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a secret of the insides")

    monkeypatch.setattr(broken, fail)
    response = client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 500
    told = response.text + str(response.headers)
    assert not [word for word in ("secret", "RuntimeError", "Traceback", ".py") if word in told]


def test_a_body_that_stalls_is_refused() -> None:
    """When its time is up it is refused, and what was read of it is let go."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(BodyTooSlow, match="`body_timeout_seconds`"):
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 10, 0))


def connect(address: str) -> socket.socket:
    """Open a connection that fails rather than hangs."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the service closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


class Impatient(WatchingProtocol):
    """Looks at its connections often, and takes small heads only."""

    look_seconds = 0.05
    head_bytes = 1000


HEAD = b"GET /info HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("part", [b"", b"{"], ids=["none of it", "a part"])
def test_a_stalled_body_is_408_and_ends_the_connection(part: bytes, artifact: Path) -> None:
    """Over a socket: the answer comes by itself, and the connection is closed."""
    app = create_app(Settings(model=artifact, body_timeout_seconds=1))
    with listen(app, http=Impatient) as address, closing(connect(address)) as connection:
        connection.sendall(b"POST /encode HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n" + part)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:lengthwise:problem:body-too-slow" in answer


@pytest.mark.parametrize("sent", [b"", b"GET /inf", HEAD], ids=["nothing", "line", "head"])
def test_slow_connections_are_closed(sent: bytes, artifact: Path) -> None:
    """A connection that sends nothing, or half a head, is closed."""
    app = create_app(Settings(model=artifact))
    with listen(app, http=Impatient) as address, closing(connect(address)) as connection:
        connection.sendall(sent)
        read_to_end(connection)


@pytest.mark.parametrize(
    ("sent", "status", "more"),
    [
        (b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n", 200, b"\r\n"),
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n12", 404, b"3"),
    ],
    ids=["a blank line", "a refused body"],
)
def test_what_nobody_waits_for_keeps_no_connection(sent: bytes, status: int, more: bytes, artifact: Path) -> None:
    """It stops the clock of idle connections, and another one closes them."""
    app = create_app(Settings(model=artifact))
    with listen(app, http=Impatient) as address, closing(connect(address)) as connection:
        connection.sendall(sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 %d " % status)
        connection.sendall(more)
        read_to_end(connection)


async def _answer_at_length(_request: Request) -> PlainTextResponse:
    return PlainTextResponse(b"." * ANSWER_BYTES)


ANSWER_BYTES = 40 * 2**20  # more than the kernel holds for a reader


class Sparing(WatchingProtocol):
    """Looks at its connections, and tells when one has ended."""

    look_seconds = 0.5
    ended = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell of it."""
        super().connection_lost(exc)
        self.ended.set()


@pytest.mark.parametrize("reads", [False, True])
def test_who_does_not_read_an_answer_keeps_no_connection(reads: bool) -> None:  # noqa: FBT001
    """Nor its memory; who reads slowly gets all of it."""
    Sparing.ended.clear()
    app = Starlette(routes=[Route("/", _answer_at_length)])
    with listen(app, http=Sparing, keep_alive_seconds=1) as address, closing(connect(address)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        if not reads:
            assert Sparing.ended.wait(60)
            return
        size = 0
        while size < ANSWER_BYTES and (part := connection.recv(2**20)):
            size += len(part)
            time.sleep(0.01)
        assert size >= ANSWER_BYTES


def test_who_reads_a_stream_last_is_told_what_was_dropped(artifact: Path) -> None:
    """While it waits to send and the service waits for it to read nothing moves; that alone ends no connection."""
    app = create_app(Settings(model=artifact, keep_alive_seconds=2))
    lines = b"".join(write_lines([2] * 100))
    with listen(app, http=Impatient, keep_alive_seconds=2) as address:
        stream = Stream(f"http://{address}", window_bytes=4096)
        for _ in range(2000):
            stream.send(lines)
        stream.end()
        *_, last = stream.answers()
    assert last["problem"]["type"] == "urn:lengthwise:problem:reader-stalled"


async def _wait_long(_request: Request) -> PlainTextResponse:
    await asyncio.sleep(0.5)  # ten looks of the protocol's
    return PlainTextResponse("done")


def test_a_slow_answer_closes_no_connection() -> None:
    """While the service works, a connection waits, however often it is looked at; and idle ones have their own time."""
    app = Starlette(routes=[Route("/", _wait_long)])
    with listen(app, http=Impatient) as address, httpx.Client(base_url=f"http://{address}") as client:
        for _ in range(2):
            assert client.get("/", timeout=60).text == "done"


def test_a_head_that_does_not_end_is_cut_off(artifact: Path) -> None:
    """Headers over the limit are refused as they come, before any route."""
    with (
        listen(create_app(Settings(model=artifact)), http=Impatient) as address,
        closing(connect(address)) as connection,
    ):
        connection.sendall(HEAD)
        try:
            for _ in range(10_000):
                connection.sendall(b"x-more: " + b"y" * 200 + b"\r\n")
            answer = read_to_end(connection)
        except (BrokenPipeError, ConnectionResetError):
            return
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_tls_is_spoken_with_the_given_certificate(
    artifact: Path, certificate: tuple[Path, Path], processes: str
) -> None:
    """Clients that trust it are answered, whatever they offer to speak; nothing older than TLS 1.2 is spoken."""
    file, key = map(str, certificate)
    flags = ("--ssl-certfile", file, "--ssl-keyfile", key, "--processes", processes)
    with start_service("--model", str(artifact), *flags) as (_, url):
        trusting = ssl.create_default_context(cafile=file)
        assert url.startswith("https://")
        for offer in ({}, {"Connection": "Upgrade", "Upgrade": "h2c"}):
            response = httpx.post(f"{url}/encode", json={"sequences": PAIR}, headers=offer, verify=trusting)
            assert response.status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        old = ssl.create_default_context(cafile=file)
        old.set_ciphers("DEFAULT@SECLEVEL=0")  # at other levels it would refuse to try
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError, match=r"EOF|protocol version"):
            httpx.get(url, verify=old)


def test_a_certificate_that_cannot_be_read_ends_the_start(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process exits with a sentence that names the file; a key without a certificate is a wrong setting."""
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(SystemExit, match=r"TLS cannot be spoken with .*missing\.pem"):
        main(["--model", str(artifact), "--processes", "1", "--ssl-certfile", missing])
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--ssl-keyfile", missing])
    assert "without ssl_certfile" in capsys.readouterr().err


THREAT_MODEL = Path("docs/operate/security.md").read_text(encoding="utf-8")
THREATS = re.findall(r"`(test_\w+)`", THREAT_MODEL)


def test_each_threat_has_a_test_that_exists() -> None:
    """The threat model names real tests, and every row of it at least one."""
    there = {
        name
        for path in Path("tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert THREATS
    assert set(THREATS) <= there
    rows = [line for line in THREAT_MODEL.splitlines() if line.startswith("| ")]
    assert [row for row in rows[2:] if "`test_" not in row and "not covered" not in row] == []


def test_the_threat_model_names_settings_that_exist() -> None:
    """Each variable in it is a setting."""
    named = re.findall(r"LENGTHWISE_(\w+)", THREAT_MODEL)
    assert {name.lower() for name in named} <= set(Settings.model_fields)
