"""Files in, files out: each row once, in order, the same bytes however often the program was stopped."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from bulk.__main__ import catch_signals, main
from bulk.encoder import Encoder
from bulk.plan import Plan
from bulk.progress import Meter
from bulk.sources import lines
from bulk.stores import Place
from service.costs.cpus import available_cpus
from service.encoder.sequences import Batch, Steps
from service.settings import Settings
from tests.bulk.command import (
    LENGTHS,
    encode,
    hash_folder,
    read_embeddings,
    read_parts,
    refuse,
    write_jsonl,
    write_parquet,
)
from tests.conftest import FEATURES, MADE, draw_sequences
from tests.made import take


def test_every_format_gives_what_the_service_gives(
    client: TestClient, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Bit for bit, in the order of the rows."""
    body = {"sequences": [steps.tolist() for steps in sequences], "encoding_format": "float"}
    expected = np.array(client.post("/encode", json=body).json()["embeddings"], np.float32)
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate(sequences)]
    np.savez(tmp_path / "in.npz", values=np.concatenate(sequences), lengths=np.array(LENGTHS))
    np.savez_compressed(tmp_path / "small.npz", values=np.concatenate(sequences), lengths=np.array(LENGTHS))
    inputs = [
        write_parquet(tmp_path / "in.parquet", sequences),
        write_jsonl(tmp_path / "in.jsonl", rows),
        write_jsonl(tmp_path / "in.jsonl.gz", rows),
        tmp_path / "in.npz",
        tmp_path / "small.npz",
    ]
    for number, file in enumerate(inputs):
        out = tmp_path / f"out{number}"
        assert encode(file, "-o", out) == 0
        assert len(json.loads((out / "plan.json").read_text())["shards"]) > 1, file
        np.testing.assert_array_equal(read_embeddings(out), expected, err_msg=str(file))


def test_arrays_of_one_length_are_sequences_too(client: TestClient, tmp_path: Path) -> None:
    """`(n, T, F)` in an npy is n sequences, and the output may be one array."""
    array = np.stack(draw_sequences([4] * 20))
    np.save(tmp_path / "in.npy", array)
    assert encode(tmp_path / "in.npy", "-o", tmp_path / "out", "--format", "npy") == 0
    expected = client.post("/encode", json={"sequences": array.tolist()}).json()["embeddings"]
    np.testing.assert_array_equal(np.load(tmp_path / "out/embeddings.npy"), np.array(expected, np.float32))


def test_other_columns_are_kept_or_chosen(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """All of them by default, with their types; the sequence itself is not copied."""
    ids = [f"r{row}" for row in range(len(sequences))]
    file = write_parquet(tmp_path / "in.parquet", sequences, id=ids, weight=[0.5] * len(ids))
    encode(file, "-o", tmp_path / "all")
    assert read_parts(tmp_path / "all").drop_columns("embedding").to_pydict() == {"id": ids, "weight": [0.5] * 16}
    encode(file, "-o", tmp_path / "one", "--columns", "id")
    assert read_parts(tmp_path / "one").column_names == ["id", "embedding"]
    encode(file, "-o", tmp_path / "none", "--columns", "")
    assert read_parts(tmp_path / "none").column_names == ["embedding"]


def test_fields_of_json_lines_become_columns_of_one_type(tmp_path: Path) -> None:
    """What differs from line to line, or is a list, is kept as JSON."""
    sequence = draw_sequences([2])[0].tolist()
    rows = [
        {"id": 1, "share": 1, "name": "a", "tags": [1], "sequence": sequence},
        {"id": 2, "share": 0.5, "name": None, "tags": "x", "sequence": sequence},
    ]
    encode(write_jsonl(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out")
    kept = read_parts(tmp_path / "out").drop_columns("embedding")
    assert kept.to_pydict() == {"id": [1, 2], "share": [1.0, 0.5], "name": ["a", None], "tags": ["[1]", '"x"']}


def test_a_field_that_does_not_fit_its_column_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither dropped nor turned into something else."""
    monkeypatch.setattr(lines, "TYPED_LINES", 1)
    sequence = draw_sequences([2])[0].tolist()
    rows = [{"id": 1, "sequence": sequence}, {"id": "b", "sequence": sequence}, {"new": 1, "sequence": sequence}]
    encode(write_jsonl(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out")
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [(one["row"], one["problem"]["path"]) for one in told] == [(1, "id"), (2, "new")]


def test_a_line_that_is_no_row_is_told_in_a_sentence(tmp_path: Path) -> None:
    """A sentence begins with what it is about."""
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"sequence": draw_sequences([2])[0].tolist()}) + '\nno JSON\n{"id": 1}\n')
    encode(file, "-o", tmp_path / "out")
    told = [json.loads(line)["problem"] for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert told[0]["detail"].startswith("The line is not JSON (")
    assert told[1]["detail"] == "The line is no object with this field: expected an object with 'sequence'."


BAD = [
    ([[1.0, 2.0, 3.0], [1.0, 2.0]], "feature-mismatch", "sequence[1]"),
    ([[1.0, float("nan"), 3.0]], "non-finite-value", "sequence[0][0][1]"),
    ([], "empty-sequence", "sequence[0]"),
    ([[0.0] * FEATURES] * 40, "sequence-too-long", "sequence[0]"),
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_bad_rows_are_told_and_the_rest_is_encoded(kind: str, tmp_path: Path) -> None:
    """Each with its file, its number and the problem that HTTP would answer; its embedding is null."""
    good = draw_sequences([3])[0].tolist()
    rows: list[Any] = [good, *(row for bad, _, _ in BAD for row in (bad, good))]
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"sequence": pa.array(rows, pa.list_(pa.list_(pa.float32())))}), file, row_group_size=3)
    else:
        file.write_text("".join(json.dumps({"sequence": row}) + "\n" for row in rows).replace("NaN", "1e999"))
        rows[3] = None
    assert encode(file, "-o", tmp_path / "out", "--max-sequence-steps", 39) == 0
    told = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [(one["file"], one["row"]) for one in told] == [(str(file), row) for row in (1, 3, 5, 7)]
    found = [(one["problem"]["type"].rpartition(":")[2], one["problem"].get("path")) for one in told]
    expected = [(name, place) for _, name, place in BAD]
    if kind == "jsonl":  # JSON has no NaN, and a number beyond all floats is refused by its parser
        found[1] = expected[1]
    assert found == expected
    embeddings = read_parts(tmp_path / "out")["embedding"].to_pylist()
    assert [row for row, one in enumerate(embeddings) if one is None] == [1, 3, 5, 7]
    assert embeddings[0] == embeddings[2] == embeddings[8]


def test_bad_rows_may_end_it_or_be_left_out(tmp_path: Path) -> None:
    """`fail` names the row; `drop` leaves it out of the output, not out of the problems."""
    good = draw_sequences([3])[0].tolist()
    file = write_jsonl(tmp_path / "in.jsonl", [{"sequence": good}, {"sequence": []}, {"sequence": good}])
    assert f"{file}, row 1: " in refuse(file, "-o", tmp_path / "fail", "--on-error", "fail")
    encode(file, "-o", tmp_path / "drop", "--on-error", "drop")
    assert len(read_parts(tmp_path / "drop")) == 2
    assert len((tmp_path / "drop/errors.jsonl").read_text().splitlines()) == 1
    said = refuse(file, "-o", tmp_path / "few", "--max-errors", 0)
    assert said == "lengthwise: 1 row could not be encoded, and --max-errors is 0: see the files part-*.errors"
    assert [path.name for path in (tmp_path / "few").glob("*errors*")] == ["part-00000.errors"]
    encode(file, "-o", tmp_path / "zero", "--empty-sequences", "zero")
    assert not read_embeddings(tmp_path / "zero")[1].any()


def test_a_plan_for_something_else_is_refused(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """It says what changed, and nothing is written."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out")
    before = hash_folder(tmp_path / "out")
    assert "on_error was 'null' and is 'drop'" in refuse(file, "-o", tmp_path / "out", "--on-error", "drop")
    write_parquet(file, sequences[:-1])
    assert f"{file} was written anew" in refuse(file, "-o", tmp_path / "out")
    other = write_parquet(tmp_path / "other.parquet", sequences)
    assert f"{other} has come" in refuse(other, "-o", tmp_path / "out")
    assert hash_folder(tmp_path / "out") == before


def test_several_programs_share_the_work(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """Whoever encodes which shard, in any order and one of them twice, the output is the same."""
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate([*sequences, sequences[0][:0]])]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "alone")
    for share in ("3/4", "1/4", "0/4", "1/4", "2/4"):
        assert not (tmp_path / "shared/errors.jsonl").exists()
        encode(file, "-o", tmp_path / "shared", "--shard", share)
    assert hash_folder(tmp_path / "shared") == hash_folder(tmp_path / "alone")
    assert "0 <= I < N" in refuse(file, "-o", tmp_path / "x", "--shard", "4/4")


def test_a_limit_encodes_the_first_rows_and_the_rest_follows(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """The shards that hold them; without the limit the same command goes on."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out", "--limit", 5)
    assert 5 <= len(read_parts(tmp_path / "out")) < len(sequences)
    encode(file, "-o", tmp_path / "out")
    assert len(read_parts(tmp_path / "out")) == len(sequences)


def test_a_dry_run_says_what_there_is_to_do(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, steps, time and size, and nothing is written."""
    assert encode(write_parquet(tmp_path / "in.parquet", sequences), "-o", tmp_path / "out", "--dry-run") == 0
    said = capsys.readouterr().out
    shards = int(said.removeprefix("16 rows of 1 file in ").split()[0])
    assert said.startswith(f"16 rows of 1 file in {shards} shards; 16 rows in {shards} of them are to be encoded\n")
    assert "steps, " in said
    assert f"judged by {min(5, shards)} shards, in which 0 of " in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_is_left_for_this_program(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of its share, without what is done and what a limit leaves out; all of that is judged, not its beginning only."""
    file = write_parquet(tmp_path / "in.parquet", sequences, 1)  # the longest sequences are not in the first shard
    out = (file, "-o", tmp_path / "out")
    encode(*out, "--dry-run", "--format", "npy")
    assert f"about {sum(LENGTHS):,} steps" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    encode(*out, "--shard", "0/2")
    done = len([*(tmp_path / "out").glob("part*")])
    shards = len(json.loads((tmp_path / "out/plan.json").read_text())["shards"])
    capsys.readouterr()
    encode(*out, "--dry-run")
    assert f"in {shards - done} of them are to be encoded" in capsys.readouterr().out
    encode(*out, "--dry-run", "--limit", 1)
    assert capsys.readouterr().out.endswith("; 0 rows in 0 of them are to be encoded\n")


def test_a_predicted_time_counts_the_cpus_and_not_the_runners() -> None:
    """There is a runner more than CPUs, which waits for one of them."""
    lengths = np.array([5] * 100)
    cpus = available_cpus()
    for runners, expected in ((1, 1), (cpus + 1, cpus)):
        encoder = Encoder(Settings(model=MADE, provider="cpu", runners=runners))
        assert encoder.predict(lengths) == sum(seconds for _, seconds in encoder.cut(lengths)) / expected
        encoder.close()


@pytest.mark.parametrize("flag", ["limit", "max-errors"])
def test_fewer_than_no_rows_are_refused(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would be encoded, or one good row would be one too many; none may be said."""
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "in.parquet"), "-o", "out", f"--{flag}", "-1"])
    assert f"argument --{flag}: invalid bound value: '-1'" in capsys.readouterr().err


def test_of_two_programs_that_begin_at_once_one_makes_the_plan(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One with the same options goes on by it, one with others is refused and writes nothing."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    flags = (file, "--format", "jsonl")
    encode(*flags, "-o", tmp_path / "alone")
    save = Plan.save

    def save_second(self: Plan, folder: Place) -> None:
        monkeypatch.setattr(Plan, "save", save)
        encode(*flags, "-o", folder, "--limit", 1)
        save(self, folder)

    for name, more in (("same", ()), ("other", ("--columns", ""))):
        monkeypatch.setattr(Plan, "save", save_second)
        if more:
            assert "another program began another plan" in refuse(*flags, *more, "-o", tmp_path / name)
            encode(*flags, "-o", tmp_path / name)
        else:
            encode(*flags, "-o", tmp_path / name)
        assert hash_folder(tmp_path / name) == hash_folder(tmp_path / "alone")


def test_an_encoder_that_is_closed_ends_after_the_runs_under_way() -> None:
    """A program that ends early does not wait for the rest of its shards."""
    encoder = Encoder(Settings(model=MADE, provider="cpu", runners=1))
    begun, closed = threading.Event(), threading.Event()
    shutdown, ran = encoder._pool.shutdown, []

    def run(batch: Batch) -> npt.NDArray[np.float32]:
        ran.append(batch)
        begun.set()
        assert closed.wait(60.0)
        return np.zeros((len(batch.lengths), encoder.dim), np.float32)

    def shut_down(**options: bool) -> None:
        closed.set()
        shutdown(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "session", SimpleNamespace(dim=encoder.dim, run=run))
        patch.setattr(encoder._pool, "shutdown", shut_down)
        sequences: list[Steps] = [*draw_sequences([4] * 200)]
        assert len(encoder.cut(np.array([4] * 200))) > 1
        encoder.begin(sequences)
        assert begun.wait(60.0)
        encoder.close()
    assert len(ran) == 1


def test_a_folder_of_the_input_is_refused_for_the_output(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Its parts would be inputs the next time; not so beside it, in a folder that is not read, or as JSON lines."""
    write_parquet(tmp_path / "in.parquet", sequences)
    for out in (tmp_path, tmp_path / "out/deep"):
        assert f"{out} lies in the input {tmp_path}" in refuse(tmp_path, "-o", out)
    for name, kind in (("_out", "parquet"), ("lines", "jsonl")):
        for _ in range(2):  # the second time with parts in the folder
            encode(tmp_path, "-o", tmp_path / name, "--format", kind)
    encode(tmp_path / "in.parquet", "-o", tmp_path / "out")
    assert "holds 'embedding'" not in refuse(tmp_path / "out", "-o", tmp_path / "out2", "--sequence", "none")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_with_the_name_of_an_output_is_refused(kind: str, tmp_path: Path) -> None:
    """It would be lost, so somebody chooses what to keep; nothing is written before."""
    rows = [{"id": 1, "embedding": 2, "sequence": draw_sequences([3])[0].tolist()}]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    said = refuse(file, "-o", tmp_path / "out", "--format", kind)
    assert "the input holds 'embedding', and so would the output" in said
    assert not [*(tmp_path / "out").glob("part*")]
    encode(file, "-o", tmp_path / "id", "--format", kind, "--columns", "id")


def test_parts_sort_as_the_rows_do_however_many_there_are(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their numbers have as many digits as the last one."""
    monkeypatch.setattr("bulk.sinks.sink.DIGITS", 1)
    monkeypatch.setattr("bulk.sources.wanted.SHARD_BYTES", 1)
    encode(write_parquet(tmp_path / "in.parquet", sequences, 1, id=[*range(16)]), "-o", tmp_path / "out")
    assert read_parts(tmp_path / "out")["id"].to_pylist() == [*range(16)]


def test_a_part_that_the_plan_does_not_have_is_refused(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As those of a program that wrote fewer digits: whoever reads the folder would read their rows twice."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out")
    monkeypatch.setattr("bulk.sinks.sink.DIGITS", 6)
    expected = f"{tmp_path}/out/part-00000.parquet is not of the plan beside it: remove it"
    assert expected in refuse(file, "-o", tmp_path / "out")


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_an_actor_without_a_cpu_is_refused(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line, before anything is read."""
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "in.parquet"), "-o", "out", "--engine", "ray", "--actor-cpus", number])
    assert f"argument --actor-cpus: invalid count value: '{number}'" in capsys.readouterr().err


def test_an_array_that_has_gone_is_filled_again(tmp_path: Path) -> None:
    """The marks of its parts are no proof without it."""
    np.save(tmp_path / "in.npy", np.stack(draw_sequences([4] * 20)))
    flags = (tmp_path / "in.npy", "-o", tmp_path / "out", "--format", "npy")
    encode(*flags)
    before = (tmp_path / "out/embeddings.npy").read_bytes()
    (tmp_path / "out/embeddings.npy").unlink()
    encode(*flags)
    assert (tmp_path / "out/embeddings.npy").read_bytes() == before


def test_an_array_that_has_gone_is_filled_again_however_often_that_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once there is a new array, marks of the one before tell nothing of it, to a later program either."""
    monkeypatch.setattr("bulk.sources.wanted.SHARD_BYTES", 100)
    np.save(tmp_path / "in.npy", np.stack(draw_sequences([4] * 20)))
    flags = (tmp_path / "in.npy", "-o", tmp_path / "out", "--format", "npy")
    encode(*flags)
    before = (tmp_path / "out/embeddings.npy").read_bytes()
    (tmp_path / "out/embeddings.npy").unlink()
    encode(*flags, "--limit", 1)
    assert (tmp_path / "out/embeddings.npy").read_bytes() != before
    encode(*flags)
    assert (tmp_path / "out/embeddings.npy").read_bytes() == before


SIGNALLED = """
import os, sys

left = [{number}]

def look(event, given):
    if left and event == "open" and "/.part-" in str(given[0]):
        os.kill(os.getpid(), left.pop())

sys.addaudithook(look)
"""


def start(file: Path, out: Path, first: str = "") -> subprocess.Popen[bytes]:
    """Start the command in a process of its own, with small shards, after some other Python."""
    script = "from bulk.sources import wanted; wanted.SHARD_BYTES = 2**16; from bulk.__main__ import main; main()"
    script = f"{first}\n{script}"
    command = [sys.executable, "-c", script, str(file), "-o", str(out), "--model", str(MADE), "--quiet"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A file of many shards, some rows of which are bad."""
    draw = np.random.default_rng(1)
    rows = [
        {"id": row, "sequence": draw.standard_normal((row % 40, FEATURES)).astype(np.float32).tolist()}
        for row in range(4000)
    ]
    return write_jsonl(tmp_path / "many.jsonl", rows)


def test_killed_at_ten_moments_and_shared_by_five_programs_the_output_is_the_same() -> None:
    """SIGKILL costs the shards under way; no byte differs from an undisturbed run, problems included.

    Nor does one if four programs share the work at once, and a fifth does the share of one of them again.
    """
    flags = ["--model", str(MADE), "--features", str(FEATURES), "--rows", "1500", "--shard-bytes", str(2**16)]
    command = [sys.executable, "-m", "bench", "interrupted", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["killed"], told["shared"], told["errors"]) == (True, True, True)
    assert told["died"] == 10


class Killed(Exception):
    """The program ends here."""


def test_ended_in_any_write_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file is half written then, a part or its problems, nothing of it is in the output."""
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate(draw_sequences([5, 0, 9, 3, 0, 8]))]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "alone")
    count = last = 0

    def end_halfway(path: Path) -> None:
        nonlocal count
        count += 1
        if count == last:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Killed

    monkeypatch.setattr("bulk.stores._sync", end_halfway)
    for last in (1, 1, 2, 3, 2):  # noqa: B007 - it is read above
        count = 0
        with pytest.raises(Killed):
            encode(file, "-o", tmp_path / "out")
    last = 0
    for name in ("plan.json", "errors.jsonl"):
        (tmp_path / f"out/.{name}.4711").write_text("half")  # of a program that ended there
    encode(file, "-o", tmp_path / "out")
    assert hash_folder(tmp_path / "out") == hash_folder(tmp_path / "alone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_the_shard_in_hand(many: Path, tmp_path: Path, number: signal.Signals) -> None:
    """It exits as a program does that this signal stopped, leaves no draft, and the same command goes on.

    The signal comes before the first part is put in its place, however fast or slow this machine is.
    """
    with start(many, tmp_path / "out", SIGNALLED.format(number=int(number))) as process:
        code = process.wait()
    assert code == 128 + number
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    done = [*(tmp_path / "out").glob("part-*.parquet")]
    assert 0 < len(done) < len(json.loads((tmp_path / "out/plan.json").read_text())["shards"])
    with start(many, tmp_path / "out") as process:
        assert process.wait() == 0
    assert len(read_parts(tmp_path / "out")) == 4000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_not_caught(number: signal.Signals) -> None:
    """Whoever does not want to wait for the shard in hand sends it twice; that costs what a crash costs."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        caught = catch_signals(stop := threading.Event())
        signal.raise_signal(number)
        assert stop.is_set()
        assert caught == [number]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.tsv", b"", "it is none of .parquet"),
        ("in.parquet", b"PAR1", "it cannot be read as Parquet"),
        ("in.npz", b"PK", "it cannot be read as .npz"),
        ("in.txt", b"a text\n", "the model reads none"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    """In one sentence."""
    (tmp_path / name).write_bytes(content)
    assert said in refuse(tmp_path / name, "-o", tmp_path / "out")


def test_a_column_that_is_not_there_is_named(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """With those that are."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    assert "there is no column 'x': it has 'sequence'" in refuse(file, "-o", tmp_path / "out", "--sequence", "x")


def test_token_ids_are_read_and_checked(tmp_path: Path) -> None:
    """Of Parquet, JSON lines and arrays alike; an unknown id is a bad row."""
    model = take("tokens", tmp_path / "tokens.onnx")
    ids = [[1, 2, 3], [8], [4, 9], [5, 6]]
    pq.write_table(pa.table({"sequence": pa.array(ids, pa.list_(pa.int32()))}), tmp_path / "in.parquet")
    write_jsonl(tmp_path / "in.jsonl", [{"sequence": one} for one in ids])
    np.savez(tmp_path / "in.npz", values=np.concatenate(ids), lengths=np.array([3, 1, 2, 2]))
    found = []
    for kind in ("parquet", "jsonl", "npz"):
        out = tmp_path / kind
        assert encode(tmp_path / f"in.{kind}", "-o", out, "--model", model) == 0
        found.append(read_parts(out)["embedding"].to_pylist())
        (told,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
        assert (told["row"], told["problem"]["path"]) == (2, "sequence[0][1]")
    assert found[0] == found[1] == found[2]
    assert found[0][2] is None


def test_texts_are_tokenised(tmp_path: Path) -> None:
    """Of a text file a line each, of Parquet and of JSON lines; the text is kept beside."""
    model = take("texts", tmp_path / "texts.onnx")
    texts = ["so it goes", "it", "so so"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    write_jsonl(tmp_path / "in.jsonl", [{"text": one} for one in texts])
    found = []
    for kind in ("txt", "parquet", "jsonl"):
        encode(tmp_path / f"in.{kind}", "-o", tmp_path / kind, "--model", model, "--sequence", "text")
        found.append(read_embeddings(tmp_path / kind))
    assert read_parts(tmp_path / "txt")["text"].to_pylist() == texts
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_steps_and_states_are_written_if_the_artifact_gives_them(kind: str, tmp_path: Path) -> None:
    """As the service answers them; what it does not give is refused by name."""
    model = take("parts-lstm", tmp_path / "all.onnx")
    file = write_parquet(tmp_path / "in.parquet", draw_sequences([2, 5]))
    flags = (file, "-o", tmp_path / "out", "--outputs", "embedding,steps,state", "--format", kind)
    assert "gives embedding" in refuse(*flags)
    encode(*flags, "--model", model)
    if kind == "parquet":
        rows = read_parts(tmp_path / "out").to_pylist()
        lengths = [len(row["steps"]) for row in rows]
        assert {name for name in rows[0] if name.startswith("state_")} == {"state_h", "state_c"}
    else:
        parts = sorted((tmp_path / "out").glob("part*"))
        rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
        lengths = [len(row["steps"]) for row in rows]
        assert [*rows[0]["state"]] == ["h", "c"]
    assert lengths == [2, 5]


def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rate, the padding, what failed and the time that is left."""
    now = [0.0]
    monkeypatch.setattr("bulk.progress.time.monotonic", lambda: now[0])
    with Meter(1000) as meter:
        now[0] = 59.0
        meter.add(100, 1000, 1250, 0)
        assert capsys.readouterr().err == ""
        now[0] = 100.0
        meter.add(100, 1000, 1250, 3)
        said = capsys.readouterr().err
    assert said == "200 of 1,000 rows, 20 steps/s, 20.0% padding, 3 could not be encoded, 7 minutes left\n"


def test_at_a_terminal_a_bar_shows_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with all rows, the rate and the padding; `--quiet` shows none."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Meter(200, quiet=True) as meter:
        meter.add(200, 1000, 1250, 0)
    assert capsys.readouterr().err == ""
    with Meter(200) as meter:
        meter.add(200, 1000, 1250, 0)
    said = capsys.readouterr().err
    assert "200 of 200 rows" in said
    assert "20.0% padding" in said


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ("[1, 2]", "The line"),
        ("not json", "The line"),
        ('{"other": 1}', "The line"),
        ('{"sequence": 5}', "sequence"),
        ('{"sequence": "a text"}', "sequence"),
        ('{"sequence": [[1, 2, 3], 4]}', "sequence[1]"),
        ('{"sequence": [[1, 2, "3"]]}', "sequence[0][2]"),
        ('{"sequence": [[1, 2, true]]}', "sequence[0][2]"),
    ],
)
def test_a_line_that_is_no_sequence_is_a_bad_row(row: str, path: str, tmp_path: Path) -> None:
    """It is told by its place, and the lines beside it are encoded."""
    good = json.dumps({"sequence": [[1.0, 2.0, 3.0]]})
    (tmp_path / "in.jsonl").write_text(f"{good}\n{row}\n{good}")  # the last line has no end
    assert encode(tmp_path / "in.jsonl", "-o", tmp_path / "out") == 0
    (told,) = map(json.loads, (tmp_path / "out/errors.jsonl").read_text().splitlines())
    assert (told["row"], told["problem"].get("path", "")) == (1, path)
    assert [one is None for one in read_parts(tmp_path / "out")["embedding"].to_pylist()] == [False, True, False]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([[1, 2]]), "the model reads lists of steps of 3 numbers"),
        (pa.array([["a"]]), "string>, neither lists of numbers nor texts"),
        (pa.array([[True]]), "the steps hold bool, which are not numbers"),
        (pa.array([1, 2]), "holds int64, neither lists of numbers nor texts"),
        (pa.array(["a text"]), "the model reads none"),
    ],
)
def test_a_column_of_another_kind_is_refused(column: Any, said: str, tmp_path: Path) -> None:
    """The sentence says what it holds and what the model reads."""
    pq.write_table(pa.table({"sequence": column}), tmp_path / "in.parquet")
    assert said in refuse(tmp_path / "in.parquet", "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"values": np.zeros((3, 3)), "lengths": [1, 1]}, "the lengths sum to 2, and there are 3 steps"),
        ({"values": np.zeros((3, 2)), "lengths": [3]}, "the model reads (S, 3) numbers"),
        ({"values": np.zeros((3, 3))}, "it cannot be read as .npz"),
        ({"values": np.zeros((3, 3)), "lengths": 3}, "the shape of values is (3, 3), of lengths ()"),
        ({"values": 3.0, "lengths": [3]}, "the shape of values is (), of lengths (1,)"),
    ],
)
def test_arrays_of_another_shape_are_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The sentence says what was found."""
    np.savez(tmp_path / "in.npz", **arrays)
    assert said in refuse(tmp_path / "in.npz", "-o", tmp_path / "out")
    np.save(tmp_path / "in.npy", np.zeros(3))
    assert "its shape is (3,)" in refuse(tmp_path / "in.npy", "-o", tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--format", "npy", "--on-error", "drop"), "--on-error null makes it NaN"),
        (("--outputs", "steps"), "gives embedding"),
        (("--max-sequence-steps", "0"), "greater than or equal to 1"),
    ],
)
def test_flags_that_contradict_are_refused(
    flags: tuple[str, ...], said: str, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """In one sentence, before anything is written."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    assert said in refuse(file, "-o", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_nan_in_one_array(tmp_path: Path) -> None:
    """The array has a row for each that was read."""
    good = draw_sequences([3])[0].tolist()
    file = write_jsonl(tmp_path / "in.jsonl", [{"sequence": good}, {"sequence": []}, {"sequence": good}])
    encode(file, "-o", tmp_path / "out", "--format", "npy")
    found = np.load(tmp_path / "out/embeddings.npy")
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


def test_a_plan_that_cannot_be_read_is_named(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """Whether it is damaged or another version's, it is never taken for a new start."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    (tmp_path / "out").mkdir()
    for text, said in (("{", "cannot be read as a plan"), ('{"format": 0}', "was written by another version")):
        (tmp_path / "out/plan.json").write_text(text)
        assert said in refuse(file, "-o", tmp_path / "out")
