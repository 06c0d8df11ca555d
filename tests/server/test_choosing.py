"""How many workers there are, and why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.costs.cgroups import walk_groups
from service.costs.memory import available_bytes
from service.server import choosing
from service.server.choosing import FIRST_BYTES, KEPT, MIB, RUN_BYTES, WORKER_BYTES, count_workers, weigh_models
from service.settings import Settings

PLENTY = 2**40


@pytest.mark.parametrize(("cpus", "expected"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 4), (16, 8), (64, 32)])
def test_there_is_a_worker_for_every_two_cpus_and_two_for_two(cpus: int, expected: int) -> None:
    """Unless memory is short; what the kernel does not tell of memory bounds nothing."""
    assert count_workers(cpus, PLENTY, 0)[0] == count_workers(cpus, None, 0)[0] == expected


@pytest.mark.parametrize("model_bytes", [0, 300 * MIB])
def test_memory_bounds_the_workers(model_bytes: int) -> None:
    """As many as fit beside what they share; if not even one fits, there is one."""
    each = WORKER_BYTES + model_bytes
    for number in range(1, 9):
        enough = int((FIRST_BYTES + number * each) / KEPT) + 1
        found, why = count_workers(16, enough, model_bytes)
        assert found == number
        assert ("MiB are free" in why) == (number < 8)
        assert count_workers(16, enough - int(each / KEPT) // 2, model_bytes)[0] == max(1, number - 1)
    assert count_workers(16, 0, model_bytes)[0] == 1


def test_one_worker_serves_if_others_cannot() -> None:
    """Only Linux lets several share a port, and one CPU is used by one; each has its reason."""
    assert count_workers(16, PLENTY, 0, is_linux=False) == (1, "several workers need Linux")
    assert count_workers(1, PLENTY, 0) == (1, "there is one CPU")


def test_a_number_that_is_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has; `auto` looks at it."""
    monkeypatch.setattr(choosing, "available_cpus", lambda: 6)
    monkeypatch.setattr(choosing, "available_bytes", lambda: PLENTY)
    assert choosing.choose_staff(Settings(processes=5)) == (5, 6, "LENGTHWISE_PROCESSES says so")
    assert choosing.choose_staff(Settings()) == (3, 6, "there are 6 CPUs")


def test_models_are_weighed_by_their_files(tmp_path: Path) -> None:
    """One artifact, or all of a folder, with what their runs take; what is not there weighs nothing."""
    for name, size in (("a.onnx", 5), ("b.onnx", 7), ("note.txt", 11)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weigh_models(Settings(model=tmp_path / "a.onnx")) == 39 * 5
    assert weigh_models(Settings(models=tmp_path)) == 39 * 12
    with (tmp_path / "b.onnx").open("ab") as large:
        large.truncate(16 * MIB)
    assert weigh_models(Settings(models=tmp_path)) == 39 * 5 + 3 * 16 * MIB + RUN_BYTES
    assert weigh_models(Settings(model=tmp_path / "none.onnx")) == 0


def write(folder: Path, **files: str) -> None:
    """Write files of the kernel's, their names with a dot for each double underscore."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_free_memory_is_bounded_by_each_control_group(tmp_path: Path) -> None:
    """By the machine, by the group, and by those above it; what the kernel can drop of files is free."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    assert available_bytes(groups, proc) is None
    write(proc, meminfo="MemTotal: 16 kB\nMemAvailable: 8 kB\n")
    assert available_bytes(groups, proc) == 8192
    write(proc / "self", cgroup="0::/above/inside\n")
    assert [*walk_groups("memory", groups, proc)] == [groups / "above/inside", groups / "above", groups]
    write(groups / "above", memory__max="7000\n", memory__current="3000\n", memory__stat="inactive_file 500\n")
    write(groups / "above/inside", memory__max="max\n", memory__current="100\n")
    assert available_bytes(groups, proc) == 4500
    write(groups / "above/inside", memory__max="1000\n", memory__current="400\n")
    assert available_bytes(groups, proc) == 600


def test_free_memory_is_bounded_under_version_1(tmp_path: Path) -> None:
    """There the files have other names, and no limit is a number beyond all memory."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc, meminfo="MemAvailable: 8 kB\n")
    write(proc / "self", cgroup="4:memory:/pod\n3:cpu:/other\n")
    write(groups / "memory/pod", memory__limit_in_bytes="5000", memory__usage_in_bytes="1000")
    write(groups / "memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="9000")
    assert available_bytes(groups, proc) == 4000


def test_the_log_says_how_many_workers_there_are(artifact: Path) -> None:
    """In one line, with the reason."""
    command = [sys.executable, "-m", "service", "--port", "0", "--model", str(artifact), "--processes", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())["event"]
        process.terminate()
        process.stderr.read()
    assert first == "Workers: 1, since LENGTHWISE_PROCESSES says so"
