"""Several workers behind one port: who gets which connection, and what becomes of one that ends."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.load.launch import start_service
from bench.load.servers import find_family
from bench.load.workloads import JSON
from service import upkeep
from service.api.routing import Service
from service.encoder.sequences import pad_batch
from service.encoder.session import open_session
from service.server import check
from tests.conftest import draw_sequences
from tests.server.test_server import same_bits
from tests.several import start_two
from tests.waiting import list_opened, wait_until

TWO = ("--processes", "2")
BODY = {"sequences": [steps.tolist() for steps in draw_sequences([3, 1])]}
ASKED = JSON.write(draw_sequences([3, 1]))


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that serve."""
    return find_family(process.pid)[1:]


def wait_for_both(process: subprocess.Popen[str], url: str) -> None:
    """Wait until two processes tell their metrics."""
    wait_until(lambda: len(children_of(process)) == 2 and len(count_requests(url)) == 2)


def hold_first(process: subprocess.Popen[str], url: str) -> httpx.Client:
    """Open a connection to one of two processes, and return once the first one knows that there is no other."""
    client = httpx.Client(base_url=url)

    def is_alone() -> bool:
        found = re.findall(r"^lengthwise_connections\{.*\} (.*)$", client.get("/metrics?by=process").text, re.MULTILINE)
        return sorted(found) == ["0.0", "1.0"]

    wait_until(is_alone)
    assert is_alone()  # in another turn of both, before which they have told the first one
    check.check(process.pid)  # it answers in a turn, and has heard them before the next
    return client


def count_requests(url: str) -> dict[str, float]:
    """Return the answers of each process by their metrics; a process that tells any has a part."""
    counts = Counter[str]()
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics?by=process").text):
        for sample in family.samples:
            if family.name == "lengthwise_inflight_requests":
                counts[sample.labels["process"]] += 0
            if sample.name == "lengthwise_requests_total" and sample.labels["route"] == "/encode":
                counts[sample.labels["process"]] += int(sample.value)
    return dict(counts)


def test_connections_are_shared_out_evenly(artifact: Path) -> None:
    """Of four connections each process has two, whatever is scraped beside them; and each answer has its own bits."""
    alone = [open_session(artifact).run(pad_batch([steps])) for steps in draw_sequences([3, 1])]
    with start_two("--model", str(artifact)) as (process, url), ExitStack() as opened:
        wait_for_both(process, url)
        clients = [opened.enter_context(closing(hold_first(process, url)))]
        clients += [opened.enter_context(httpx.Client(base_url=url)) for _ in range(3)]
        for client in clients * 3:
            assert same_bits(client.post("/encode", json=BODY).json()["embeddings"], np.concatenate(alone))
        assert count_requests(url) == {"0": 6, "1": 6}
        scraped = httpx.get(f"{url}/metrics").text
        assert set(re.findall(r"^lengthwise_inflight_requests (.*)$", scraped, re.MULTILINE)) == {"0.0"}
        described = clients[0].get("/info").json()
        assert described["settings"]["processes"] == 2


def test_processes_tell_only_each_other(artifact: Path) -> None:
    """Any user of the machine can find the sockets by which they ask, and learns nothing there."""
    with start_service("--model", str(artifact), *TWO) as (process, url):
        wait_for_both(process, url)
        opened = {found for child in children_of(process) for found in list_opened(child)}
        told = Path("/proc/net/unix").read_text()
        there = re.findall(r"(\d+) @(lengthwise-\w+-[01])$", told, re.MULTILINE)  # of all services of the machine
        names = {name for inode, name in there if f"socket:[{inode}]" in opened}
        assert len(names) == 2
        for name in names:
            with closing(socket.socket(socket.AF_UNIX)) as stranger:
                stranger.settimeout(60)
                stranger.connect(f"\0{name}")
                stranger.sendall(bytes(32))
                with suppress(ConnectionResetError):  # it hung up with what we said unread
                    assert stranger.recv(1) == b""


def test_a_process_that_is_killed_is_replaced(artifact: Path) -> None:
    """Its connections break; those of the other go on, and new ones are served.

    So it is if whoever started the service ignores the ends of children, and left that to it.
    """
    ignorant = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    with start_two("--model", str(artifact), first=ignorant) as (process, url), ExitStack() as opened:
        wait_for_both(process, url)
        opened.enter_context(closing(hold_first(process, url)))
        host = url.removeprefix("http://")
        clients = [opened.enter_context(closing(HTTPConnection(host, timeout=60))) for _ in range(4)]

        def is_answered(client: HTTPConnection) -> bool:
            with suppress(OSError, HTTPException):  # it does not connect again by itself, as httpx does
                client.request("POST", "/encode", json.dumps(BODY), {"Content-Type": "application/json"})
                response = client.getresponse()
                response.read()
                return response.status == 200
            return False

        assert all(map(is_answered, clients))
        victim, other = children_of(process)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not is_there(victim))
        broken = sum(not is_answered(client) for client in clients)
        assert 0 < broken < len(clients)
        wait_until(lambda: len(children_of(process)) == 2 and victim not in children_of(process))
        assert other in children_of(process)
        wait_for_both(process, url)
        assert httpx.post(f"{url}/encode", json=BODY).status_code == 200


@contextmanager
def start_patched(patch: str, artifact: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start the service in two processes, some of its Python changed; its log is read up to the last start."""
    program = f"import os\nfrom service.server import workers\n{patch}\nfrom service.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "--port", "0", "--model", str(artifact), *TWO]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        log = process.stderr
        assert log is not None
        for awaited in ("running on", "Application startup complete"):
            assert any(awaited in line for line in log)
        try:
            yield process, log
        finally:
            process.terminate()
        log.read()
        assert process.wait(60) == -signal.SIGTERM


def test_one_that_stands_still_is_replaced(artifact: Path) -> None:
    """One that is not heard of is ended."""
    with start_patched("workers.HUNG_SECONDS = 1.0", artifact) as (process, log):
        victim = children_of(process)[0]
        os.kill(victim, signal.SIGSTOP)
        assert any(f"Process {victim} was not heard of" in line for line in log)
        assert any("started anew" in line for line in log)
        wait_until(lambda: len(children_of(process)) == 2 and victim not in children_of(process))


def test_where_all_stand_still_all_are_replaced(artifact: Path) -> None:
    """None of them is taken for one that could not start."""
    patch = "workers.HUNG_SECONDS, workers.START_SECONDS = 3.0, 10.0"  # one may be stopped before it serves
    with start_patched(patch, artifact) as (process, _):
        victims = children_of(process)
        for victim in victims:
            os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: len(children_of(process)) == 2 and not set(victims) & set(children_of(process)))


STOPS_THE_THIRD = """
fork, forked = os.fork, []

def fork_and_stop():
    forked.append(fork())
    if len(forked) == 3:
        workers.START_SECONDS = 1.0  # the two before it have started
        if not forked[-1]:
            os.kill(os.getpid(), 19)
    return forked[-1]

workers.HUNG_SECONDS, os.fork = 600.0, fork_and_stop
"""


def test_one_that_stands_still_while_it_starts_is_replaced(artifact: Path) -> None:
    """One that takes another's place and does not come to serve is ended, too."""
    with start_patched(STOPS_THE_THIRD, artifact) as (process, log):
        victim, other = children_of(process)
        os.kill(victim, signal.SIGKILL)
        assert any("was not heard of for 1 s" in line for line in log)
        wait_until(lambda: len(children_of(process)) == 2 and victim not in children_of(process))
        assert other in children_of(process)


LATER = """
import time
from types import SimpleNamespace
clock = lambda: time.monotonic() + 1000.0 * os.path.exists({later!r})
workers.time = SimpleNamespace(monotonic=clock, sleep=time.sleep)
"""


def test_where_the_first_stands_still_nobody_is_ended(artifact: Path, tmp_path: Path) -> None:
    """A debugger, or Ctrl-Z, stops it alone for long, and nobody hears the others; afterwards they are as before."""
    later = tmp_path / "later"
    with start_patched(LATER.format(later=str(later)), artifact) as (process, _):
        children = children_of(process)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        later.touch()
        process.send_signal(signal.SIGCONT)
        for _ in range(2):
            check.check(process.pid)  # when it answers for the second time, it has looked at all of them
        assert children_of(process) == children


def test_a_process_that_cannot_be_started_is_tried_again(artifact: Path) -> None:
    """The machine may have no room for it, and the other serves meanwhile."""
    patch = (
        "fork, answers = os.fork, iter([0, 0, 1]); "
        "os.fork = lambda: fork() if not next(answers, 0) else os.stat('/nowhere')"
    )
    with start_patched(patch, artifact) as (process, log):
        victim, other = children_of(process)
        os.kill(victim, signal.SIGKILL)
        assert any("A process cannot be started" in line for line in log)
        wait_until(lambda: len(children_of(process)) == 2)
        assert other in children_of(process)


def count_under_way(url: str) -> list[str]:
    """Return how many requests each process is answering."""
    told = httpx.get(f"{url}/metrics?by=process").text
    return re.findall(r"^lengthwise_inflight_requests\{.*\} (.*)$", told, re.MULTILINE)


def test_one_that_drains_gets_no_connection(artifact: Path) -> None:
    """It has the fewest of all, and would refuse what comes."""
    with start_two("--model", str(artifact)) as (process, url), ExitStack() as opened:
        wait_for_both(process, url)
        opened.callback(hold_first(process, url).close)
        host = url.removeprefix("http://")
        connections = [opened.enter_context(closing(HTTPConnection(host, timeout=60))) for _ in range(3)]
        connections[0].connect()  # each has one then, and the next two are one on each
        for connection in connections[1:]:
            connection.putrequest("POST", "/encode")
            connection.putheader("Content-Length", "9")
            connection.endheaders(b"{")
        wait_until(lambda: count_under_way(url) == ["1.0", "1.0"])
        leaving = children_of(process)[0]
        os.kill(leaving, signal.SIGTERM)

        def are_answered() -> bool:
            with suppress(httpx.TransportError):
                return all(httpx.post(f"{url}/encode", json=BODY).status_code == 200 for _ in range(12))
            return False

        wait_until(are_answered)  # until it has said that it leaves
        assert are_answered()
        assert is_there(leaving)


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_none_outlives_the_first(artifact: Path) -> None:
    """Where the first process is killed, the others end by themselves; one that SIGHUP comes to goes on."""
    with start_service("--model", str(artifact), *TWO) as (process, url):
        wait_for_both(process, url)
        process.send_signal(signal.SIGHUP)
        assert httpx.post(f"{url}/encode", json=BODY).status_code == 200
        children = children_of(process)
        process.kill()
        process.wait()
        wait_until(lambda: not any(is_there(child) for child in children))


def fail(
    *flags: str, hinder: Callable[[subprocess.Popen[str]], None] = lambda _: None, serve: str = "main.serve"
) -> tuple[int, str]:
    """Start what cannot start, and return how it ended and the one sentence that it said; `serve` is Python."""
    program = "import os, signal, time; import sys; from service.server import serve as main; "
    program += f"main.serve = {serve}; main.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *TWO, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            hinder(process)
        except BaseException:
            process.kill()  # or nobody would see why
            raise
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Traceback" not in said
    lines = [json.loads(line) for line in said.splitlines()]  # all of it is the log's JSON
    (sentence,) = (line["event"] for line in lines if line["level"] == "error")
    return process.returncode, sentence


def test_what_hinders_the_start_is_one_sentence(artifact: Path, tmp_path: Path) -> None:
    """A model that is none, a port that is taken before or meanwhile, a process that dies of it."""
    nothing = tmp_path / "nothing.onnx"
    nothing.write_bytes(b"nothing")
    code, said = fail("--port", "0", "--model", str(nothing))
    assert code == 1
    assert str(nothing) in said
    with closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        listening = tmp_path / "listening"
        late = f"iter(lambda: os.path.exists({str(listening)!r}), True)"  # or it might listen first
        late = f"(lambda go: lambda *given: [time.sleep(0.01) for _ in {late}] and None or go(*given))(main.serve)"

        def listen_first(process: subprocess.Popen[str]) -> None:
            wait_until(lambda: len(children_of(process)) > 0)
            taken.listen()
            listening.touch()

        expected = (1, f"127.0.0.1:{port} cannot be listened on: Address already in use.")
        assert fail("--port", str(port), "--model", str(artifact), hinder=listen_first, serve=late) == expected
        assert fail("--port", str(port), "--model", str(artifact)) == expected

    def kill_first(process: subprocess.Popen[str]) -> None:
        wait_until(lambda: len(children_of(process)) > 0)
        os.kill(children_of(process)[0], signal.SIGKILL)

    endless = "lambda *_: signal.pause()"  # or it might be ready before it is killed
    code, said = fail("--port", "0", "--model", str(artifact), hinder=kill_first, serve=endless)
    assert (code, said) == (1, "The first process ended by signal 9 while it started.")


def test_where_none_can_be_started_any_more_all_ends(artifact: Path, tmp_path: Path) -> None:
    """The artifact has gone, and all processes with it: whoever started the service is to know."""
    model = tmp_path / "model.onnx"
    model.write_bytes(artifact.read_bytes())
    with start_service("--model", str(model), *TWO) as (process, url):
        wait_for_both(process, url)
        model.unlink()
        for child in children_of(process):
            os.kill(child, signal.SIGKILL)
        assert process.wait(60) == 1


def test_a_process_whose_requests_wait_in_vain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the signal that lets others drain."""
    monkeypatch.setattr(upkeep, "IDLE_SECONDS", 0.01)
    looks = iter([False, True])
    service = SimpleNamespace(engine=SimpleNamespace(is_stuck=lambda _: next(looks)))

    async def leave() -> None:
        signalled = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled.set)
        await upkeep.leave_when_stuck(cast("Service", service))
        async with asyncio.timeout(60):
            await signalled.wait()

    asyncio.run(leave())


def test_a_connection_that_hangs_up_at_once_disturbs_nobody(artifact: Path) -> None:
    """Accepted or not, it is forgotten."""
    with start_service("--model", str(artifact), *TWO) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        for _ in range(20):
            socket.create_connection((host, int(port))).close()
        connection = HTTPConnection(host, int(port), timeout=60)
        with closing(connection), suppress(HTTPException):
            connection.request("GET", "/health/ready")
            assert connection.getresponse().status == 200


def test_workers_share_the_weights_that_the_first_process_loaded(artifact: Path, tmp_path: Path) -> None:
    """None of them loads the artifact again."""
    loaded = tmp_path / "loaded"
    told = "from service.encoder import runtime; load = runtime._load; runtime._load = lambda *given: "
    told += f"open({str(loaded)!r}, 'a').write(f'{{os.getpid()}} ') and load(*given)"
    with start_patched(told, artifact) as (process, _):
        assert loaded.read_text() == f"{process.pid} "


def test_only_a_signal_that_says_stop_ends_a_start(artifact: Path) -> None:
    """SIGHUP comes while the first process loads the artifact, and it goes on; at SIGTERM it exits by itself.

    In a container the first process has to, since there a signal that it does not handle does nothing.
    """
    sent = "from service.catalogue import ahead; load = ahead._load; "
    sent += "ahead._load = lambda *given: os.kill(os.getpid(), {}) or load(*given)"
    with start_patched(sent.format(int(signal.SIGHUP)), artifact) as (process, _):
        assert process.poll() is None
    program = f"import os; {sent.format(int(signal.SIGTERM))}; from service.__main__ import main; main()"
    command = [sys.executable, "-c", program, "--port", "0", "--model", str(artifact), *TWO]
    ended = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False)
    assert ended.returncode == 128 + signal.SIGTERM


def test_one_that_starts_and_misses_the_signal_ends_with_the_others(artifact: Path) -> None:
    """Python drops an exception in some places, that of a signal too; the end of the channel says it again."""
    patch = """
from service.server import serve
create = serve.create_app
def miss(settings, worker, *rest):
    app = create(settings, worker, *rest)
    if worker.number:
        try:
            os.kill(os.getppid(), 15)
            workers.time.sleep(60)
        except SystemExit:
            pass
    return app
serve.create_app = miss
workers._Supervisor._signal = lambda _, wanted: wanted == 9 and os._exit(1)  # the time to drain is over
"""
    with start_patched(patch, artifact):
        pass


def end_while_they_wait(pid: int, url: str, count: int) -> set[bytes]:
    """Ask on so many connections, end the service before it accepts one, and return the answers' codes."""
    host, port = url.removeprefix("http://").split(":")
    with ExitStack() as opened:
        os.kill(pid, signal.SIGSTOP)  # so that nothing is accepted
        clients = [opened.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(count)]
        for client in clients:
            client.sendall(ASKED)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        return {client.recv(2**16).split()[1] for client in clients}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_connection_that_waits_when_the_service_is_told_to_end_is_answered(artifact: Path, processes: str) -> None:
    """The kernel would reset it when the listener closes, or when it is closed before its request is read."""
    with start_service("--model", str(artifact), "--processes", processes) as (process, url):
        assert end_while_they_wait(process.pid, url, 400) <= {b"200", b"503"}


SLOW_TO_ACCEPT = """
import time
from types import SimpleNamespace
from service.server import workers

accept, accepted = workers.accept, []
workers.accept = lambda *given: accepted.append(given) or accept(*given)
workers.time = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.5 * len(accepted))  # on paper
"""


def test_connections_that_wait_are_answered_however_long_it_takes_to_hand_them_on(artifact: Path) -> None:
    """A machine that is busy hands on two a second, and those that wait are answered all the same."""
    with start_two("--model", str(artifact), first=SLOW_TO_ACCEPT) as (process, url):
        assert end_while_they_wait(process.pid, url, 20) <= {b"200", b"503"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_more_that_wait_than_files_may_be_opened_do_not_disturb_the_end(artifact: Path, processes: str) -> None:
    """As many as there may be are answered, and the service ends by its signal."""
    with start_service("--model", str(artifact), "--processes", processes) as (process, url), ExitStack() as opened:
        host, port = url.removeprefix("http://").split(":")
        for pid in find_family(process.pid):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (60, 60))
        os.kill(process.pid, signal.SIGSTOP)  # so that nothing is accepted
        clients = [opened.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(200)]
        clients[0].sendall(ASKED)  # the others say nothing, and keep what they got
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)
        assert clients[0].recv(2**16).split()[1] in {b"200", b"503"}
        assert process.wait() == -signal.SIGTERM
