"""The Python client when things go wrong: overload, draining, deadlines, dead connections, other answers."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from bench.load.launch import start_service
from bench.load.servers import find_port
from lengthwise_client import Client, DeadlineExceeded, ModelChanged, NotUnderstood, Refused, Unreachable, calls
from lengthwise_client.retries import read_retry_after
from service.api.front import Front
from service.app import create_app
from service.batching.jobs import Forecast, Job
from service.settings import Settings
from tests.conftest import draw_sequences
from tests.made import make_wide
from tests.relay import Relay

Serve = Callable[..., TestClient]
SEQUENCES = draw_sequences([3, 1])


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)


@pytest.fixture
def relay(client: TestClient) -> Relay:
    """The app with default settings, behind a relay."""
    return Relay(client)


class Junk(httpx.SyncByteStream):
    """A body that is not gzip."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"junk"


def service_in(app: Any) -> Any:
    """Return the service behind an app."""
    return app.state.service


def test_a_full_queue_is_waited_for_as_the_service_says(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 503 the client waits for the time told, to the millisecond, asks again, and has its answer."""
    relay = Relay(serve())
    with relay.connect() as client:
        expected = client.encode(SEQUENCES)
        service = service_in(relay.app.app)
        queues, queue, waits = service.engine.queues, service.models.find(None).queue, Job([1_000_000])
        queues.submit(queue, waits, time.perf_counter())
        monkeypatch.setattr(queues, "forecast", lambda *_: Forecast(1, 1_000_000, 2.5))

        def drain(seconds: float) -> None:
            relay.slept.append(seconds)
            queues.withdraw(queue, waits)

        client._sleep = drain
        assert client.encode(SEQUENCES).tobytes() == expected.tobytes()
    assert relay.slept == [2.5]
    assert len(relay.encoded) == 3


def test_a_draining_service_is_asked_five_times_in_all(relay: Relay) -> None:
    """Another instance might answer; if none does, the problem is the last answer's."""
    service_in(relay.app.app).is_draining = True
    with relay.connect() as client, pytest.raises(Refused) as caught:
        client.encode(SEQUENCES)
    assert caught.value.problem.type == "urn:lengthwise:problem:draining"
    assert relay.slept == [1.0] * 4
    assert len(relay.encoded) == 5


def test_a_wait_past_the_deadline_is_not_begun(relay: Relay) -> None:
    """Where the service says to come back in a second and the call has less, it fails at once."""
    service_in(relay.app.app).is_draining = True
    with relay.connect() as client, pytest.raises(Refused):
        client.encode(SEQUENCES, timeout=0.9)
    assert relay.slept == []


def test_a_deadline_that_cannot_be_met_is_told_once(serve: Serve) -> None:
    """The service refuses what would be late, and the client does not ask again."""
    relay = Relay(serve())
    costs = service_in(relay.app.app).models.find(None).calibrator.costs
    for shape in costs.measured:
        costs.learn(shape, 90.0)
    with relay.connect() as client:
        with pytest.raises(DeadlineExceeded, match=r"within 50 s: The answer should take 90\d\d\d ms") as caught:
            client.encode(SEQUENCES, timeout=50.0)
        assert caught.value.problem is not None
        assert caught.value.problem.type == "urn:lengthwise:problem:deadline-unreachable"
        assert isinstance(caught.value, TimeoutError)
        assert client.encode(SEQUENCES, timeout=inf).shape == (2, 16)
    first, second = relay.encoded
    assert 0 < int(first.headers["x-request-timeout-ms"]) <= 50_000
    assert "x-request-timeout-ms" not in second.headers


def answer(status: int, **headers: str) -> httpx.Response:
    """Make an answer without a problem in it, with `_` for `-` in the names of its headers."""
    return httpx.Response(status, headers={name.replace("_", "-"): text for name, text in headers.items()}, text="no")


def test_each_try_tells_what_is_left_of_the_time() -> None:
    """Time that tries and waits took is gone from the next deadline, and a call ends when none is left."""
    now = 100.0
    call = calls.Calls("http://app", 10.0, 4, clock=lambda: now).info()
    step = next(call)
    assert isinstance(step, calls.Send)
    assert (step.headers, step.timeout) == ({"X-Request-Timeout-Ms": "10000"}, 10.0)
    now = 103.0
    assert call.send(answer(503, Retry_After="2")) == calls.Wait(2.0)
    now = 105.5
    step = call.send(None)
    assert isinstance(step, calls.Send)
    assert (step.headers, step.timeout) == ({"X-Request-Timeout-Ms": "4500"}, 4.5)
    assert call.throw(httpx.ConnectError("refused")) == calls.Wait(0.1)
    now = 110.0
    with pytest.raises(DeadlineExceeded, match=r"There was no answer within 10 s$"):
        call.send(None)


def test_waits_double_where_the_service_does_not_say(relay: Relay) -> None:
    """Failures without advice are tried again after 50 ms, then twice as long each time."""
    relay.instead.extend([answer(502), httpx.ReadError("gone"), httpx.RemoteProtocolError("hung up"), answer(500)])
    with relay.connect() as client:
        assert client.encode(SEQUENCES).shape == (2, 16)
    assert relay.slept == [0.05, 0.1, 0.2, 0.4]


NEVER = [answer(400), answer(401), answer(404), answer(413), answer(422), answer(503, x_should_retry="false")]


@pytest.mark.parametrize("outcome", NEVER, ids=lambda outcome: str(outcome.status_code))
def test_what_cannot_succeed_is_sent_once(outcome: httpx.Response, relay: Relay) -> None:
    """A request that would fail again, or of which the service says so, is not repeated."""
    relay.instead.append(outcome)
    with relay.connect() as client, pytest.raises(Refused) as caught:
        client.encode(SEQUENCES)
    assert (caught.value.problem.status, caught.value.problem.detail) == (outcome.status_code, "no")
    assert caught.value.problem.type == "about:blank"
    assert len(relay.encoded) == 1
    assert relay.slept == []


def test_what_the_service_calls_worth_retrying_is(relay: Relay) -> None:
    """`x-should-retry: true` outweighs the status."""
    relay.instead.append(answer(418, x_should_retry="true", retry_after_ms="250"))
    with relay.connect() as client:
        assert client.encode(SEQUENCES).shape == (2, 16)
    assert relay.slept == [0.25]


def test_a_sequence_over_the_limit_is_refused_once(serve: Serve) -> None:
    """413 is never sent again, and names the sequence by the caller's count."""
    relay = Relay(serve(max_sequence_steps=5, max_request_steps=12))
    with relay.connect() as client, pytest.raises(Refused) as caught:
        client.encode(draw_sequences([5, 5, 5, 6]))
    problem = caught.value.problem
    assert (problem.status, problem.path, problem.limit) == (413, "sequences[3]", 5)
    assert problem.setting == "LENGTHWISE_MAX_SEQUENCE_STEPS"
    assert len(relay.encoded) <= 2
    assert relay.slept == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "2"}, 2.0),
        ({"retry_after": "Mon, 23 Nov 2026 00:00:07 GMT", "date": "Mon, 23 Nov 2026 00:00:00 GMT"}, 7.0),
        ({"retry_after": "Mon, 23 Nov 2026 00:00:00 GMT", "date": "Mon, 23 Nov 2026 00:00:07 GMT"}, 0.0),
        ({"retry_after": "Mon, 23 Nov 2026 00:00:07 GMT"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_time_to_return_is_read_in_each_form(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds come before seconds, seconds before a date; what is none of them says nothing."""
    assert read_retry_after(answer(503, **headers)) == seconds


def test_no_connection_is_an_error_of_its_own(relay: Relay) -> None:
    """Where no try reaches the service, the error says what was tried."""
    relay.instead.extend(httpx.ConnectError("connection refused") for _ in range(3))
    with relay.connect(retries=2) as client, pytest.raises(Unreachable) as caught:
        client.encode(SEQUENCES)
    assert str(caught.value) == "http://app did not answer: connection refused"
    assert relay.slept == [0.05, 0.1]
    with Client("http://127.0.0.1:1") as client:
        assert not client.is_ready()


def test_what_no_try_can_send_is_not_tried_again() -> None:
    """An address of another kind fails at once."""
    slept: list[float] = []
    with Client("ftp://app", sleep=slept.append) as client, pytest.raises(Unreachable, match="protocol"):
        client.info()
    assert slept == []


def test_silence_until_the_deadline_exceeds_it(relay: Relay) -> None:
    """When the network has been waited for as long as the call may take, it is over, and not tried again."""
    relay.instead.append(httpx.ReadTimeout("nothing came"))
    with relay.connect() as client, pytest.raises(DeadlineExceeded) as caught:
        client.encode(SEQUENCES)
    assert caught.value.problem is None
    assert len(relay.encoded) == 1


def test_answers_of_different_models_are_not_mixed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model is exchanged between the parts of a call, there is no array of both."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))
    carry = relay.carry
    hashes = iter("ab")

    def exchange(request: httpx.Request) -> httpx.Response:
        answer = carry(request)
        if request.url.path == "/encode":
            answer.headers["x-model-sha"] = next(hashes)
        return answer

    monkeypatch.setattr(relay, "carry", exchange)
    with relay.connect() as client, pytest.raises(ModelChanged) as caught:
        client.encode(draw_sequences([20, 20]))
    assert caught.value.found == ["a", "b"]


def test_an_answer_of_other_sequences_is_an_error(relay: Relay) -> None:
    """As many embeddings come as sequences were sent, or none is believed to be of any."""
    file = BytesIO()
    np.save(file, np.zeros((1, 16), np.float32))
    relay.instead.append(httpx.Response(200, content=file.getvalue()))
    with relay.connect() as client, pytest.raises(NotUnderstood, match=r"^http://app/encode"):
        client.encode(SEQUENCES)


def test_an_answer_that_cannot_be_unpacked_is_an_error() -> None:
    """What says it is gzip and is not, as a broken proxy's, is told as any answer that is not understood."""
    broken = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Junk()))
    with Client("http://other", transport=broken) as client, pytest.raises(NotUnderstood, match=r"^http://other/info"):
        client.encode(SEQUENCES)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b""])
def test_an_answer_that_is_no_embedding_is_an_error(content: bytes, relay: Relay) -> None:
    """A page that says 200 is named by its address, in place of the service's answers."""
    relay.instead.append(httpx.Response(200, content=content))
    with relay.connect() as client, pytest.raises(NotUnderstood, match=r"^http://app/encode"):
        client.encode(SEQUENCES)
    with (
        Client("http://other", transport=httpx.MockTransport(lambda _: httpx.Response(200, content=content))) as client,
        pytest.raises(NotUnderstood, match=r"^http://other/info"),
    ):
        client.encode(SEQUENCES)


def test_a_problem_that_breaks_its_promise_is_quoted(relay: Relay) -> None:
    """What calls itself a problem and is no JSON is told as text."""
    relay.instead.append(httpx.Response(400, headers={"content-type": "application/problem+json"}, text="{oh"))
    with relay.connect() as client, pytest.raises(Refused, match=r"400 Bad Request: \{oh$"):
        client.encode(SEQUENCES)


def test_a_failed_part_ends_the_call(serve: Serve) -> None:
    """Parts that were not begun when another failed are never sent."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))
    sequences = draw_sequences([20] * 50)
    sequences[0][0, 0] = np.inf
    with relay.connect() as client, pytest.raises(Refused):
        client.encode(sequences)
    assert len(relay.encoded) <= 5


def test_a_failed_call_leaves_no_part_trying(relay: Relay) -> None:
    """A part that waits for its next try when another fails does not make it."""
    asleep, over = threading.Event(), threading.Event()

    def carry(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info":
            return relay.carry(request)
        relay.sent.append(request)
        if len(request.content) > 1_000_000:
            return answer(503, Retry_After="1")
        assert asleep.wait(60)
        return answer(422)

    def sleep(_seconds: float) -> None:
        asleep.set()
        assert over.wait(60)

    with Client("http://app", transport=httpx.MockTransport(carry), sleep=sleep) as client:
        with pytest.raises(Refused):
            for _ in client.encode_stream(draw_sequences([60_000, 99_999])):
                pass
        over.set()
    assert len(relay.encoded) == 2


@contextmanager
def listen(app: Front, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve an app of this process on a real socket."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        thread.join()


def test_a_connection_that_dies_is_replaced(artifact: Any) -> None:
    """A connection that is closed in place of an answer costs one try."""
    listener = socket.create_server(("127.0.0.1", 0))
    slept: list[float] = []

    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

    first = threading.Thread(target=hang_up)
    first.start()
    url = "http://{}:{}".format(*listener.getsockname())
    with Client(url, sleep=slept.append) as client, ThreadPoolExecutor(1) as threads:
        found = threads.submit(client.encode, SEQUENCES)
        first.join()
        with listen(create_app(Settings(model=artifact)), listener):
            assert found.result().shape == (2, 16)
    assert slept == [0.05]


def test_a_restarted_service_is_found_again(artifact: Any) -> None:
    """Connections that a stopped service left are replaced by new ones to the next at its address."""
    app, port = create_app(Settings(model=artifact)), find_port()
    with listen(app, socket.create_server(("127.0.0.1", port))) as url:
        client = Client(url, sleep=lambda _: None)
        expected = client.encode(SEQUENCES)
    with listen(create_app(Settings(model=artifact)), socket.create_server(("127.0.0.1", port))), client:
        assert client.encode(SEQUENCES).tobytes() == expected.tobytes()


def test_every_call_gets_through_an_overload(tmp_path: Path) -> None:
    """Over real sockets: eight threads call and the queue holds one call's steps, each has its rows at last."""
    slow = make_wide(tmp_path / "slow.onnx", features=1, hidden=160)  # some 10 ms for 500 steps
    flags = ["--processes", "2", "--runners", "1"]  # or on many CPUs there might be no overload
    flags += ["--max-queue-steps", "500", "--max-request-steps", "500", "--max-sequence-steps", "500"]
    requests = [draw_sequences([500], features=1, seed=n) for n in range(24)]
    waits: list[float] = []
    with (
        start_service("--model", str(slow), *flags) as (_, url),
        Client(url, retries=1_000_000, sleep=waits.append) as client,
    ):
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(client.encode, requests))
        alone = [client.encode(sequences) for sequences in requests]
    assert [rows.tobytes() for rows in found] == [rows.tobytes() for rows in alone]
    assert min(waits) > 0
    assert max(waits) < 60  # as the service says, to the millisecond


def test_a_cancelled_call_ends_its_request(serve: Serve) -> None:
    """In asyncio, cancelling a call cancels the requests of all its parts; the client goes on."""
    relay = Relay(serve(max_request_steps=20, max_sequence_steps=20))

    async def call() -> None:
        begun = asyncio.Semaphore(0)
        ended: list[httpx.Request] = []

        class Hang(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                if request.url.path == "/info" or ended:
                    return relay.carry(request)
                begun.release()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(request)
                raise AssertionError

        async with relay.connect_async() as client:
            client._http._transport = Hang()
            task = asyncio.create_task(client.encode(draw_sequences([20] * 9)))
            for _ in range(4):
                await begun.acquire()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(ended) == 4
            assert (await client.encode(SEQUENCES)).shape == (2, 16)

    asyncio.run(call())


def test_asyncio_retries_and_fails_alike(relay: Relay) -> None:
    """The other client waits, tries and raises by the same rules."""
    relay.instead.extend([answer(503, Retry_After="2"), httpx.ReadError("gone")])

    async def call() -> None:
        async with relay.connect_async() as client:
            assert (await client.encode(SEQUENCES)).shape == (2, 16)
            relay.instead.append(answer(413))
            with pytest.raises(Refused):
                await client.encode(SEQUENCES)

    asyncio.run(call())
    assert relay.slept == [2.0, 0.1]
    assert len(relay.encoded) == 4
