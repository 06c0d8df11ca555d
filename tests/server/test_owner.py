"""The process that owns a GPU, with a CPU behind it: what it merges, what it answers, and what becomes of it."""

import gc
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.load.servers import find_family
from service.encoder.channel import OwnerFailed
from service.encoder.providers import CPU_PROVIDER, CUDA_PROVIDER
from service.encoder.region import MOST_BYTES, Region
from service.encoder.remote import Owners, RemoteRuntime
from service.encoder.sequences import Batch, pad_batch
from service.encoder.session import EncoderSession
from service.errors import ArtifactError, ProviderUnavailable, RunLost
from service.server.owner import keeping
from service.server.owner.keeping import Keeper, Place
from service.settings import Settings
from tests.conftest import MADE, draw_sequences
from tests.server.test_processes import is_there
from tests.waiting import list_opened, wait_until

CONTENT = MADE.read_bytes()


@contextmanager
def keep(number: int = 1, **settings: object) -> Iterator[Keeper]:
    """Keep owners that run things on the CPU, as the first process of a service does."""
    keeper = Keeper(Settings(**settings), [Place("cpu", device) for device in range(number)])  # type: ignore[arg-type]
    selector, is_over = selectors.DefaultSelector(), threading.Event()

    def attend() -> None:
        keeper.attend(lambda link, hear: selector.register(link, selectors.EVENT_READ, hear), selector.unregister)
        while not is_over.is_set():
            for key, _ in selector.select(0.02):
                key.data()

    attending = threading.Thread(target=attend)
    attending.start()
    try:
        yield keeper
    finally:
        is_over.set()
        attending.join()
        selector.close()
        keeper.close()


@pytest.fixture(scope="module")
def owners() -> Iterator[Owners]:
    """An owner that tests may share."""
    with keep() as keeper:
        yield keeper.owners


def pid_of(keeper: Keeper) -> int:
    """Return the process that is the owner now."""
    return keeper._seats[0].process.pid


def open_remote(owners: Owners, content: bytes = CONTENT) -> EncoderSession:
    """Open an encoder that the owner runs."""
    return EncoderSession(content, "made.onnx", runtime=owners.open(content, "made.onnx"))


def runtime_of(session: EncoderSession) -> RemoteRuntime:
    """Return what runs a session's graph."""
    assert isinstance(session._runtime, RemoteRuntime)
    return session._runtime


def draw_batch(seed: int) -> Batch:
    """Draw a batch of some rows and lengths."""
    lengths = np.random.default_rng(seed).integers(0, 40, 1 + seed % 7)
    return pad_batch(draw_sequences(lengths.tolist(), seed=seed))


def shared_memory() -> set[int]:
    """Return the shared memory that this process has open, by the kernel's numbers; nobody can see it by a name."""
    gc.collect()  # what earlier tests left behind would go at some time
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # a thread closed it meanwhile
            if str(one.readlink()).startswith("/memfd:"):
                found.add(one.stat().st_ino)
    return found


def test_a_session_of_another_process_is_the_same_session(owners: Owners) -> None:
    """It says the same of itself, gives the same bits, and proves itself by the same golden vectors."""
    remote, local = open_remote(owners), EncoderSession(CONTENT, "made.onnx")
    for name in ("sha256", "kind", "dim", "width", "outputs", "manifest", "provider", "state_shape", "takes_state"):
        assert getattr(remote, name) == getattr(local, name)
    assert remote.measured
    assert not local.measured
    assert remote.replay_golden() == local.replay_golden()
    for seed in range(20):
        batch = draw_batch(seed)
        assert remote.run(batch).tobytes() == local.run(batch).tobytes()
    remote.release_memory()
    everything, same = remote.run_all(batch), local.run_all(batch)
    assert everything.embeddings.tobytes() == same.embeddings.tobytes()
    assert everything.state.keys() == same.state.keys()


def test_many_askers_get_their_own_rows(owners: Owners) -> None:
    """Batches of eight threads share runs, and each is answered with the bits that it would have alone."""
    remote, local = open_remote(owners), EncoderSession(CONTENT, "made.onnx")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: remote.run(draw_batch(seed)), range(300)))
    for seed, rows in enumerate(found):
        assert rows.tobytes() == local.run(draw_batch(seed)).tobytes()


def test_what_is_no_encoder_is_refused_with_the_reason(owners: Owners) -> None:
    """The owner says what is wrong with a file, and goes on."""
    with pytest.raises(ArtifactError, match=r"made.onnx cannot be served: ONNX Runtime refuses it"):
        open_remote(owners, b"nothing of the kind")
    assert open_remote(owners).dim == 16


def test_an_owner_that_is_killed_comes_back() -> None:
    """What it was asked for is lost and says so; later runs wait for the next process, and nothing hangs."""
    shared = shared_memory()
    lose_an_owner()
    assert shared_memory() <= shared


def lose_an_owner() -> None:
    """Ask an owner from several threads while it is killed, and until its successor has answered them."""
    local = EncoderSession(CONTENT, "made.onnx")
    with keep() as keeper:
        remote = open_remote(keeper.owners)
        first, lost, right = pid_of(keeper), [], []
        is_over = threading.Event()

        def ask(seed: int) -> None:
            expected = local.run(draw_batch(seed)).tobytes()
            while not is_over.is_set():
                try:
                    right.append(remote.run(draw_batch(seed)).tobytes() == expected)
                except RunLost as error:
                    lost.append(str(error))

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, seed) for seed in range(4)]
            try:
                wait_until(lambda: len(right) > 50)
                os.kill(first, signal.SIGKILL)
                wait_until(lambda: pid_of(keeper) != first)
                before = len(right)
                wait_until(lambda: len(right) > before + 50)
            finally:
                is_over.set()  # or a failure would leave them asking for ever
            for one in asking:
                one.result(60)
        assert all(right)
        assert len(lost) <= 4
        assert all("the process that owns the GPU ended" in reason for reason in lost)


ASKING = r"""
import sys, threading
from pathlib import Path
from service.encoder.region import Region
from service.encoder.remote import Owners
from service.encoder.session import EncoderSession
from tests.server.test_owner import draw_batch, open_remote
owners = Owners(("\0" + sys.argv[1],), Region.of(8), 30.0)
session = open_remote(owners)
print("asking", flush=True)
for _ in range(3):
    threading.Thread(target=lambda: [session.run(draw_batch(n % 20)) for n in range(10**9)], daemon=True).start()
threading.Event().wait()
"""


def test_an_asker_that_is_killed_leaves_nothing_behind() -> None:
    """The owner gives up its channels and their memory, and serves the others."""
    with keep() as keeper:
        remote = open_remote(keeper.owners)
        remote.run(draw_batch(1))
        owner = pid_of(keeper)
        before = len(list_opened(owner))
        command = [sys.executable, "-c", ASKING, keeper.owners.addresses[0][1:]]
        for _ in range(2):
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                try:
                    assert process.stdout
                    assert process.stdout.readline() == b"asking\n"
                    wait_until(lambda: len(list_opened(owner)) > before + 2)
                finally:
                    process.kill()
            wait_until(lambda: len(list_opened(owner)) <= before)
        assert remote.run(draw_batch(1)).tobytes() == EncoderSession(CONTENT, "").run(draw_batch(1)).tobytes()


def test_a_stranger_who_says_nothing_that_makes_sense_is_hung_up_on(owners: Owners) -> None:
    """Whatever is wrong with what is asked, the channel is closed and the owner goes on."""
    remote = open_remote(owners)
    channel, _ = runtime_of(remote)._take()
    region = Region.of(1)
    socket.send_fds(channel._socket, [bytes(30)], [region.fd])
    assert channel._socket.recv(100) == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(owners.addresses[0])
        stranger.send(b"{")
        assert stranger.recv(2**16) == b""
    assert len(remote.run(draw_batch(3))) == 4


def test_shared_memory_is_bounded(owners: Owners) -> None:
    """No region is larger than the most, none can be shrunk under another process, and what is not one is refused."""
    with pytest.raises(MemoryError, match="too many to hand to another process"):
        Region.of(MOST_BYTES + 1)
    region = Region.of(2**20)
    with pytest.raises(PermissionError):
        os.ftruncate(region.fd, 1)
    with pytest.raises(PermissionError):
        os.ftruncate(region.fd, 2**21)
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 100)
    with pytest.raises(ValueError, match="not sealed"):
        Region(unsealed)
    remote = open_remote(owners)
    runtime = runtime_of(remote)
    remote.run(pad_batch(draw_sequences([2000] * 60)))
    (channel,) = runtime._idle[0]
    assert channel._region
    assert channel._region.size > 2**20
    remote.release_memory()
    assert channel._region is None
    assert len(remote.run(draw_batch(3))) == 4


def test_two_owners_share_the_work() -> None:
    """A run goes to the one that is free first, by the board that they write; if one is away, to the other."""
    with keep(2) as keeper:
        remote = open_remote(keeper.owners)
        board = keeper._board
        now = time.perf_counter()
        board[:] = now + 1000, now
        assert keeper.owners.by_turn() == [1, 0]
        board[:] = now, now + 1000
        assert keeper.owners.by_turn() == [0, 1]
        board[:] = inf, now + 1000
        assert keeper.owners.by_turn() == [1, 0]
        for number in (0, 1):
            board[number], board[1 - number] = 0.0, now + 1000
            assert len(remote.run(draw_batch(3))) == 4
            assert board[number] > now  # it wrote there


def fail_on_unknown_ids() -> bytes:
    """Return a graph of token ids that fails on ids over 3, as a lookup does."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(4, 1), "table")
    axes = numpy_helper.from_array(np.array([1]), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "sequences"], ["found"]),
            helper.make_node("ReduceSum", ["found", "axes"], ["sums"], keepdims=0),
            helper.make_node("Cast", ["lengths"], ["counts"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["counts", "axes"], ["column"]),
            helper.make_node("Add", ["sums", "column"], ["embedding"]),
        ],
        "lookup",
        [
            helper.make_tensor_value_info("sequences", TensorProto.INT64, ["n", "t"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 1])],
        [table, axes],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def test_a_failing_batch_is_its_own_askers_alone(owners: Owners) -> None:
    """Whatever it shared a run with is answered, and its asker is told what the runtime said."""
    remote = open_remote(owners, fail_on_unknown_ids())
    good = Batch(np.array([[1, 2], [3, 0]]), np.array([2, 1]))
    bad = Batch(np.array([[1, 9]]), np.array([2]))

    def ask(number: int) -> list[float] | str:
        try:
            return [float(each) for each in remote.run(bad if number % 4 == 0 else good)[:, 0]]
        except OwnerFailed as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(80)))
    assert [one for number, one in enumerate(found) if number % 4] == [[5.0, 4.0]] * 60
    assert all("indices element out of data bounds" in str(one) for one in found[::4])


def test_devices_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU named gets an owner, once; without the CUDA provider, or on the CPU, there is none."""
    assert Settings(cuda_device=1).cuda_devices == (1,)
    assert keeping.find_places(Settings(cuda_device="0,1,0")) == []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    assert keeping.find_places(Settings(cuda_device="0,1,0")) == [Place("cuda", 0), Place("cuda", 1)]
    assert keeping.find_places(Settings(provider="cpu")) == []


def test_a_gpu_that_cannot_be_used_is_refused_or_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`cuda` ends the start with the reason; `auto` says it and takes the CPU."""
    monkeypatch.setattr(keeping, "find_places", lambda _: [Place("cuda", 0)])
    with pytest.raises(ProviderUnavailable, match=r"the GPU 0 cannot be used: .*install onnxruntime-gpu"):
        keeping.start_owners(Settings(provider="cuda"))
    assert keeping.start_owners(Settings()) is None
    assert "The CPU is used: " in caplog.text


def test_batches_are_larger_on_a_gpu_unless_they_are_set() -> None:
    """Defaults are of the device; what somebody set stays."""
    fitted = keeping.fit(Settings(max_batch_sequences=7))
    assert (fitted.max_batch_sequences, fitted.max_batch_steps) == (7, 131_072)
    assert keeping.fit(Settings()).max_batch_sequences == 512


BEHIND = """
from service.server.owner import keeping
keeping.find_places = lambda settings: [keeping.Place("cpu", 0)]
from service.__main__ import main
main()
"""


@contextmanager
def serve_behind(processes: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve with the CPU behind an owner, as if it were a GPU."""
    flags = ["--port", "0", "--model", str(MADE), "--processes", str(processes), "--log-requests", "false"]
    with subprocess.Popen([sys.executable, "-c", BEHIND, *flags], stderr=subprocess.PIPE, text=True) as process:
        log = process.stderr
        assert log is not None
        try:
            found = (re.search(r"running on (http://[\d.:]+)", line) for line in log)
            url = next(match[1] for match in found if match)
            threading.Thread(target=log.read, daemon=True).start()  # or it would fill up
            yield process, url
        finally:
            process.terminate()
            process.wait(60)


def owner_of(process: subprocess.Popen[str]) -> int | None:
    """Return the process that owns the device."""
    for pid in find_family(process.pid)[1:]:
        with suppress(OSError):  # it ended meanwhile
            if b"owner.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


@pytest.mark.parametrize("processes", [1, 2])
def test_a_service_whose_owner_is_killed_under_load_goes_on(processes: int) -> None:
    """What was in the run is answered as lost, all else as ever, nothing waits for ever; it ends with the service."""
    body = {"sequences": [steps.tolist() for steps in draw_sequences([3, 1, 30])]}
    expected = EncoderSession(CONTENT, "made.onnx").run(pad_batch(draw_sequences([3, 1, 30])))
    with serve_behind(processes) as (process, url):
        with httpx.Client(base_url=url, timeout=60) as client:
            described = client.get("/info").json()
            assert described["settings"]["max_batch_sequences"] == 512
        victim = owner_of(process)
        assert victim
        statuses: list[int] = []
        is_over = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=url, timeout=60) as client:
                while not is_over.is_set():
                    answer = client.post("/encode", json=body)
                    if answer.status_code == 200:
                        assert np.array_equal(np.array(answer.json()["embeddings"], np.float32), expected)
                    else:
                        assert answer.json()["type"].endswith("run-lost")
                    statuses.append(answer.status_code)

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                wait_until(lambda: len(statuses) > 20)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda: owner_of(process) not in (None, victim))
                before = len(statuses)
                wait_until(lambda: statuses[before:].count(200) > 20)
            finally:
                is_over.set()  # or a failure would leave them asking for ever
            for one in asking:
                one.result(60)
        assert statuses.count(500) <= 4 * 3
        second = owner_of(process)
    assert second
    wait_until(lambda: not is_there(second))  # who takes in what lost its parent may not bury it
