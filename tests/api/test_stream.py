"""Streams of lines: over real sockets for order, duplex, memory and back pressure, in process for what goes wrong."""

import asyncio
import gzip
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPConnection
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from bench.load.launch import start_service
from service.api.endpoints import streams
from service.api.endpoints.streams import LineStream
from service.codecs.json import ndjson
from service.encoder.sequences import Batch
from tests.conftest import draw_sequences
from tests.waiting import wait_until

Serve = Callable[..., TestClient]

KIND = {"Content-Type": ndjson.MEDIA_TYPE}
GONE: dict[str, Any] = {"type": "http.disconnect"}


def write_lines(lengths: Iterable[int], seed: int = 0) -> list[bytes]:
    """Draw sequences of the given lengths, one a line."""
    return [json.dumps(steps.round(3).tolist()).encode() + b"\n" for steps in draw_sequences(list(lengths), seed=seed)]


def embed(url: str, lines: list[bytes]) -> list[list[float]]:
    """Encode the same sequences by JSON."""
    answer = httpx.post(f"{url}/encode", json={"sequences": [json.loads(line) for line in lines]}, timeout=60).json()
    embeddings: list[list[float]] = answer["embeddings"]
    return embeddings


class Stream:
    """A stream whose sender may read before it has sent all, as httpx and most others do not."""

    def __init__(self, url: str, window_bytes: int | None = None) -> None:
        address = urlsplit(url)
        self._connection = HTTPConnection(f"{address.hostname}:{address.port}", timeout=60)
        self._connection.sock = socket.socket()
        if window_bytes:
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        self._connection.sock.connect((address.hostname, address.port))
        self._connection.sock.settimeout(60)
        self._connection.putrequest("POST", "/encode")
        self._connection.putheader("Content-Type", ndjson.MEDIA_TYPE)
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()

    def send(self, body: bytes) -> None:
        """Send a part of the body."""
        self._connection.send(b"%x\r\n%b\r\n" % (len(body), body))

    def end(self) -> None:
        """End the body."""
        self._connection.send(b"0\r\n\r\n")

    def answers(self) -> Iterator[Any]:
        """Read one answer after the other until there is none any more."""
        with self._connection.getresponse() as response:
            assert response.status == 200
            for line in response:
                yield json.loads(line)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def sending(stream: Stream, parts: Iterable[bytes]) -> Iterator[None]:
    """Send parts, and the end, on a thread."""

    def send() -> None:
        for part in parts:
            stream.send(part)
        stream.end()

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


@pytest.fixture(scope="module")
def service(artifact: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process itself, which has no others beside it that would take memory in its place."""
    with start_service("--model", str(artifact), "--processes", "1") as started:
        yield started


Started = tuple[subprocess.Popen[str], str]


def test_answers_come_in_order_and_bad_lines_in_their_place(service: Started) -> None:
    """Of 2,000 lines, each good one has the embedding it has by JSON, each bad one its problem and line number."""
    _, url = service
    lines = write_lines(1 + number % 23 for number in range(2000))
    good = {number: line for number, line in enumerate(lines) if number % 97}
    body = (line if number in good else b"[[1, 2]]\n" for number, line in enumerate(lines))
    response = httpx.post(f"{url}/encode", content=body, headers=KIND, timeout=60)
    assert response.headers["content-type"] == ndjson.MEDIA_TYPE
    answers = [json.loads(line) for line in response.iter_lines()]
    assert [answer["index"] for answer in answers] == list(range(2000))
    assert [answers[number]["embedding"] for number in good] == embed(url, list(good.values()))
    for number in range(0, 2000, 97):
        problem = answers[number]["problem"]
        assert (problem["type"], problem["line"]) == ("urn:lengthwise:problem:feature-mismatch", number + 1)
        assert problem["path"] == "sequences[0][0]"
        assert problem["request_id"] == response.headers["x-request-id"]


def test_a_line_is_answered_before_the_next_is_sent(service: Started) -> None:
    """Nothing waits for the end of the body, nor for a line to have company."""
    _, url = service
    lines = write_lines([3, 1, 4])
    stream = Stream(url)
    stream.send(lines[0])
    answers = stream.answers()
    found = [next(answers)]
    for line in lines[1:]:
        stream.send(line[:5])
        stream.send(line[5:])
        found.append(next(answers))
    stream.end()
    assert list(answers) == []
    assert [answer["embedding"] for answer in found] == embed(url, lines)


def test_memory_does_not_grow_with_the_lines(service: Started) -> None:
    """50,000 lines take the process no more memory than 5,000 did, though they have some 40 MB both ways."""
    process, url = service

    def peak_after(count: int) -> int:
        lines = b"".join(write_lines([20] * 100))
        stream = Stream(url)
        with sending(stream, (lines for _ in range(count // 100))):
            indices = [answer["index"] for answer in stream.answers()]
        assert indices == list(range(count))
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        return int(peak)

    few = peak_after(5000)
    assert peak_after(50_000) - few < 4096  # kB


def test_a_reader_that_does_not_read_stops_the_reading(artifact: Path) -> None:
    """It is told which lines were not encoded, once it reads; meanwhile the rest was taken and dropped."""
    lines = write_lines([2] * 100)
    with start_service("--model", str(artifact), "--keep-alive-seconds", "2") as (process, url):
        stream = Stream(url, window_bytes=4096)
        for _ in range(2000):  # were it not dropped, this would never end
            stream.send(b"".join(lines))
        stream.end()
        *answers, last = stream.answers()
        assert httpx.get(f"{url}/health/ready").status_code == 200
    assert [answer["index"] for answer in answers] == list(range(len(answers)))
    assert 0 < len(answers) < 100_000
    assert "index" not in last
    assert last["problem"]["type"] == "urn:lengthwise:problem:reader-stalled"
    assert last["problem"]["line"] == len(answers) + 1
    assert (last["problem"]["limit"], last["problem"]["setting"]) == (2, "LENGTHWISE_KEEP_ALIVE_SECONDS")
    assert process.returncode is not None


def test_a_client_that_hangs_up_leaves_nothing_behind(service: Started) -> None:
    """Its windows are withdrawn, and others are answered as before."""
    _, url = service
    lines = write_lines([50] * 400)
    for count in (1, 400):
        stream = Stream(url)
        stream.send(b"".join(lines[:count]))
        stream.close()
    assert embed(url, lines[:1])
    # Of those that wait the last are withdrawn in a moment.
    wait_until(lambda: not httpx.get(f"{url}/info").json()["models"][0]["performance"]["waiting_sequences"])


@pytest.mark.parametrize("is_idle", [True, False])
def test_sigterm_ends_a_stream_at_a_line_that_is_named(is_idle: bool, artifact: Path) -> None:  # noqa: FBT001
    """What was read is answered; then a last line says from which line on another instance is to be asked."""
    lines = write_lines([3] * 500)
    with start_service("--model", str(artifact)) as (process, url):
        stream = Stream(url)
        stream.send(b"".join(lines[:10]))
        answers = stream.answers()
        found = [next(answers) for _ in range(10)]
        process.send_signal(signal.SIGTERM)
        if not is_idle:
            stream.send(b"".join(lines[10:]))
        *others, last = answers
        found += others
        assert process.wait(60) == -signal.SIGTERM
    assert [answer["index"] for answer in found] == list(range(len(found)))
    assert last["problem"]["type"] == "urn:lengthwise:problem:draining"
    assert last["problem"]["line"] == len(found) + 1


def post(client: TestClient, lines: list[bytes], query: str = "", **headers: str) -> list[Any]:
    """Post lines in process and return the answers."""
    response = client.post(f"/encode{query}", content=b"".join(lines), headers={**KIND, **headers})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.iter_lines()]


def test_a_full_queue_is_waited_for(serve: Serve) -> None:
    """Where the queue holds less than the windows under way, every line is answered all the same."""
    client = serve(max_queue_steps=12, max_request_steps=12, max_sequence_steps=12)
    engine = client.app.state.service.engine  # type: ignore[attr-defined]
    lines = write_lines([10] * 40)
    answers = post(client, lines)
    assert [answer["index"] for answer in answers] == list(range(40))
    assert all(len(answer["embedding"]) == 16 for answer in answers)
    assert engine.requests == 40  # ten steps have no room for ten more: a window each


def test_a_line_the_model_fails_on_is_alone_with_it(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mates are encoded without it, and it gets the problem of a request that fails."""
    session = type(client.app.state.service.models.find(None).session)  # type: ignore[attr-defined]
    run = session.run

    def fail_on_seven(self: Any, batch: Batch) -> Any:
        if 7 in batch.lengths:
            raise RuntimeError("secret")
        return run(self, batch)

    lines = write_lines([3, 7, 4, 9, 7])
    expected = post(client, lines)
    monkeypatch.setattr(session, "run", fail_on_seven)
    answers = post(client, lines)
    for row in (0, 2, 3):
        assert answers[row] == expected[row]
    for row in (1, 4):
        assert answers[row]["problem"]["type"] == "urn:lengthwise:problem:run-failed"
        assert answers[row]["problem"]["line"] == row + 1
        assert "secret" not in str(answers[row])


def test_options_of_a_stream_are_in_the_query(client: TestClient) -> None:
    """`normalize` scales each embedding."""
    lines = write_lines([3, 1])
    plain = np.array([answer["embedding"] for answer in post(client, lines)])
    scaled = [answer["embedding"] for answer in post(client, lines, "?normalize=true&model=made")]
    np.testing.assert_allclose(scaled, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)


def test_a_line_over_the_limit_is_an_error_line(serve: Serve) -> None:
    """The body has no limit, each of its lines has: the next one is encoded again. Blank lines have no answer."""
    client = serve(max_body_bytes=500)
    lines = write_lines([2] * 30)
    answers = post(client, [*lines, b"[" * 501 + b"\n", lines[0].strip()])
    assert len(answers) == 32
    assert answers[30]["problem"]["type"] == "urn:lengthwise:problem:line-too-long"
    assert (answers[30]["problem"]["status"], answers[30]["problem"]["limit"]) == (413, 500)
    assert answers[31]["embedding"] == answers[0]["embedding"]
    assert post(client, [b"\n \n"]) == post(client, []) == []


def test_a_large_line_is_decoded_on_a_thread(client: TestClient) -> None:
    """A line of over a megabyte gives what the same sequence gives by JSON."""
    steps = [[1.0, 2.0, 3.0]] * 8000
    line = json.dumps(steps).replace(",", " " * 40 + ",").encode()
    assert len(line) > 2**20
    expected = client.post("/encode", json={"sequences": [steps]}).json()["embeddings"][0]
    assert post(client, [line])[0]["embedding"] == expected


@pytest.mark.parametrize(
    ("query", "headers", "status", "slug"),
    [
        ("?outputs=steps", {}, 422, "not-offered"),
        ("?normalize=2", {}, 422, "invalid-field"),
        ("?model=other", {}, 404, "unknown-model"),
        ("", {"X-Request-Timeout-Ms": "100"}, 422, "not-offered"),
        ("", {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        ("", {"Accept": "application/json"}, 406, "not-acceptable"),
    ],
)
def test_what_is_wrong_before_the_first_line_is_a_problem(
    query: str, headers: dict[str, str], status: int, slug: str, client: TestClient
) -> None:
    """Nothing of the body is read."""
    body = gzip.compress(b"[[1, 2, 3]]\n")
    response = client.post(f"/encode{query}", content=body, headers={**KIND, **headers})
    assert (response.status_code, response.json()["type"]) == (status, f"urn:lengthwise:problem:{slug}")


def test_a_draining_service_takes_no_stream(client: TestClient) -> None:
    """It answers 503, as to any request."""
    client.app.state.service.is_draining = True  # type: ignore[attr-defined]
    assert client.post("/encode", content=b"[[1, 2, 3]]\n", headers=KIND).status_code == 503


def drive(client: TestClient, receive: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run the app on messages, and return what it sent."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "headers": [(b"content-type", ndjson.MEDIA_TYPE.encode())],
    }

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        await client.app(scope, receive, send)  # type: ignore[arg-type]

    assert client.portal is not None
    client.portal.call(run)
    return sent


def test_a_hang_up_ends_windows_under_way(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client goes while the model is at work, what waits is withdrawn and the request ends quietly."""
    engine = client.app.state.service.engine  # type: ignore[attr-defined]
    begun = asyncio.Event()

    async def never(_model: object, _sequences: object, **_options: object) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(engine, "encode", never)
    messages = iter([{"type": "http.request", "body": b"[[1, 2, 3]]\n", "more_body": True}, GONE])

    async def receive() -> Any:
        message = next(messages)
        if message is GONE:
            await begun.wait()
        return message

    assert [message["type"] for message in drive(client, receive)] == []


def test_the_end_of_the_drain_tells_what_is_left(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is cut off when the time to drain is up ends with a problem, and not in the middle."""
    service = client.app.state.service  # type: ignore[attr-defined]
    stream = LineStream.__call__

    async def cut_off(self: LineStream, scope: Any, receive: Any, send: Any) -> None:
        whole = asyncio.current_task()

        async def encode(_model: object, _sequences: object, **_options: object) -> None:
            service.is_draining = True
            assert whole is not None
            whole.cancel()
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(service.engine, "encode", encode)
        await stream(self, scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"[[1, 2, 3]]\n", "more_body": False}

    monkeypatch.setattr(LineStream, "__call__", cut_off)
    start, last = drive(client, receive)
    assert start["status"] == 200
    problem = json.loads(last["body"])["problem"]
    assert (problem["type"], problem["line"]) == ("urn:lengthwise:problem:draining", 1)
    assert not last["more_body"]


def test_a_wait_for_a_reader_counts_from_when_the_sending_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began a little after the wait for room did; that does not double the time until it is noticed."""
    stream = LineStream.__new__(LineStream)
    stream._stall_seconds, stream._sending_since = 1, inf
    now = [0.0]

    @asynccontextmanager
    async def wait_in_vain(seconds: float) -> AsyncIterator[None]:
        now[0] += seconds
        stream._sending_since = 0.25  # meanwhile
        raise TimeoutError
        yield

    monkeypatch.setattr(streams, "asyncio", SimpleNamespace(timeout=wait_in_vain))
    monkeypatch.setattr(streams, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert not asyncio.run(stream._find_room())
    assert now == [1.25]
