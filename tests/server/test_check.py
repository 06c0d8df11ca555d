"""`python -m service check`: it finds the service that runs here and says whether it is ready."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load.launch import start_service
from service.server import check
from tests.waiting import wait_until

READY = (True, "The service is ready.")
SILENT = "The service is not ready: it did not answer within 2 s."


@pytest.mark.parametrize("flags", [(), ("--host", "127.0.0.2"), ("--processes", "2")], ids=str)
def test_a_ready_service_is_found(flags: tuple[str, ...], artifact: Path) -> None:
    """No port or address is given to the check, only the process, since others may serve on this machine."""
    with start_service("--model", str(artifact), *flags) as (process, _):
        await_ready(process.pid)
    assert check.check(process.pid) == (False, f"Process {process.pid} is not a service.")


def await_ready(pid: int) -> None:
    """Wait until the check finds a service ready; on a busy machine it may not have heard of a worker for a second."""
    wait_until(lambda: check.check(pid) == READY)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_tls_and_keys_do_not_hide_the_service(
    processes: str, artifact: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check trusts no certificate and has no key, and exits with 0."""
    monkeypatch.setenv("LENGTHWISE_API_KEYS", "a-key-of-a-caller")
    flags = ("--ssl-certfile", str(certificate[0]), "--ssl-keyfile", str(certificate[1]), "--processes", processes)
    with start_service("--model", str(artifact), *flags) as (process, url):
        assert url.startswith("https://")
        command = [sys.executable, "-m", "service", "check", str(process.pid)]

        def is_found() -> bool:
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            return (ended.returncode, ended.stdout, ended.stderr) == (0, "The service is ready.\n", "")

        wait_until(is_found)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_service_that_drains_is_not_ready(processes: str, artifact: Path) -> None:
    """While a request is still under way after SIGTERM, the check says why it fails."""
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    with start_service("--model", str(artifact), "--processes", processes) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head)
            assert connection.recv(99).startswith(b"HTTP/1.1 100")  # the body is waited for
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: "shutting down" in check.check(process.pid)[1])


def test_a_service_that_stands_still_is_not_ready(artifact: Path) -> None:
    """Its socket takes the connection, and nobody answers."""
    with start_service("--model", str(artifact)) as (process, _):
        process.send_signal(signal.SIGSTOP)
        try:
            assert check.check(process.pid) == (False, SILENT)
        finally:
            process.send_signal(signal.SIGCONT)
        await_ready(process.pid)


def test_a_service_of_processes_that_stand_still_is_not_ready(artifact: Path) -> None:
    """The first process turns, and has not heard of the others for a second."""
    with start_service("--model", str(artifact), "--processes", "2") as (process, _):
        wait_until(lambda: len(children_of(process.pid)) == 2)
        await_ready(process.pid)
        for child in children_of(process.pid):
            os.kill(child, signal.SIGSTOP)
        wait_until(lambda: check.check(process.pid)[1].endswith("none of its processes takes requests now."))
        for child in children_of(process.pid):
            os.kill(child, signal.SIGCONT)
        await_ready(process.pid)


def children_of(pid: int) -> list[int]:
    """Return the processes that serve."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_service_that_starts_is_not_ready() -> None:
    """With several processes, the first one can say so."""
    program = "import signal, sys; from service.server import serve as main; "
    program += "main.serve = lambda *_: signal.pause(); main.main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", program, "--processes", "2", "--port", "0"]) as process:
        wait_until(lambda: check.check(process.pid)[1] == "The service is not ready: it is starting.")
        started = children_of(process.pid)
        process.kill()
        for child in started:  # it waits for a signal, and not for what comes from the first process
            os.kill(child, signal.SIGKILL)


def test_several_services_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not choose one of them, and asks the one that is named."""

    def find() -> Iterator[tuple[int, socket.socket]]:
        for pid in (12, 40):
            ours, theirs = socket.socketpair()
            ours.sendall(check.READY.encode())
            ours.close()
            yield pid, theirs

    monkeypatch.setattr(check, "find", find)
    assert check.check() == (False, "Several services run here: name the process, one of 12 and 40.")
    assert check.check(40) == READY
    monkeypatch.setattr(check, "find", lambda: iter(()))
    assert check.check() == (False, "No service runs here.")


def test_a_service_of_another_container_is_left_out(artifact: Path) -> None:
    """Containers of a pod share the network, and so the names of sockets, and see no process of each other."""
    isolated = [shutil.which("unshare") or "false", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces of processes need root")
    with start_service("--model", str(artifact)) as (process, _):
        await_ready(process.pid)
        command = [*isolated, sys.executable, "-m", "service", "check"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "No service runs here.\n")


def test_names_that_are_not_text_hide_no_service() -> None:
    """Other programs may call their sockets any bytes."""
    with socket.socket(socket.AF_UNIX) as other, check.Listener().socket as ours:
        other.bind(b"\0\xff\xfe%d" % os.getpid())
        found = []
        for _, asking in check.find():
            with asking:
                found.append(asking.getpeername())
        assert ours.getsockname() in found


def test_whoever_hangs_up_or_reads_late_does_no_harm() -> None:
    """The socket of the check never waits for anyone, and reads nothing."""
    listener = check.Listener()
    with listener.socket as open_socket:
        listener.answer(lambda: check.READY)  # nobody has connected
        name = open_socket.getsockname()
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(name)
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(name)
            late.sendall(b"GET /health/ready HTTP/1.1\r\n\r\n")
            listener.answer(lambda: check.READY)  # to the one that has gone
            listener.answer(lambda: check.READY)
            assert late.recv(99) == b"ready"


STARVED = """
import os, resource, select, socket
from service.server import check
listener = check.Listener()
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(listener.socket.getsockname())
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    opened = []
    try:
        while True:
            opened.append(open(os.devnull))
    except OSError:
        pass  # this process may open no more files
    for _ in range(2):
        listener.answer(lambda: check.READY)
    asking.settimeout(60)
    is_waiting = bool(select.select([listener.socket], [], [], 0)[0])
    print(asking.recv(99).decode(), is_waiting)
"""


def test_a_process_that_may_open_no_more_files_answers_all_the_same() -> None:
    """It has a file to spare. Without it the question would wait, and wake the event loop again and again."""
    told = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "ready False\n"


def test_the_check_imports_nothing_heavy() -> None:
    """A health check runs every few seconds, so it starts without the service's dependencies."""
    heavy = "{'asyncio', 'fastapi', 'numpy', 'onnxruntime', 'pydantic', 'uvicorn'}"
    code = f"import sys, service.__main__, service.server.check; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_elsewhere_than_on_linux_the_check_says_what_to_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no socket with a name and no file, and the exit code is 1."""
    monkeypatch.setattr(check, "SOCKETS", Path("/nowhere"))
    with pytest.raises(SystemExit, match="1"):
        check.main([])
    assert capsys.readouterr().out == "This needs Linux; elsewhere ask /health/ready.\n"
