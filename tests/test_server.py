"""The process itself, over a real socket: start, readiness, SIGTERM under load."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.sequences import pad_batch
from service.session import open_session
from tests.conftest import draw_sequences


@contextmanager
def start(artifact: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the service on a free port, and yield the process and its base URL once it listens."""
    command = [sys.executable, "-m", "service", "--model", str(artifact), "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            pytest.fail("the service ended before it listened")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or its log would fill the pipe
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def same_bits(answer: object, expected: npt.NDArray[np.float32]) -> bool:
    """Whether JSON numbers are the float32 they were written from."""
    return np.array(answer, dtype=np.float32).tobytes() == expected.tobytes()


def count_threads(pid: int) -> int:
    """Count the threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_the_service_starts_ready_and_encodes(artifact: Path) -> None:
    """Once the port answers, it is ready and encodes what the session encodes."""
    sequences = draw_sequences([4, 2])
    with start(artifact) as (_, url):
        assert httpx.get(f"{url}/health/ready").status_code == 200
        answer = httpx.post(f"{url}/encode", json={"sequences": [steps.tolist() for steps in sequences]}).json()
    assert same_bits(answer["embeddings"], open_session(artifact).run(pad_batch(sequences)))


def test_sigterm_under_load_loses_nothing(artifact: Path) -> None:
    """Requests in flight are answered in full, later ones are refused, none hangs, and the process ends."""
    session = open_session(artifact)
    outcomes: list[str] = []
    answered = threading.Event()
    requests = [draw_sequences([1 + n, 40, 3], seed=n) for n in range(8)]
    expected = [session.run(pad_batch(sequences)) for sequences in requests]

    def post_until_refused(url: str, n: int) -> None:
        body = {"sequences": [steps.tolist() for steps in requests[n]]}
        with httpx.Client(timeout=20) as client:
            while True:
                try:
                    response = client.post(f"{url}/encode", json=body)
                except httpx.ConnectError:
                    outcomes.append("no listener")
                    return
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                    # An idle connection that closed just as it was used again: the server never began the request.
                    outcomes.append("closed while idle" if "without sending" in str(error) else type(error).__name__)
                    return
                if response.status_code == 503:
                    outcomes.append("draining")
                    return
                assert response.status_code == 200
                assert same_bits(response.json()["embeddings"], expected[n])
                answered.set()

    with start(artifact) as (process, url):
        threads = [threading.Thread(target=post_until_refused, args=(url, n)) for n in range(len(requests))]
        for thread in threads:
            thread.start()
        assert answered.wait(10)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert process.wait(20) == -signal.SIGTERM
    assert len(outcomes) == len(requests)
    assert set(outcomes) <= {"no listener", "draining", "closed while idle", "ReadError", "WriteError"}


def test_a_request_in_flight_outlives_sigterm(artifact: Path) -> None:
    """A request that runs when the signal comes is answered in full, and its connection closed."""
    sequences = [steps.tolist() for steps in draw_sequences([2000] * 40)]
    results: list[httpx.Response] = []
    with start(artifact, "--max-batch-sequences", "1", "--runners", "1") as (process, url):
        before = count_threads(process.pid)
        thread = threading.Thread(
            target=lambda: results.append(httpx.post(f"{url}/encode", json={"sequences": sequences}, timeout=60))
        )
        thread.start()
        while count_threads(process.pid) == before:  # a runner's thread starts with the first batch
            assert thread.is_alive()
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        process.wait(60)
    (response,) = results
    assert response.status_code == 200
    assert len(response.json()["embeddings"]) == len(sequences)
    assert response.headers["connection"] == "close"
