"""What calls of gRPC may hold of a process, and how they end with it."""

import asyncio
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient import grpc as triton

from bench.load.launch import start_service
from bench.load.servers import find_port
from service.api import unread
from service.batching.engine import Engine
from service.codecs.kserve import messages
from service.server.rpc import listening, streaming
from service.server.rpc.carrying import Reply
from tests.conftest import ARTIFACTS
from tests.server.test_grpc import ask, await_that, call, fail, held, make, padded, typed
from tests.waiting import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"whoever?"
STREAM = f"/{messages.SERVICE}/ModelStreamInfer"
# The head of a call of a stream, on stream 1: POST and http by their numbers, then names and values as they stand.
FIELDS = {b":authority": b"here", b":path": STREAM.encode(), b"te": b"trailers", b"content-type": b"application/grpc"}
BLOCK = b"\x83\x86" + b"".join(
    bytes([0, len(name)]) + name + bytes([len(told)]) + told for name, told in FIELDS.items()
)
HEADERS = len(BLOCK).to_bytes(3, "big") + bytes([1, 4, 0, 0, 0, 1]) + BLOCK
BODY: bytes = typed(id="1").SerializeToString()


class Given:
    """The messages of a call, given one at a time."""

    def __init__(self) -> None:
        self._given: queue.Queue[bytes | None] = queue.Queue()
        self.put = self._given.put

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._given.get, None)


@contextmanager
def opened(address: str, **options: Any) -> Iterator[tuple[Given, Any]]:
    """Open a stream; yield what its messages are given by, and its answers."""
    given = Given()
    with grpc.insecure_channel(address) as channel:
        yield given, channel.stream_stream(STREAM)(iter(given), **options)
        given.put(None)


def read(answer: bytes) -> Any:
    """Read an answer of a stream."""
    return messages.decode("ModelStreamInferResponse", answer)


def reason_of(error: Any) -> str:
    """Return the name of the problem that ended a call."""
    info = ErrorInfo()
    Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(info)
    return str(info.reason)


@pytest.mark.parametrize("processes", [1, 2])
def test_idle_streams_and_watches_do_not_hold_the_end(processes: int, artifact: Path) -> None:
    """SIGTERM ends a stream with nothing under way as UNAVAILABLE, and the service long before its time to drain."""
    port = find_port()
    flags = ["--grpc-port", str(port), "--processes", str(processes), "--model", str(artifact), "--drain-seconds=300"]
    address = f"127.0.0.1:{port}"
    with start_service(*flags) as (process, _), grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with opened(address) as (given, answers):
            given.put(BODY)
            assert read(next(answers)).infer_response.id == "1"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert "try another instance" in caught.value.details()
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_what_a_stream_has_under_way_is_answered_before_it_ends(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the service drains, what was taken is answered; what comes later is not, as its client sees by the id."""
    app, given = make(artifact, runners=1), Given()
    service = app.state.service

    def finish() -> None:
        await_that(lambda: bool(service.is_draining))
        given.put(typed(id="late").SerializeToString())
        go.set()

    with held(app, monkeypatch) as go:
        with call(app) as address:
            channel = grpc.insecure_channel(address)
            answers = channel.stream_stream(STREAM)(iter(given))
            given.put(BODY)
            await_that(lambda: service.telemetry.inflight == 1)
            thread = threading.Thread(target=finish)
            thread.start()
        thread.join()
        assert read(next(answers)).infer_response.id == "1"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        given.put(None)
        channel.close()


def test_tritons_client_is_told_of_the_end_of_its_stream(artifact: Path) -> None:
    """Its callback gets an error with the status, so that it can start another stream elsewhere."""
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with call(make(artifact)) as address:
        client = triton.InferenceServerClient(address)
        client.start_stream(lambda result, error: came.put((result, error)))
        client.async_stream_infer("made", padded(), request_id="1")
        result, error = came.get(timeout=60)
        assert (result.get_response().id, error) == ("1", None)
    result, error = came.get(timeout=60)
    assert (result, error.status()) == (None, "StatusCode.UNAVAILABLE")
    client.close()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection by now."""
    try:
        while connection.recv(4096):
            pass  # what it said before
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize("first", [b"", PREFACE], ids=["silent", "idle"])
def test_connections_of_grpc_are_bounded(first: bytes, artifact: Path) -> None:
    """One more than may be is closed at once, whatever it sends, and when another ends, there is room again."""
    with call(make(artifact, max_connections=3)) as address, ExitStack() as stack:
        host, _, port = address.partition(":")
        opened = []
        for _ in range(8):
            connection = stack.enter_context(closing(socket.create_connection((host, int(port)), timeout=60)))
            with suppress(OSError):
                connection.sendall(first)
            connection.setblocking(False)
            opened.append(connection)
        wait_until(lambda: sum(map(is_closed, opened)) >= 5)
        assert sum(map(is_closed, opened)) == 5
        for connection in opened:
            connection.close()
        with grpc.insecure_channel(address) as channel:
            assert channel.unary_unary(f"/{messages.SERVICE}/ServerLive")(b"", wait_for_ready=True, timeout=60)


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return all that a server sends until it closes a connection."""
    received = b""
    with suppress(ConnectionResetError):
        while some := connection.recv(2**16):
            received += some
    return received


def test_an_idle_connection_of_grpc_is_closed(artifact: Path) -> None:
    """After the time for which HTTP's are kept, and it is told why."""
    with call(make(artifact, keep_alive_seconds=1)) as address:
        host, _, port = address.partition(":")
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            connection.sendall(PREFACE)
            assert read_to_the_end(connection).endswith(b"connection idle")


def test_a_connection_of_grpc_that_says_nothing_is_closed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has so long to speak HTTP/2, however long others may be idle."""
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 1)
    with call(make(artifact)) as address:
        host, _, port = address.partition(":")
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            assert b"connection idle" not in read_to_the_end(connection)


def test_a_caller_of_grpc_that_pings_without_end_is_closed(artifact: Path) -> None:
    """HTTP/2 has an error for it, which asks for calm."""
    with call(make(artifact)) as address:
        host, _, port = address.partition(":")
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            connection.sendall(PREFACE)
            with suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(100):
                    connection.sendall(PING)
            received = read_to_the_end(connection)
    assert received.endswith(b"too_many_pings")


def test_a_caller_of_grpc_is_asked_whether_it_is_there(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has a call under way and says nothing gets a ping, which it must answer."""
    monkeypatch.setattr(listening, "PING_SECONDS", 1)
    with call(make(artifact)) as address:
        host, _, port = address.partition(":")
        with closing(socket.create_connection((host, int(port)), timeout=60)) as connection:
            connection.sendall(PREFACE + HEADERS)
            received = b""
            while PING[:5] not in received:
                received += connection.recv(2**16)


def test_connections_of_grpc_leave_http_its_own(artifact: Path) -> None:
    """While as many of gRPC are open as may be, and more try, HTTP takes its own: a process may open files for both."""
    port = find_port()
    flags = ["--grpc-port", str(port), "--processes=1", "--model", str(artifact), "--max-connections=200"]
    program = ("sh", "-c", 'ulimit -Sn 64; exec "$0" -m service "$@"', sys.executable)
    with start_service(*flags, program=program) as (_, url), ExitStack() as stack:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(60)
        for _ in range(250):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        for _ in range(150):
            http = stack.enter_context(closing(HTTPConnection(url.removeprefix("http://"), timeout=60)))
            http.request("GET", "/health/ready")
            assert http.getresponse().read()


def test_a_stream_without_a_key_ends_before_its_first_message(artifact: Path) -> None:
    """So streams that say nothing take no places from callers with a key, whose own may wait as long as they like."""
    key = (("authorization", "Bearer callers-key-0123456"),)
    app = make(artifact, api_keys="callers-key-0123456", max_connections=2)
    with call(app) as address, opened(address, metadata=key, timeout=60) as (given, answers):
        for _ in range(3):
            with opened(address, timeout=60) as (_given, refused), pytest.raises(grpc.RpcError) as caught:
                next(refused)
            assert reason_of(caught.value) == "INVALID_KEY"
        given.put(BODY)
        assert read(next(answers)).infer_response.id == "1"


def test_a_message_is_not_read_without_a_key(artifact: Path) -> None:
    """A call of one message is refused though nothing of the message has come; with a key it is waited for in vain."""
    key = (("authorization", "Bearer callers-key-0123456"),)
    app = make(artifact, api_keys="callers-key-0123456", body_timeout_seconds=1)
    with call(app) as address, grpc.insecure_channel(address) as channel:
        infer = channel.stream_unary(f"/{messages.SERVICE}/ModelInfer")
        for metadata, code, reason in (
            ((), grpc.StatusCode.UNAUTHENTICATED, "INVALID_KEY"),
            (key, grpc.StatusCode.DEADLINE_EXCEEDED, "BODY_TOO_SLOW"),
        ):
            given = Given()
            with pytest.raises(grpc.RpcError) as caught:
                infer(iter(given), metadata=metadata, timeout=60)
            assert (caught.value.code(), reason_of(caught.value)) == (code, reason)
            given.put(None)


def test_a_call_without_a_message_is_cancelled(artifact: Path) -> None:
    """It is counted as one whose client hung up, and not logged as a fault of the service."""
    app = make(artifact)
    with call(app) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(f"/{messages.SERVICE}/ModelInfer")(iter([]), timeout=60)
        assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_a_call_too_many_is_refused_and_probes_are_answered(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a code that clients try elsewhere for, with a time; so has a stream, before its first message."""
    app = make(artifact, max_connections=2)
    with call(app) as address, held(app, monkeypatch) as go, ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]  # or both would share a connection
        busy, other = (stack.enter_context(grpc.insecure_channel(address, options)) for _ in range(2))
        runs = [busy.unary_unary(f"/{messages.SERVICE}/ModelInfer").future(BODY) for _ in range(2)]
        await_that(lambda: app.state.service.telemetry.inflight == 2)
        given = Given()
        for refused in (
            iter([other.unary_unary(f"/{messages.SERVICE}/ModelInfer").future(BODY, timeout=60)]),
            other.stream_stream(STREAM)(iter(given), timeout=60),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                next(refused).result()
            error: Any = caught.value
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "TOO_MANY_CALLS")
            assert dict(error.trailing_metadata())["retry-after-ms"] == "1000"
        given.put(None)
        assert other.unary_unary(f"/{messages.SERVICE}/ServerReady")(b"")
        go.set()
        assert all(run.result(60) for run in runs)


@pytest.fixture
def most_held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of messages that streams hold now, and those that they held at most."""
    found, answer = [0, 0], streaming._answer

    async def count(body: bytes, ask: Callable[[bytes], Awaitable[Reply]]) -> Any:
        found[0] += len(body)
        found[1] = max(found)
        try:
            return await answer(body, ask)
        finally:
            found[0] -= len(body)

    monkeypatch.setattr(streaming, "_answer", count)
    return found


def test_streams_hold_few_bytes(artifact: Path, most_held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is answered, all streams together hold two bodies' bytes, and each one message; then all is."""
    limit, body = 100_000, bytes(typed(id="x" * 60_000).SerializeToString())
    app, sent = make(artifact, runners=1, max_body_bytes=limit), list[int]()
    service = app.state.service

    def give(number: int) -> bytes:
        sent.append(number)
        return body

    def is_under_way(number: int) -> bool:
        return bool(service.telemetry.inflight == number)

    with call(app) as address, held(app, monkeypatch) as go, ExitStack() as stack:
        answers = []
        for number in range(1, 4):
            channel = stack.enter_context(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
            answers.append(channel.stream_stream(STREAM)(map(give, range(300))))
            await_that(partial(is_under_way, 1 + number))
        seen = -1
        while seen != len(sent):  # until the clients are held back
            seen = len(sent)
            time.sleep(0.2)
        assert seen < 40
        assert most_held[1] == 4 * len(body)
        go.set()
        assert [sum(1 for _ in all_) for all_ in answers] == [300] * 3
        assert most_held == [0, max(most_held)]
        assert most_held[1] < 2 * limit + 3 * len(body)


def test_answers_of_a_stream_that_are_not_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait to be read keep others from being computed, and once they are read all others come."""
    monkeypatch.setattr(unread, "PATIENCE_SECONDS", 0.02)  # after which the stream tries again
    size = 4 * 8000 * 8  # of the model's steps
    limit = 3 * size + 1000
    app = make(ARTIFACTS / "triples-steps.onnx", max_unread_bytes=limit)
    request = messages.message("ModelInferRequest", raw_input_contents=[bytes(4 * 3 * 8000)])
    request.inputs.add(name="sequences", datatype="FP32", shape=[1, 8000, 3])
    service, encode = app.state.service, Engine.encode
    counted = asyncio.Event()

    async def encode_once_three_are_counted(*asked: Any) -> Any:
        if service.unread_calls.held > 2 * size:
            counted.set()
        await counted.wait()
        return await encode(*asked)

    monkeypatch.setattr(Engine, "encode", encode_once_three_are_counted)
    options = [("grpc.http2.bdp_probe", 0)]  # the client takes no more than it reads
    with call(app) as address, grpc.insecure_channel(address, options) as channel:
        answers = channel.stream_stream(STREAM)(iter([request.SerializeToString()] * 20))
        await_that(lambda: service.unread_calls.held > 2 * size)
        counts = [service.unread_calls.held]
        for answer in answers:
            counts.append(service.unread_calls.held)
            assert len(answer) > size
        assert 2 * size < max(counts) <= limit
        await_that(lambda: service.unread_calls.held == 0)


def test_an_answer_of_a_call_that_would_be_too_large_is_never_begun() -> None:
    """It is refused by the bound on what is not read, as over HTTP."""
    app = make(ARTIFACTS / "triples-steps.onnx", max_unread_bytes=70_000)
    request = messages.message("ModelInferRequest", raw_input_contents=[bytes(4 * 3 * 8000)])
    request.inputs.add(name="sequences", datatype="FP32", shape=[1, 8000, 3])
    with call(app) as address:
        error, info, _ = fail(address, request.SerializeToString())
        assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ANSWER_TOO_LARGE")
        request.inputs[0].shape[1] = 1
        request.raw_input_contents[0] = bytes(12)
        assert ask(address, request.SerializeToString())
