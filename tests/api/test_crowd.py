"""Too many connections: which one goes, who is answered all the same, and how the others are refused."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.load.launch import start_service
from service.api.crowd import SPARE, Crowd, allow_files
from service.api.front import Front
from service.app import create_app
from service.server.transport import WatchingProtocol
from service.settings import Settings
from tests.api.test_encode import PAIR
from tests.api.test_security import connect
from tests.listening import listen
from tests.waiting import wait_until

PROBES = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
BODY = json.dumps({"sequences": PAIR}).encode()
LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


class Guest:
    """A connection that is what a test says."""

    def __init__(self, *, is_busy: bool = False, is_unread: bool = False) -> None:
        self.is_busy = is_busy
        self.is_unread = is_unread
        self.is_open = True

    def hang_up(self) -> None:
        """Close it."""
        self.is_open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("service.api.crowd.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_the_connection_idle_longest_makes_room(clock: SimpleNamespace) -> None:
    """A busy one stays, and so does one whose answer is not read yet; what was asked again has been idle for less."""
    closed: list[str] = []
    crowd = Crowd(4, lambda: closed.append("idle"))
    busy, unread, asked, silent = Guest(is_busy=True), Guest(is_unread=True), Guest(), Guest()
    for guest in (busy, unread, asked, silent):
        assert not crowd.enter(guest)
    clock.now = 5.0
    crowd.rest(asked)
    clock.now = 7.0
    assert not crowd.enter(Guest())
    assert (silent.is_open, closed, len(crowd)) == (False, ["idle"], 4)
    assert not crowd.enter(Guest())
    assert not asked.is_open
    assert busy.is_open
    assert unread.is_open


def test_connections_in_use_make_no_room(clock: SimpleNamespace) -> None:
    """One that rests for less than a second may be about to ask: one more connection is then one too many."""
    crowd = Crowd(2)
    guests = [Guest(), Guest(is_busy=True)]
    for guest in guests:
        crowd.enter(guest)
    clock.now = 0.9
    assert crowd.enter(extra := Guest())
    assert all(guest.is_open for guest in (*guests, extra))
    crowd.leave(guests[1])
    assert not crowd.is_over


def test_connections_beyond_the_spare_ones_are_closed(clock: SimpleNamespace) -> None:
    """However short they rest, and read or not; never the one that has just come, and never a busy one."""
    crowd = Crowd(2)
    guests = [Guest(is_busy=True), Guest(is_busy=True), *(Guest(is_unread=True) for _ in range(SPARE + 3))]
    for guest in guests:
        crowd.enter(guest)
    assert clock.now == 0.0
    assert [guest.is_open for guest in guests] == [True, True, False, False, False, *[True] * SPARE]
    assert len(crowd) == 2 + SPARE
    for guest in guests:
        guest.is_unread = False
    crowd.leave(guests[0])
    clock.now = 1.0
    assert not crowd.enter(Guest())  # all that are idle make room at once, so that this one is served
    assert len(crowd) == 2


def test_the_newest_is_closed_if_all_others_are_busy(clock: SimpleNamespace) -> None:
    """Beyond the spare ones there is no room for anybody, so that no number of busy connections uses up all files."""
    crowd = Crowd(2)
    busy = [Guest(is_busy=True) for _ in range(2 + SPARE)]
    for guest in busy:
        crowd.enter(guest)
    assert clock.now == 0.0
    crowd.enter(newest := Guest())
    assert not newest.is_open
    assert all(guest.is_open for guest in busy)


def read_metric(url: str, name: str, **labels: str) -> float:
    """Return a metric, of all processes together."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"lengthwise_{name}"]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("sent", [b"", b"GET /inf", LIVE], ids=["nothing", "half a head", "a request"])
def test_idle_connections_keep_nobody_out(artifact: Path, processes: str, sent: bytes) -> None:
    """Over five times as many as may be open: probes are answered at once, others within seconds, the oldest goes."""
    flags = ("--model", str(artifact), "--max-connections", "20", "--processes", processes)
    with start_service(*flags) as (_, url), ExitStack() as opened:
        idle = []
        for _ in range(110):
            idle.append(connection := opened.enter_context(closing(connect(url.removeprefix("http://")))))
            connection.sendall(sent)
        for path in PROBES:
            assert httpx.get(f"{url}{path}").status_code == 200
        wait_until(lambda: httpx.post(f"{url}/encode", content=BODY).status_code == 200)
        while idle[0].recv(2**16):
            pass  # its answer, if it asked
        wait_until(
            lambda: read_metric(url, "closed_connections_total", why="idle") >= 110 - 20 - SPARE * int(processes)
        )
        wait_until(lambda: read_metric(url, "connections") <= 20 + SPARE * int(processes))


@contextmanager
def listen_to(app: Front) -> Iterator[str]:
    """Serve an app as `python -m service` does."""
    service = app.state.service
    with listen(app, http=partial(WatchingProtocol, crowd=service.crowd, unread=service.unread)) as address:
        yield address


def ask(address: str, method: str, path: str) -> tuple[HTTPResponse, Any]:
    """Ask on a new connection, and return the answer and its document."""
    with closing(HTTPConnection(address, timeout=60)) as connection:
        connection.request(method, path, BODY if method == "POST" else None, {"X-Request-Id": "mine"})
        response = connection.getresponse()
        body = response.read()
        return response, json.loads(body) if path != "/metrics" else body.decode()


HALF = b"POST /encode HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"


@pytest.fixture
def full(artifact: Path) -> Iterator[tuple[str, list[socket.socket]]]:
    """A service whose two connections are busy, and these."""
    app = create_app(Settings(model=artifact, max_connections=2))
    with listen_to(app) as address, ExitStack() as opened:
        busy = [opened.enter_context(closing(connect(address))) for _ in range(2)]
        for connection in busy:
            connection.sendall(HALF)
        wait_until(lambda: app.state.service.telemetry.inflight == 2)
        yield address, busy


@pytest.mark.parametrize(
    ("method", "path", "place"),
    [
        ("POST", "/encode", lambda problem: problem["detail"]),
        ("GET", "/nowhere", lambda problem: problem["detail"]),
        ("GET", "/info", lambda problem: problem["detail"]),
        ("POST", "/v1/embeddings", lambda problem: problem["error"]["message"]),
        ("POST", "/v2/models/made/infer", lambda problem: problem["error"]),
    ],
)
def test_a_connection_too_many_is_refused_in_its_dialect(
    full: tuple[str, list[socket.socket]], method: str, path: str, place: Any
) -> None:
    """With when to come again, the request's id, and the setting; it is counted, and the connection is closed."""
    address, _ = full
    response, problem = ask(address, method, path)
    assert response.status == 503
    assert "(LENGTHWISE_MAX_CONNECTIONS)" in place(problem)
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")
    assert (headers["x-request-id"], headers["connection"]) == ("mine", "close")
    if place(problem) is problem.get("detail"):
        assert headers["content-type"] == "application/problem+json"
        assert problem["type"] == "urn:lengthwise:problem:too-many-connections"
        assert (problem["limit"], problem["setting"]) == (2, "LENGTHWISE_MAX_CONNECTIONS")
    assert read_metric(f"http://{address}", "rejected_total", reason="too-many-connections") == 1


def test_health_answers_while_all_connections_are_busy(full: tuple[str, list[socket.socket]]) -> None:
    """So do readiness and metrics; and once a connection has ended, others are served in its place."""
    address, busy = full
    for path in PROBES:
        assert ask(address, "GET", path)[0].status == 200
    assert ask(address, "POST", "/encode")[0].status == 503
    busy[0].close()
    wait_until(lambda: ask(address, "POST", "/encode")[0].status == 200)


def test_an_extra_connection_is_served_once_there_is_room(full: tuple[str, list[socket.socket]]) -> None:
    """A connection that was only good for health gets all answers, without a new one, as soon as another has ended."""
    address, busy = full
    with closing(HTTPConnection(address, timeout=60)) as extra:

        def get(method: str, path: str) -> tuple[int, bytes]:
            extra.request(method, path, BODY if method == "POST" else None)
            response = extra.getresponse()
            return response.status, response.read()

        assert get("GET", "/health/live")[0] == 200
        extra_end = extra.sock.getsockname()
        busy[0].close()
        wait_until(lambda: b"lengthwise_connections 2.0" in get("GET", "/metrics")[1])
        assert get("POST", "/encode")[0] == 200
        assert extra.sock.getsockname() == extra_end


def test_files_are_allowed_up_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft limit that is too low is raised; one that is enough is left alone."""
    limits = SimpleNamespace(now=(256, 1000), RLIMIT_NOFILE=7, RLIM_INFINITY=-1)
    limits.getrlimit = lambda _: limits.now
    limits.setrlimit = lambda _, pair: setattr(limits, "now", pair)
    monkeypatch.setitem(__import__("sys").modules, "resource", limits)
    assert allow_files(200) == 256
    assert limits.now == (256, 1000)
    assert allow_files(700) == 700
    assert limits.now == (700, 1000)
    assert allow_files(2000) == 1000
    limits.now = (256, -1)
    assert allow_files(2000) == 2000
