"""The servers that are measured: how each is installed, started, asked and stopped."""

import argparse
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench.load.generator import ask
from bench.load.workloads import JSON, KSERVE_BINARY, KSERVE_JSON, NPZ, SIZES, Wire
from service.costs.cpus import available_cpus

READY_SECONDS = 120.0
FIRST_PORT, PORTS = 20_000, 12_000
_places = count(64 * os.getpid())
STOP_SECONDS = 15.0


class Unavailable(Exception):
    """A server cannot be installed, started or trusted; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One row of the table.

    Attributes:
        name: the row's name.
        peer: a module in `bench.load.peers`, with its requirements beside it; None for our own service.
        workers: a peer's processes or instances that run the model, which share the CPUs out among them as threads;
            None for one a CPU.
        wire: how it is asked.
        is_json: whether it may be the best peer, which our own JSON is compared with.
        processes: our own service's workers, a number or `auto`; empty for its default.
        module: our own program that is run.
        batch: a peer's settings of its batches.
        wait_ms: how long a peer may wait for a batch to fill.
        grpc_port: the port on which a peer also takes calls of gRPC; None if it takes none.
    """

    name: str
    peer: str | None = None
    workers: int | None = None
    wire: Wire = JSON
    is_json: bool = True
    processes: str = ""
    module: str = "service"
    batch: int = 32
    wait_ms: int = 2
    grpc_port: int | None = None

    def prepare(self, folder: Path) -> Path:
        """Return the interpreter that runs it; the first time, an environment is made for it.

        Raises:
            Unavailable: what it needs cannot be installed.
        """
        return Path(sys.executable) if self.peer is None else _make_environment(self.peer, folder)

    def command(self, python: Path, model: Path, port: int) -> list[str]:
        """Return what starts it; of a folder, our own serves every model."""
        if self.peer is not None:
            return [str(python), "-m", f"bench.load.peers.{self.peer}"]
        model_flag = "--models" if model.is_dir() else "--model"
        command = [str(python), "-m", self.module, model_flag, str(model), "--port", str(port)]
        if self.processes:
            command += ["--processes", self.processes]
        return [*command, "--log-level", "warning"]

    def environment(self, model: Path, port: int) -> dict[str, str]:
        """Return the variables a server finds; a peer is told everything by them."""
        if self.peer is None:
            return dict(os.environ)
        workers = self.workers or available_cpus()
        return {
            **os.environ,
            "BENCH_MODEL": str(model),
            "BENCH_FEATURES": str(SIZES[model.stem].features),
            "BENCH_PORT": str(port),
            "BENCH_WORKERS": str(workers),
            "BENCH_THREADS": str(max(1, available_cpus() // workers)),
            "BENCH_BATCH": str(self.batch),
            "BENCH_WAIT_MS": str(self.wait_ms),
            "BENCH_GRPC_PORT": str(self.grpc_port or ""),
            "DO_NOT_TRACK": "1",
            # Triton's Python stub links libpython: it must be the one whose standard library it will find.
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        }


OURS = Server("lengthwise")
OURS_BINARY = replace(OURS, name="lengthwise, npz", wire=NPZ, is_json=False)
ALONE = replace(OURS, name="lengthwise, 1 process", processes="1")
MOSEC = Server("mosec, orjson", "mosec", batch=16, wait_ms=1)
TRITON_BINARY = Server("Triton, binary", "pytriton", wire=KSERVE_BINARY, is_json=False, batch=64, wait_ms=0)
PEERS = [
    Server("naive, 1 worker", "naive", workers=1),
    Server("naive, a worker a CPU", "naive"),
    Server("LitServe", "litserve"),
    MOSEC,
    Server("Triton, JSON", "pytriton", wire=KSERVE_JSON, batch=64, wait_ms=0),
    TRITON_BINARY,
]


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Let a measure of our own service be told its number of workers."""
    parser.add_argument(
        "--processes", default="", metavar="N", help="of the service: a number, or auto; its own default if not given"
    )


@dataclass(frozen=True, slots=True)
class Running:
    """A started server.

    Attributes:
        process: its first process, the leader of a session of its own.
        port: the port it listens on.
        ready_seconds: seconds from its start to its first answer.
    """

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float

    @property
    def resident_mb(self) -> float:
        """Resident memory of all its processes in 10^6 bytes; what they share counts in each."""
        return sum(map(_resident_bytes, find_family(self.process.pid))) / 1e6


@contextmanager
def start(server: Server, python: Path, model: Path, first: bytes, log: Path) -> Iterator[Running]:
    """Start a server, and stop it and all it started at the end.

    Args:
        server: the row's server.
        python: the interpreter from `Server.prepare`.
        model: the ONNX file.
        first: a request; the server is ready when it answers it.
        log: takes what the server writes.

    Raises:
        Unavailable: it ended, or answered nothing in time.
    """
    port = find_port()
    with log.open("wb") as written:
        began = time.perf_counter()
        process = subprocess.Popen(
            server.command(python, model, port),
            env=server.environment(model, port),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_ready(process, port, first, log)
            yield Running(process, port, time.perf_counter() - began)
        finally:
            _stop(process)


def _await_ready(process: subprocess.Popen[bytes], port: int, first: bytes, log: Path) -> None:
    end = time.perf_counter() + READY_SECONDS
    answer = "nothing"
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise Unavailable(f"it ended with {process.returncode}: {_last_line(log.read_text(errors='replace'))}")
        try:
            answer, _ = ask(port, first)
        except OSError:
            answer = "nothing"
        if answer == "200":
            return
        time.sleep(0.01)
    raise Unavailable(f"it answered {answer} for {READY_SECONDS:.0f} s")


def find_port() -> int:
    """Return a free port of this machine, another one at each call.

    Nobody else should take it before it is used: it is below the ports that the kernel gives out by itself, and
    processes of other numbers begin their search elsewhere.
    """
    while True:
        port = FIRST_PORT + next(_places) % PORTS
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server as its users would, then whatever it left behind."""
    family = find_family(process.pid)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family:
        if Path(f"/proc/{pid}").exists():
            _kill_own(pid, process.pid)


def _kill_own(pid: int, leader: int) -> None:
    """Kill a process that a server left, if its number still belongs to the server's session."""
    try:
        if os.getsid(pid) == leader:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended meanwhile


def find_family(pid: int) -> list[int]:
    """Return a process and all its descendants, as Linux's `/proc` tells them."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it ended meanwhile
        return 0


def _make_environment(peer: str, folder: Path) -> Path:
    """Make a virtual environment from a peer's pinned requirements, or take the one made from the same."""
    requirements = Path(__file__).parent / "peers" / f"{peer}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    environment = folder / peer
    python, stamp = environment / "bin" / "python", environment / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    for command in ([sys.executable, "-m", "venv", str(environment)], install):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise Unavailable(f"it cannot be installed: {_last_line(ran.stderr or ran.stdout)}")
    stamp.write_text(digest)
    return python


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"
