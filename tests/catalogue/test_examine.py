"""Artifacts are tried in another process: what they do to it, they do to nothing else."""

import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.catalogue.vetting import examiner as examining
from service.catalogue.vetting import trial
from service.catalogue.vetting.command import main
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.files import MAX_FILE_BYTES, read_file
from service.catalogue.vetting.findings import FINDINGS, READY, Proven, TrialBounds, Unfit
from service.catalogue.vetting.trial import try_file
from service.encoder.session import open_session
from service.errors import ArtifactError
from service.settings import SHIPPED_MODEL
from tests.conftest import ARTIFACTS
from tests.encoder.test_session import edit
from tests.hostile import LOADED, STRUCTURAL, append_work, change_plain, make_plain
from tests.waiting import list_opened, wait_until

PLAIN = make_plain().SerializeToString()
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """One for all that are examined within the usual bounds."""
    with closing(Examiner()) as found:
        yield found


def refuse(examiner: Examiner, content: bytes) -> str:
    """Return why a file is refused; and see that the next one is not."""
    with pytest.raises(ArtifactError, match=r"hostile\.onnx cannot be served: ") as caught:
        examiner.examine(content, "hostile.onnx")
    assert examiner.examine(PLAIN, "plain.onnx").name is None
    return caught.value.reason


KINDS = ["triples", "triples-gru", "tokens", "texts", "int8"]


@pytest.mark.parametrize("path", [*(ARTIFACTS / f"{kind}.onnx" for kind in KINDS), SHIPPED_MODEL], ids=lambda p: p.stem)
def test_good_artifacts_pass(path: Path, examiner: Examiner) -> None:
    """Whatever export writes can be served; what is learned of it is what its own session says."""
    content, session = read_file(path), open_session(path)
    found = examiner.examine(content, "made.onnx")
    assert session.manifest is not None
    assert (found.name, found.version) == (session.manifest.name, session.manifest.version)
    assert found.sha256 == session.sha256
    assert found.difference == session.replay_golden()
    here = try_file(content)
    assert isinstance(here, Proven)
    assert (here.sha256, here.name, here.difference) == (found.sha256, found.name, found.difference)


def test_graphs_of_other_exporters_pass_unverified(examiner: Examiner) -> None:
    """A graph of torch.onnx, without a manifest, can be served; nothing was proven of it."""
    path = ARTIFACTS / "pooled.onnx"
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators >= {"Where", "Gather", "TopK", "Range"}
    found = examiner.examine(read_file(path), "pooled.onnx")
    assert (found.name, found.version, found.difference) == (None, None, None)


@pytest.mark.parametrize("kind", [*STRUCTURAL, *LOADED])
def test_hostile_files_are_refused_and_touch_nothing_else(kind: str, examiner: Examiner) -> None:
    """Each has its reason, and the file after it is examined as if nothing had been."""
    change, reason = {**STRUCTURAL, **LOADED}[kind]
    content = change_plain(change)
    found = refuse(examiner, content)
    assert re.search(reason, found), found
    assert "/" not in found.replace("ai.onnx", ""), "a path of some machine"
    if kind in STRUCTURAL:
        assert try_file(content) == Unfit(found)


GOLDEN = {"dtype": "<f4", "shape": [1, 3], "base64": "AAAAAAAAAAAAAAAA"}

# What a manifest may say: fields to replace, and the reason it is refused for.
MANIFESTS: dict[str, tuple[dict[str, object], str]] = {
    "a name that is a path": ({"name": "../../etc/passwd"}, "its manifest is invalid at name"),
    "a name with a line's end": ({"name": "made\n"}, "its manifest is invalid at name"),
    "other sizes": ({"dim": 17}, "its manifest says 3 features and 17 numbers"),
    "a size beyond 64 bits": ({"longest_training_sequence": 10**30}, "its manifest cannot be repeated: Integer"),
    "endless words": ({"licence": "x" * 2**20}, r"golden vectors and tokenizer, has \d+ bytes: the most is 1048576"),
    "no golden vectors": ({"golden": []}, "its manifest is invalid at golden"),
    "golden vectors of another model": (
        {"golden": [{"sequence": GOLDEN, "embedding": {"shape": [16], "base64": "AACAPwAA" * 10 + "AACAPw=="}}]},
        r"it does not reproduce its golden vectors here: they differ by \d",
    ),
    "golden vectors that numpy would stretch": (
        {"golden": [{"sequence": GOLDEN, "embedding": {"shape": [1], "base64": "AAAAAA=="}}]},
        r"its golden embeddings have the shape \[1, 1\], its graph's \[1, 16\]",
    ),
    "a golden sequence without end": (
        {"golden": [{"sequence": {"shape": [2**40, 3], "base64": ""}, "embedding": GOLDEN}]},
        "its golden vectors cannot be run",
    ),
    "a tokenizer that is none": (
        {"input": {"kind": "text", "features": 3, "tokenizer": "{}"}},
        "its tokenizer cannot be read",
    ),
}


def edit_json(artifact: Path, update: dict[str, object]) -> bytes:
    """Return an artifact's bytes with fields of its manifest replaced, valid or not."""

    def rewrite(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        entry.value = json.dumps({**json.loads(entry.value), **update})

    return edit(artifact, rewrite)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_hostile_manifests_are_refused(kind: str, artifact: Path, examiner: Examiner) -> None:
    """What a manifest says is checked against the graph, and against what can be said at all."""
    update, reason = MANIFESTS[kind]
    content = edit_json(artifact, update)
    found = refuse(examiner, content)
    assert re.search(reason, found), found
    assert try_file(content) == Unfit(found)


def test_other_weights_than_the_proven_ones_are_refused(artifact: Path, examiner: Examiner) -> None:
    """Golden vectors are replayed, and the reason says by how much they differ."""

    def nudge(model: onnx.ModelProto) -> None:
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == "layer0.W")
        moved = onnx.numpy_helper.to_array(weights) + np.float32(0.01)
        weights.CopyFrom(onnx.numpy_helper.from_array(moved, weights.name))

    content = edit(artifact, nudge)
    found = refuse(examiner, content)
    assert found.startswith("it does not reproduce its golden vectors here: they differ by 0.")
    assert try_file(content) == Unfit(found)


@pytest.mark.parametrize("name", ["sequences", "batch", "embedding"])
def test_names_that_are_no_text_are_refused(name: str, examiner: Examiner) -> None:
    """Python could not read them off the session; so it is with metadata."""
    broken = PLAIN.replace(name.encode(), name[:-1].encode() + b"\xff")
    noted = PLAIN + onnx.ModelProto(metadata_props=[{"key": "x", "value": name}]).SerializeToString()
    assert examiner.examine(noted, "noted.onnx").name is None
    for content in (broken, noted[:-1] + b"\xff"):
        found = refuse(examiner, content)
        assert found.startswith("it names something in what is no UTF-8: 'utf-8' codec can't decode byte 0xff")
        assert try_file(content) == Unfit(found)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "trying it takes more memory than it may"),
        (KeyError("W"), "trying it raises KeyError: 'W'"),
    ],
    ids=["memory", "unforeseen"],
)
def test_what_nobody_foresaw_is_a_refusal(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever a file makes the code raise, the file is the culprit."""

    def fail(_content: bytes, _file: str) -> None:
        raise error

    monkeypatch.setattr(trial, "check_structure", fail)
    assert try_file(PLAIN) == Unfit(reason)


def test_what_a_file_says_is_one_short_printable_line(examiner: Examiner, capfd: pytest.CaptureFixture[str]) -> None:
    """Names with control characters and without end stay out of the log, and so does what ONNX Runtime prints."""
    name = "\x1b[31m\r\nforged\u202e" + "x" * 5000

    def rename(model: onnx.ModelProto) -> None:
        model.graph.node[-1].name = name
        model.graph.node[-1].op_type = "Frobnicate\n" + "y" * 5000

    found = refuse(examiner, change_plain(rename))
    assert found.isprintable()
    assert len(found) <= 503
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (TrialBounds(cpu_seconds=1, seconds=600), "trying it took over 1 s of processor time"),
        (TrialBounds(seconds=1), "trying it was not over after 1 s"),
    ],
    ids=["cpu", "clock"],
)
@on_linux
def test_a_file_that_takes_for_ever_is_given_up(bounds: TrialBounds, reason: str) -> None:
    """Minutes of matrix products end after the time there is."""
    with closing(Examiner(bounds)) as examiner, pytest.raises(ArtifactError) as caught:
        examiner.examine(change_plain(append_work), "work.onnx")
    assert caught.value.reason == reason


@on_linux
def test_memory_is_bounded_and_told() -> None:
    """Weights of 4 MiB pass in 4 beside four times the file, not in 0; what they take is found anew for each file."""
    large = make_plain(width=2**20 // 3).SerializeToString()
    with closing(Examiner(TrialBounds(memory_bytes=2**22))) as examiner:
        first, small, second = (examiner.examine(content, "file.onnx") for content in (large, PLAIN, large))
    size = len(large)
    assert 2 * size < first.memory_bytes < 5 * size
    assert 0 < small.memory_bytes < 2**21
    assert abs(second.memory_bytes - first.memory_bytes) < size
    with closing(Examiner(TrialBounds(memory_bytes=-4 * len(large)))) as examiner, pytest.raises(ArtifactError):
        examiner.examine(large, "file.onnx")


def test_the_file_itself_counts_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session keeps the bytes it was made from, beside what it takes; what is freed meanwhile is not a gain."""
    for before, after, taken in ((100, 350, 250), (350, 100, 0)):
        found = iter([before, after])
        monkeypatch.setattr(trial, "_read_memory", found.__next__)
        answer = try_file(PLAIN)
        assert isinstance(answer, Proven)
        assert answer.memory_bytes == len(PLAIN) + taken


def pid_of(examiner: Examiner) -> int:
    """Return the id of the process that has a file now."""
    found: list[int] = []

    def has_one() -> bool:
        if (process := examiner._process) is not None:
            found.append(process.pid)
        return bool(found)

    wait_until(has_one)
    return found[0]


def is_prepared(pid: int) -> bool:
    """Whether a process makes way for others, and has read its file: what it keeps open then is its answer's pipe.

    Some libffi, which Python calls C by, keep a library of their own open besides.
    """
    makes_way = Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii") == "1000\n"
    opened = [one[:5] for one in list_opened(pid) if "/libffi.so" not in one]
    return makes_way and opened == ["/dev/", "/dev/", "/dev/", "pipe:"]


@on_linux
def test_the_process_that_tries_may_be_killed(examiner: Examiner) -> None:
    """The file is refused, and the next one is examined."""
    with ThreadPoolExecutor() as pool:
        trying = pool.submit(refuse, examiner, change_plain(append_work))
        pid = pid_of(examiner)
        wait_until(lambda: is_prepared(pid))
        os.kill(pid, signal.SIGKILL)
        assert trying.result().startswith("it ended the process that tried it (SIGKILL, as the kernel does")


@on_linux
def test_a_process_that_stands_still_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for without end, not even if the process no longer keeps the time itself."""
    monkeypatch.setattr(examining, "GRACE_SECONDS", 1.0)
    with closing(Examiner(TrialBounds(seconds=1))) as examiner, ThreadPoolExecutor() as pool:
        trying = pool.submit(examiner.examine, change_plain(append_work), "work.onnx")  # or it might be through before
        os.kill(pid_of(examiner), signal.SIGSTOP)
        with pytest.raises(ArtifactError, match="trying it was not over after 1 s"):
            trying.result()
    with closing(Examiner()) as examiner:
        assert examiner.examine(PLAIN, "plain.onnx").name is None


LEFT_BEHIND = """
import os, sys, time
if os.fork():
    sys.stdout.buffer.write(b"ready" + bytes([10]))
    sys.exit(3)
os.close(1)
open({path!r}, "w").write(str(os.getpid()))
time.sleep(60)
"""


@on_linux
def test_what_a_process_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a file could leave behind is killed as soon as the file has its answer."""
    path = tmp_path / "pid"
    monkeypatch.setattr(examining, "PROGRAM", ("-c", LEFT_BEHIND.format(path=str(path))))
    with closing(Examiner()) as examiner, pytest.raises(ArtifactError, match="exit code 3"):
        examiner.examine(PLAIN, "plain.onnx")
    wait_until(lambda: not path.exists() or not path.read_text() or not Path(f"/proc/{path.read_text()}/root").exists())


ENDS = """
import os, resource, sys, time
from pathlib import Path
from service.catalogue.vetting import trial

def write_pipes(content):
    files = [os.readlink(one) for one in Path("/proc/self/fd").iterdir() if int(one.name) > 2 and one.exists()]
    return trial.Unfit(str([file[:5] for file in files if file[:5] == "pipe:"]))

def answer_and_fail(content):
    end = os._exit
    os._exit = lambda code: end(9)
    return trial.Unfit("well")

resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1:] * 2)
trial.try_file = {end}
trial.main()
"""
ENDED = "it ended the process that tried it ({})"


@on_linux
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("lambda content: os.abort()", ENDED.format("SIGABRT")),
        ("lambda content: os.kill(os.getpid(), 11)", ENDED.format("SIGSEGV")),
        ("lambda content: os._exit(7)", ENDED.format("exit code 7")),
        ("lambda content: os._exit(0)", "the process that tried it gave no answer that makes sense"),
        ("lambda content: time.sleep(60)", "trying it was not over after 1 s"),
        ("lambda content: 1 / 0", ENDED.format("exit code 1")),
        ("lambda content: Path({path!r}).write_bytes(b'1')", ENDED.format("exit code 1")),
        ("lambda content: [0] * 2**29", ENDED.format("exit code 1")),
        ("write_pipes", "['pipe:']"),  # the one for its answer
        ("lambda content: trial.Unfit(str(resource.getrlimit(resource.RLIMIT_CORE)[0]))", "0"),  # bytes of a core
        ("answer_and_fail", ENDED.format("exit code 9")),
    ],
)
def test_whatever_ends_a_trial_is_told(end: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals, exits, silence and exceptions of the process that tries are reasons; it writes no file and no pipe."""
    path = tmp_path / "written"
    script = ENDS.replace("{end}", end.replace("{path!r}", repr(str(path))))
    monkeypatch.setattr(examining, "PROGRAM", ("-c", script))
    bounds = TrialBounds(seconds=1) if "sleep" in end else TrialBounds()
    with closing(Examiner(bounds)) as examiner, pytest.raises(ArtifactError) as caught:
        examiner.examine(b"", "file.onnx")
    assert caught.value.reason == reason
    assert not path.exists() or not path.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[W:onnxruntime] look at me\n",
        b"{}\n",
        b'{"reason": 3}\n',
        FINDINGS.dump_json(Proven(hashlib.sha256(b"another").hexdigest(), None, None, None, 1)),
    ],
    ids=["nothing", "noise", "empty", "type", "another file"],
)
def test_answers_that_make_no_sense_are_refusals(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other process says is checked; it may be anyone's by now."""
    script = f"import sys; sys.stdout.buffer.write({READY + line!r})"
    monkeypatch.setattr(examining, "PROGRAM", ("-c", script))
    with closing(Examiner()) as examiner, pytest.raises(ArtifactError, match="gave no answer that makes sense"):
        examiner.examine(PLAIN, "plain.onnx")


ENDLESS = """
import os
os.write(1, b"ready" + bytes([10]))
while True:
    os.write(1, bytes(9999))
"""


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that writes and writes is ended once it has said more than any finding says."""
    monkeypatch.setattr(
        examining,
        "PROGRAM",
        ("-c", "import os; os.write(1, b'ready' + bytes([10]))\nwhile 1: os.write(1, bytes(9999))"),
    )
    with closing(Examiner()) as examiner, pytest.raises(ArtifactError, match="cannot be served"):
        examiner.examine(PLAIN, "plain.onnx")


@pytest.mark.parametrize(
    ("program", "reason"), [("/bin/true", "does not start"), ("/nowhere", "cannot be started: No such file")]
)
def test_a_process_that_does_not_start_is_no_fault_of_the_file(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says so, and later files are tried again."""
    with closing(Examiner()) as examiner:
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(ArtifactError, match=f"the process that would examine it {reason}"):
            examiner.examine(PLAIN, "plain.onnx")
        monkeypatch.undo()
        assert examiner.examine(PLAIN, "plain.onnx").name is None


@on_linux
def test_the_other_process_gets_nothing_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key from the environment, no open file, no telemetry; and it makes way if memory or time is short."""
    monkeypatch.setenv("LENGTHWISE_API_KEYS", "k" * 20)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    with closing(Examiner()) as examiner, ThreadPoolExecutor() as pool:
        trying = pool.submit(examiner.examine, change_plain(append_work), "work.onnx")
        pid = pid_of(examiner)
        process = Path(f"/proc/{pid}")
        wait_until(lambda: is_prepared(pid))  # and so has nothing else open
        environment = (process / "environ").read_bytes()
        assert b"LENGTHWISE" not in environment
        assert b"ORT_DISABLE_TELEMETRY=1" in environment
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10
        examiner.close()
        with pytest.raises(ArtifactError, match="the service is ending"):
            trying.result()


@on_linux
def test_closing_ends_what_is_tried() -> None:
    """An examination under way is refused, as are later ones, and no process stays."""
    examiner = Examiner()
    with ThreadPoolExecutor() as pool:
        trying = pool.submit(examiner.examine, change_plain(append_work), "work.onnx")
        pid = pid_of(examiner)
        examiner.close()
        with pytest.raises(ArtifactError, match="the service is ending"):
            trying.result()
    with pytest.raises(ArtifactError, match="the service is ending"):
        examiner.examine(PLAIN, "plain.onnx")
    assert not Path(f"/proc/{pid}").exists()


ORPHAN = """
import threading
from service.catalogue.vetting.examiner import Examiner
from service.catalogue.vetting.findings import TrialBounds
from tests.hostile import append_work, change_plain
examiner = Examiner(TrialBounds(seconds=1))
threading.Thread(target=lambda: examiner.examine(change_plain(append_work), "work.onnx")).start()
while examiner._process is None:
    pass
print(examiner._process.pid, flush=True)
"""


@on_linux
def test_the_other_process_ends_by_itself_once_the_service_is_gone() -> None:
    """Even if the service is killed, and can end nothing: the file in hand is the last, and has its bounds."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        other = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert select.select([other], [], [], 60)[0]
    os.close(other)


def test_files_are_examined_one_at_a_time(examiner: Examiner) -> None:
    """Threads that ask together get the answer for their own file each."""
    files = [change_plain(lambda model, number=number: _tag(model, number)) for number in range(8)]  # type: ignore[misc]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda content: examiner.examine(content, "file.onnx").sha256, files))
    assert found == [hashlib.sha256(content).hexdigest() for content in files]


def _tag(model: onnx.ModelProto, number: int) -> None:
    model.doc_string = str(number)


def test_only_whole_regular_files_are_read(tmp_path: Path) -> None:
    """Nothing blocks, and nothing else is opened; a link to a file is that file."""
    folder, pipe, empty, huge, good, link = (tmp_path / name for name in "folder pipe empty huge good link".split())  # noqa: SIM905 - reads better
    folder.mkdir()
    empty.touch()
    good.write_bytes(PLAIN)
    link.symlink_to(good)
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # takes no room
    os.mkfifo(pipe)
    for path, reason in (
        (folder, "it is not a regular file"),
        (pipe, "it is not a regular file"),
        (Path(os.devnull), "it is not a regular file"),
        (empty, "it is empty, or still being written"),
        (huge, "it has 2147483648 bytes, and an ONNX file has 2147483647 at most"),
        (tmp_path / "missing", "it cannot be read: No such file"),
    ):
        with pytest.raises(ArtifactError, match=f"{path.name} cannot be served: {reason}"):
            read_file(path)
    assert read_file(link) == PLAIN


def test_a_pipe_in_place_of_a_file_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it comes between the look at the file and its opening."""
    good, pipe = tmp_path / "good", tmp_path / "pipe"
    good.write_bytes(PLAIN)
    os.mkfifo(pipe)
    seen = good.stat()
    monkeypatch.setattr(Path, "stat", lambda _path: seen)
    with pytest.raises(ArtifactError, match="it is not a regular file"):
        read_file(pipe)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(PLAIN + b"more"),
        lambda path: path.write_bytes(PLAIN[:9]),
        lambda _path: None,
    ],
    ids=["grows", "shrinks", "is touched"],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size and its time are looked at before and after: either tells."""
    path = tmp_path / "model.onnx"
    path.write_bytes(PLAIN)
    look, looks = os.fstat, []
    written = path.stat().st_mtime_ns

    def look_and_change(descriptor: int) -> os.stat_result:
        looks.append(look(descriptor))
        if len(looks) == 1:
            os.utime(path, ns=(0, written if change(path) else 1))
        return looks[-1]

    monkeypatch.setattr(os, "fstat", look_and_change)
    with pytest.raises(ArtifactError, match="still being written"):
        read_file(path)


def test_files_are_examined_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each; the exit code is 1 if one cannot be served."""
    half = tmp_path / "half.onnx"
    half.write_bytes(SHIPPED_MODEL.read_bytes()[:1000])
    with pytest.raises(SystemExit, match="1"):
        main([str(SHIPPED_MODEL), str(half)])
    good, bad = capsys.readouterr().out.splitlines()
    assert good.startswith(f"{SHIPPED_MODEL} can be served: japanese-vowels, golden vectors within ")
    assert bad.startswith(f"{half} cannot be served: it cannot be parsed: it is not ONNX")
    with pytest.raises(SystemExit, match="0"):
        main([str(SHIPPED_MODEL)])


def test_examining_costs_the_service_no_protobuf() -> None:
    """What parses files is loaded in the other process only."""
    loaded = "{'google.protobuf', 'onnxruntime'} & {*sys.modules}"
    script = f"import service.catalogue.vetting.examiner, sys; print({loaded})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
