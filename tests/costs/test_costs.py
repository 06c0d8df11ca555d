"""What a batch costs: the model, how it is measured and kept, and what of the machine may be used."""

import ctypes
import itertools
import json
import os
import platform
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import threads
from service.costs import calibrate, cpus, measure
from service.costs.calibrate import Calibrator, main
from service.costs.measure import Arrangement, Timed
from service.costs.model import HANDOFF_SECONDS, MAX_FACTOR, CostModel, choose_sizes
from service.encoder.sequences import Batch
from service.encoder.session import EncoderSession, open_session
from service.settings import Settings

GRID = st.dictionaries(
    st.tuples(st.sampled_from([1, 2, 4, 8, 32]), st.sampled_from([1, 16, 64, 300])), st.floats(1e-5, 1.0), min_size=1
)


def test_lines_between_measurements_are_exact_for_a_line() -> None:
    """Where a run takes a fixed part and one for each padded step, every shape is predicted, measured or not."""
    model = CostModel({(b, t): 1e-4 + 1e-6 * b * t for b in (1, 8, 32) for t in (1, 32, 256)}, 32)
    for rows, steps in ((1, 1), (3, 20), (8, 32), (20, 64), (32, 256), (32, 1024)):
        assert model.predict(rows, steps) == pytest.approx(1e-4 + 1e-6 * rows * steps, rel=1e-9)
    assert model.predict(32, 1000) == model.predict(32, 1008)  # long ones are rounded up


@given(measured=GRID, rows=st.integers(1, 31), steps=st.integers(1, 2000))
def test_more_never_costs_less(measured: dict[tuple[int, int], float], rows: int, steps: int) -> None:
    """Whatever was measured, however disturbed, the prediction is over 0 and does not fall as rows or steps grow."""
    model = CostModel(measured, 32)
    here = model.predict(rows, steps)
    assert here > 0
    slack = 1e-9  # rounding of interpolated seconds
    assert model.predict(rows + 1, steps) >= here - slack
    assert model.predict(rows, steps + 1) >= here - slack
    alone = model.of_batches(steps)[0][1]
    assert 0 < model.share(steps) <= alone


def test_a_disturbed_measurement_is_overruled_by_a_larger_shape() -> None:
    """What (8, 32) did in 1 ms, (8, 16) cannot take 5 ms for."""
    model = CostModel({(8, 16): 5e-3, (8, 32): 1e-3}, 32)
    assert model.predict(8, 16) == pytest.approx(1e-3)
    assert model.measured == {(8, 16): 5e-3, (8, 32): 1e-3}


def test_a_new_measurement_counts_at_once() -> None:
    """Predictions made before it are forgotten."""
    model = CostModel({(1, 1): 1e-3, (1, 100): 1e-3}, 4)
    assert model.predict(1, 100) == pytest.approx(1e-3)
    assert model.share(100) == pytest.approx(1e-3 + HANDOFF_SECONDS / 4)
    model.learn((1, 100), 5e-3)
    assert model.predict(1, 100) == pytest.approx(5e-3)
    assert model.share(100) == pytest.approx(5e-3 + HANDOFF_SECONDS / 4)


def test_real_runs_move_the_height_and_not_the_shape() -> None:
    """Runs that take twice the time double every prediction in the end; the error is what it was, then none."""
    model = CostModel({(b, t): 1e-3 * b * t for b in (1, 4) for t in (1, 10)}, 4)
    model.follow(1e-3, 2e-3)
    assert model.error == pytest.approx(1.0)
    assert 1 < model.factors[False] < 1.1
    for _ in range(400):
        model.follow(1e-2, 2e-2)
    assert model.predict(4, 10) == pytest.approx(0.08, rel=1e-3)
    assert model.error < 0.01
    assert model.runs == 401
    for _ in range(400):
        model.follow(1e-2, 1e9)
    assert model.factors[False] == MAX_FACTOR


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (5, (1, 2, 3, 4, 5)), (32, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)), (80, (48, 72, 80))]
)
def test_batch_sizes_end_at_the_setting(most: int, sizes: tuple[int, ...]) -> None:
    """Every setting is a size worth considering itself, and none is over it."""
    assert choose_sizes(most)[-len(sizes) :] == sizes
    assert list(choose_sizes(most)) == sorted(set(choose_sizes(most)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Measurements on paper: a run over B x T takes 1 us a padded step; returns the shapes that were measured."""
    shapes: list[tuple[int, int]] = []

    def take(_session: EncoderSession, shape: tuple[int, int], _arrangement: Arrangement) -> float:
        shapes.append(shape)
        return 1e-6 * shape[0] * shape[1]

    monkeypatch.setattr(calibrate, "measure_run", take)
    return shapes


def open_calibrator(artifact: Path, **settings: object) -> Calibrator:
    """Calibrate the artifact with the given settings."""
    return calibrate.load(Settings(model=artifact, **settings))  # type: ignore[arg-type]


def test_the_second_start_measures_nothing(artifact: Path, tmp_path: Path, clock: list[tuple[int, int]]) -> None:
    """A calibration is read by the next start with the same encoder, machine and settings, and by no other."""
    first = open_calibrator(artifact, cache_dir=tmp_path)
    assert clock
    clock.clear()
    second = open_calibrator(artifact, cache_dir=tmp_path)
    assert (clock, first.is_cached, second.is_cached) == ([], False, True)
    assert second.costs.measured == first.costs.measured
    assert second.arrangements == first.arrangements
    other = open_calibrator(artifact, cache_dir=tmp_path, max_batch_sequences=8)
    assert not other.is_cached
    assert max(rows for rows, _ in clock) == 8


@pytest.mark.parametrize("content", ["", "{", "[]", '{"arrangements": [], "runs": []}', "nan"])
def test_a_broken_cache_is_measured_anew(
    content: str, artifact: Path, tmp_path: Path, clock: list[tuple[int, int]]
) -> None:
    """Whatever stands in the file, the start succeeds, and the file is right afterwards."""
    open_calibrator(artifact, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content, encoding="utf-8")
    clock.clear()
    assert not open_calibrator(artifact, cache_dir=tmp_path).is_cached
    assert clock
    assert open_calibrator(artifact, cache_dir=tmp_path).is_cached


@pytest.mark.usefixtures("clock")
def test_a_cache_that_cannot_be_written_is_told_once(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The start succeeds if the folder is a file or the user has no home, and a warning names the setting."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    for _ in range(2):
        assert not open_calibrator(artifact, cache_dir=tmp_path / "file").is_cached
    (told,) = (record for record in caplog.records if "not kept" in record.message)
    assert told.levelname == "WARNING"
    assert f"{tmp_path / 'file'} cannot be written to" in told.message
    assert "LENGTHWISE_CACHE_DIR" in told.message

    def refuse(_path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", refuse)
    assert not open_calibrator(artifact, cache_dir=tmp_path).is_cached
    assert f"{tmp_path} cannot be written to (the user has no home)" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_warm_up_leaves_long_runs_to_idle_time(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run but that of one sequence is expected over the limit at warm-up; the rest is offered until it is known."""
    shapes: list[tuple[int, int]] = []

    def take(_session: EncoderSession, shape: tuple[int, int], _arrangement: Arrangement) -> float:
        shapes.append(shape)
        return 1e-5 * shape[0] * shape[1]

    monkeypatch.setattr(calibrate, "measure_run", take)
    calibrator = open_calibrator(artifact, cache_dir=tmp_path, max_batch_steps=8192)
    assert all(1e-5 * b * t <= calibrate.COARSE_RUN_SECONDS or b == 1 for b, t in shapes)
    assert {t for _, t in shapes} == set(calibrate.COARSE_STEPS)
    assert [b for b, t in shapes if t == 4] == list(calibrator.costs.sizes)  # what a cut may choose is not guessed
    while shape := calibrator.choose_shape():
        assert shape not in calibrator.costs.measured
        assert shape[0] * shape[1] <= 8192
        calibrator.costs.learn(shape, calibrator.measure(shape))
    assert (1, 1024) in shapes
    assert max(1e-5 * b * t for b, t in shapes) <= calibrate.FINE_RUN_SECONDS


def test_the_fastest_arrangement_is_chosen(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads in a run are taken if they clearly gain, and what a setting fixes is not tried."""
    session = open_session(artifact)
    opened: list[int] = []
    gain = 1.0

    def reopen(threads: int) -> EncoderSession:
        opened.append(threads)
        return session

    def take(_session: EncoderSession, _shape: object, runners: int, _repeats: int) -> list[Timed]:
        return [Timed(runners * (1e-3 if runners == 5 else 1e-3 / gain), 1e-3)]

    monkeypatch.setattr(measure, "time_runs", take)

    def choose(cpus: int, runners: int = 0, threads: int = 0) -> list[tuple[int, int]]:
        tried = measure.arrange(session, reopen, cpus, runners, threads)
        return [(one.runners, one.threads) for one in tried]

    gain = 1.05
    assert choose(4)[0] == (5, 1)  # one more than there are CPUs: one may wait for the interpreter
    gain = 1.5
    assert choose(4)[0] != (5, 1)
    assert sorted(choose(4)) == [(1, 4), (3, 2), (5, 1)]
    assert choose(4, runners=2) in ([(2, 1), (2, 2)], [(2, 2), (2, 1)])
    opened.clear()
    assert choose(4, threads=2) == [(3, 2)]
    assert choose(4, runners=3, threads=5) == [(3, 5)]
    assert choose(1) == [(1, 1)]
    assert opened == []


def test_a_chosen_number_of_threads_is_what_is_served(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[tuple[int, int]]
) -> None:
    """Where more threads won, the session is opened anew with them, cached or not."""
    best = Arrangement(runners=1, threads=2, sequences_per_second=9.0)
    monkeypatch.setattr(calibrate, "arrange", lambda *_: [best])
    opened: list[int] = []

    def note(path: Path, _provider: str, threads: int, _cuda: object) -> EncoderSession:
        opened.append(threads)
        return open_session(path, "cpu", threads)

    monkeypatch.setattr(calibrate, "open_session", note)
    open_calibrator(artifact, cache_dir=tmp_path)
    assert open_calibrator(artifact, cache_dir=tmp_path).arrangements == [best]
    assert opened == [1, 2, 1, 2]
    assert clock


def test_runs_are_timed_beside_each_other(artifact: Path) -> None:
    """Each of the runners runs the made batch as often as asked, after one run that is not timed."""
    session = open_session(artifact)
    run, shapes = session.run, []

    def count(batch: object) -> object:
        shapes.append(batch.steps.shape)  # type: ignore[attr-defined]
        return run(batch)  # type: ignore[arg-type]

    session.run = count  # type: ignore[method-assign,assignment]
    times = measure.time_runs(session, (2, 5), runners=3, repeats=2)
    assert len(times) == 6
    assert min(run.seconds for run in times) > 0
    assert shapes == [(2, 5, 3)] * 9
    assert measure.measure_run(session, (1, 1), Arrangement(runners=1, threads=1)) > 0


@dataclass
class Clocks:
    """A run moves both clocks; it takes a real one no time."""

    run_seconds: float
    run_cpu_seconds: float
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.seconds

    def thread_time(self) -> float:
        """Return how long the thread had a CPU."""
        return self.cpu_seconds

    def run(self, _batch: Batch) -> None:
        """Let the time of a run pass."""
        self.seconds += self.run_seconds
        self.cpu_seconds += self.run_cpu_seconds


@pytest.mark.parametrize(
    ("threads", "provider", "cpu_seconds", "counted"),
    [
        (1, "cpu", 1.0, 1.0),
        (2, "cpu", 1.0, 3.0),  # the other thread's time is not in it
        (1, "cuda", 1.0, 3.0),  # nor is the GPU's
        (1, "cpu", 0.0, 3.0),  # as on Windows, whose clock moves every 16 ms
        (1, "cpu", 16.0, 3.0),
    ],
)
def test_what_a_run_waits_for_a_cpu_is_not_measured(
    threads: int, provider: str, cpu_seconds: float, counted: float, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that others keep from its CPU for two thirds of the time counts a third, if its own thread does it all."""
    session, clocks = open_session(artifact), Clocks(3.0, cpu_seconds)
    session.run = clocks.run  # type: ignore[method-assign,assignment]
    session.provider = provider  # type: ignore[assignment]
    monkeypatch.setattr(measure, "time", clocks)
    assert measure.measure_run(session, (2, 5), Arrangement(runners=1, threads=threads)) == counted


@pytest.mark.parametrize("place", ["run", "start"])
def test_a_measurement_that_fails_does_not_hang(artifact: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that one of several runs lacks, or a thread that the system refuses, is an error at once."""
    session = open_session(artifact)
    run, runs, starts = session.run, itertools.count(), itertools.count()
    start = threading.Thread.start

    def fail_second(batch: Batch) -> object:
        if place == "run" and next(runs) == 1:
            raise RuntimeError("no memory")
        return run(batch)

    def start_first(thread: threading.Thread) -> None:
        if place == "start" and next(starts) == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    session.run = fail_second  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(threading.Thread, "start", start_first)
    with pytest.raises(RuntimeError, match={"run": "no memory", "start": "can't start new thread"}[place]):
        measure.time_runs(session, (2, 5), runners=3, repeats=2)


def test_calibrate_prints_a_table(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m service calibrate` prints milliseconds by rows and steps; a file it cannot open ends in a sentence."""
    flags = ["--cache-dir", str(tmp_path), "--max-batch-sequences", "2"]
    main(["--model", str(artifact), *flags])
    lines = capsys.readouterr().out.splitlines()
    assert any("(chosen)" in line for line in lines)
    header, *rows = [line.split() for line in lines[-3:]]
    assert header == ["ms", *map(str, sorted(calibrate.COARSE_STEPS + calibrate.FINE_STEPS))]
    assert [row[0] for row in rows] == ["1", "2"]
    (file,) = tmp_path.iterdir()
    assert len(json.loads(file.read_text(encoding="utf-8"))["runs"]) == sum(len(row) - 1 for row in rows)
    with pytest.raises(SystemExit, match=r"lengthwise: missing\.onnx cannot be served"):
        main(["--model", "missing.onnx", *flags])


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/pod/box", {"pod/cpu.max": "50000 100000\n", "pod/box/cpu.max": "200000 100000\n"}, 0.5),
        ("0::/../elsewhere", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "5:cpu,cpuacct:/box\n4:memory:/box",
            {"cpu/box/cpu.cfs_quota_us": "400000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
            4.0,
        ),
        ("5:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_of_the_control_group_is_read(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    """Versions 1 and 2, the tightest of the groups around the process; the CPUs are those allowed within it."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n" * bool(groups), encoding="utf-8")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    found = cpus.read_cpu_quota(tmp_path / "cgroup", tmp_path / "proc")
    assert found == quota
    allowed = len(os.sched_getaffinity(0))
    expected = allowed if quota is None else max(1, min(allowed, int(quota)))
    for count in (
        cpus.available_cpus,
        threads.available_cpus,
    ):  # `model` may not import the service
        assert count(tmp_path / "cgroup", tmp_path / "proc") == expected


def test_the_cpu_is_named(tmp_path: Path) -> None:
    """By its model if the kernel tells it, else by its architecture."""
    assert cpus.name_cpu(tmp_path)
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Made CPU\n", encoding="utf-8")
    assert cpus.name_cpu(tmp_path) == "Made CPU"


def read_scheduling() -> tuple[int, int, int]:
    """Return the calling thread's policy, nice value and slice in nanoseconds."""
    attributes = cpus._SchedulingAttributes()
    call = cpus.SCHED_SETATTR[platform.machine()] + 1  # sched_getattr follows it
    assert ctypes.CDLL(None).syscall(call, 0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0) == 0
    return attributes.policy, attributes.nice, attributes.runtime


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
@pytest.mark.skipif(platform.machine() not in cpus.SCHED_SETATTR, reason="does not know how to ask this kernel")
def test_a_thread_has_long_slices_while_it_wants_them_and_its_old_share() -> None:
    """Of its own: neither the thread that started it nor its nice value changes."""
    found: list[tuple[int, int, int]] = []

    def compute() -> None:
        os.nice(3)
        found.append(read_scheduling())
        for is_long in (True, False):
            cpus.choose_slice(is_long=is_long)
            found.append(read_scheduling())

    before = read_scheduling()
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert read_scheduling() == before
    (policy, nice, slice_ns), long, again = found
    assert nice == before[1] + 3
    if slice_ns == 0:
        pytest.skip("this kernel has no slices of a thread's own; Linux 6.12 and newer have")
    assert long == (policy, nice, 20_000_000)
    assert again == found[0]


def test_measuring_leaves_the_heap_trimmed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What threads freed after a measurement in idle time goes back, though no request follows that would see to it."""
    calibrator = open_calibrator(artifact)
    done = []
    monkeypatch.setattr(calibrator.session, "release_memory", lambda: done.append("arena"))
    monkeypatch.setattr("service.costs.calibrate.trim_heap", lambda: done.append("heap"))
    calibrator.measure((1, 8))
    assert done == ["arena", "heap"]


def test_predictions_are_of_this_encoder(artifact: Path) -> None:
    """A calibration as a start makes it predicts every shape, and more for much more."""
    calibrator = open_calibrator(artifact)
    small, large = calibrator.costs.predict(1, 10), calibrator.costs.predict(32, 2000)
    assert 0 < small < large
    assert np.isfinite(large)


def test_long_runs_correct_the_costs_sooner() -> None:
    """Runs of a second are few: eight that take twice as long are believed, eight short ones are not yet."""
    factors = []
    for seconds in (1.0, 0.001):
        costs = CostModel({(1, 1): seconds}, 1)
        for _ in range(8):
            costs.follow(seconds, 2 * seconds)
        factors.append(costs.factors[False])
    assert factors[0] > 1.9
    assert factors[1] < 1.3


def test_the_help_of_calibrate_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """It names its own program, and takes the service's flags."""
    with pytest.raises(SystemExit):
        calibrate.main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: lengthwise calibrate ")
    assert "--max-batch-steps" in said
