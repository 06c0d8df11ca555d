"""The process itself, over a real socket: start, readiness, SIGTERM under load."""

import json
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from bench.load.launch import start_service
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from tests.conftest import draw_sequences
from tests.made import make_wide
from tests.waiting import wait_until


def same_bits(answer: object, expected: npt.NDArray[np.float32]) -> bool:
    """Whether JSON numbers are the float32 they were written from."""
    return np.array(answer, dtype=np.float32).tobytes() == expected.tobytes()


def test_the_service_starts_ready_and_encodes(artifact: Path) -> None:
    """Once the port answers, it is ready and encodes what the session encodes."""
    sequences = draw_sequences([4, 2])
    with start_service("--model", str(artifact)) as (_, url):
        assert httpx.get(f"{url}/health/ready").status_code == 200
        answer = httpx.post(f"{url}/encode", json={"sequences": [steps.tolist() for steps in sequences]}).json()
    assert same_bits(answer["embeddings"], open_session(artifact).run(pad_batch(sequences)))


def test_32_clients_get_what_each_would_alone(artifact: Path) -> None:
    """Over real sockets, 32 clients at once, some with deadlines: each embedding has the bits it has alone."""
    session = open_session(artifact)
    draw = np.random.default_rng(0)
    requests = [draw_sequences(draw.integers(1, 200, draw.integers(1, 9)).tolist(), seed=n) for n in range(96)]

    def post(number: int) -> Any:
        body = {"sequences": [steps.tolist() for steps in requests[number]]}
        headers = {"X-Request-Timeout-Ms": "60000"} if number % 3 == 0 else {}
        return client.post("/encode", json=body, headers=headers, timeout=60).json()

    patient = start_service("--model", str(artifact), "--max-queue-seconds", "600")
    with patient as (_, url), httpx.Client(base_url=url) as client:
        with ThreadPoolExecutor(32) as clients:
            answers = list(clients.map(post, range(len(requests))))
        runs = client.get("/info").json()["models"][0]["performance"]["runs"]
    for answer, sequences in zip(answers, requests, strict=True):
        alone = np.concatenate([session.run(pad_batch([steps])) for steps in sequences])
        assert same_bits(answer["embeddings"], alone)
    assert runs < sum(map(len, requests))  # some shared a run


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that takes some 50 ms for 2000 steps."""
    return make_wide(tmp_path_factory.mktemp("slow") / "slow.onnx", features=1, hidden=160)


def post_to_all(url: str, requests: list[list[npt.NDArray[np.float32]]]) -> list[HTTPConnection]:
    """Send each request on a connection of its own, and return once the service has begun to answer them all."""
    connections = [HTTPConnection(url.removeprefix("http://"), timeout=60) for _ in requests]
    for connection, sequences in zip(connections, requests, strict=True):
        connection.request("POST", "/encode", json.dumps({"sequences": [steps.tolist() for steps in sequences]}))
    wait_until(lambda: count_begun(url) == len(requests))
    return connections


def count_begun(url: str) -> int:
    """Return how many requests for embeddings a service answers now, or has answered."""
    told = httpx.get(f"{url}/metrics").text
    found = r'^lengthwise_(?:inflight_requests|requests_total\{.*route="/encode".*\}) (.*)$'
    return sum(int(float(value)) for value in re.findall(found, told, re.MULTILINE))


def read_all(connections: list[HTTPConnection]) -> list[tuple[int, Any]]:
    """Read an answer from each connection: its status and its JSON."""
    answers = []
    for connection in connections:
        with closing(connection):
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())))
    return answers


@pytest.mark.parametrize("flags", [("--runners", "1"), ("--processes", "2")])
def test_sigterm_under_load_loses_nothing(slow: Path, flags: tuple[str, ...]) -> None:
    """Requests in flight when the signal comes are all answered in full, then all processes end, by that signal."""
    requests = [draw_sequences([2000] * 3, features=1, seed=n) for n in range(8)]
    flags += ("--max-batch-sequences", "1", "--max-queue-seconds", "600", "--drain-seconds", "300")
    with start_service("--model", str(slow), *flags) as (process, url):
        connections = post_to_all(url, requests)
        process.send_signal(signal.SIGTERM)
        answers = read_all(connections)
        assert process.wait(60) == -signal.SIGTERM
    session = open_session(slow)
    for (status, answer), sequences in zip(answers, requests, strict=True):
        assert status == 200
        alone = np.concatenate([session.run(pad_batch([steps])) for steps in sequences])
        assert same_bits(answer["embeddings"], alone)


def test_new_requests_are_refused_while_draining(artifact: Path) -> None:
    """After the signal, a request on an open connection gets 503 or finds it closed; none is begun."""
    with start_service("--model", str(artifact)) as (process, url), httpx.Client() as client:
        body = {"sequences": [steps.tolist() for steps in draw_sequences([3])]}
        assert client.post(f"{url}/encode", json=body).status_code == 200
        process.send_signal(signal.SIGTERM)
        try:
            while (status := client.post(f"{url}/encode", json=body).status_code) == 200:
                pass  # the signal has not arrived yet
            assert status == 503
        except httpx.TransportError:
            process.wait(60)  # the listener is closed


def test_what_outlasts_the_drain_is_answered_503(slow: Path) -> None:
    """When the time to drain is up, requests that still wait are told so, and the process ends."""
    requests = [
        draw_sequences([8000] * 12, features=1, seed=n) for n in range(10)
    ]  # some 30 s of work, within the bound of steps
    flags = ["--processes", "2", "--runners", "1", "--max-batch-sequences", "1"]  # so that each has some 15 s of it
    flags += ["--drain-seconds", "1", "--max-queue-seconds", "600"]
    with start_service("--model", str(slow), *flags) as (process, url):
        connections = post_to_all(url, requests)
        process.send_signal(signal.SIGTERM)
        answers = read_all(connections)
        process.wait(60)
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 503
    assert answers[-1][1]["type"] == "urn:lengthwise:problem:draining"


def test_the_images_health_check_tells_ready_from_dead(artifact: Path) -> None:
    """The command in the Dockerfile exits 0 if the service is ready, and 1 once it has ended."""
    dockerfile = Path("Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL)
    assert found is not None
    program, *arguments = json.loads(found[1])
    assert program == "python"

    def check(pid: int) -> bool:
        command = [sys.executable, *arguments, str(pid)]  # others may serve on this machine
        code = subprocess.run(command, capture_output=True, check=False).returncode
        assert code in (0, 1)
        return not code

    with start_service("--model", str(artifact)) as (process, _):
        wait_until(lambda: check(process.pid))  # on a busy machine it may not have heard of a worker for a second
    assert not check(process.pid)


def test_a_port_that_is_taken_ends_the_start_in_the_log(artifact: Path) -> None:
    """Every line that the process writes is JSON, uvicorn's too, and the exit code is not 0."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "service", "--model", str(artifact), "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert events[-1] == f"127.0.0.1:{port} cannot be listened on: Address already in use."


INHERITED = """
import signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
found = [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
socket.getaddrinfo = lambda *_, **__: [(family, socket.SOCK_STREAM, 0, "", address) for family, address in found]
from service.__main__ import main
main()
"""


def test_one_worker_serves_and_ends_wherever_it_is_started(artifact: Path) -> None:
    """It listens where it can if its host has an address that is not here, and hears a signal that was blocked.

    Why it is the only one is told as it is of several.
    """
    program = (sys.executable, "-c", INHERITED)
    flags = ("--model", str(artifact), "--processes", "1", "--host", "localhost")
    with start_service(*flags, program=program) as (process, url):
        port = url.rpartition(":")[2]
        workers = httpx.get(f"http://127.0.0.1:{port}/info").json()["workers"]
        assert (workers["number"], workers["why"]) == (1, "LENGTHWISE_PROCESSES says so")
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
