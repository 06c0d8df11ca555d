"""Inputs and outputs in object stores: the bytes of a local run, over the protocol of S3 as pyarrow speaks it."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import fs

from bulk import stores
from bulk.mistakes import BulkError
from bulk.plan import Shard
from bulk.rows import Rows
from bulk.sinks.files import finish
from bulk.sources.files import find_inputs, open_source
from bulk.sources.wanted import Wanted
from bulk.stores import Place, open_place
from service.encoder.sequences import Features, InputSpec
from service.settings import Settings
from tests.bulk.command import (
    LENGTHS,
    download,
    encode,
    hash_folder,
    read_embeddings,
    refuse,
    upload,
    write_jsonl,
    write_parquet,
)
from tests.conftest import FEATURES, MADE
from tests.memory import run_within

needs_s3 = pytest.mark.skipif(find_spec("moto") is None, reason="moto, which speaks S3, is not installed")


@needs_s3
def test_a_bucket_holds_the_bytes_of_a_local_run(bucket: Place, tmp_path: Path) -> None:
    """Parts, problems and plan: no byte differs, and there is nothing else."""
    rows = [{"id": row, "sequence": [[float(row)] * FEATURES] * (row % 9)} for row in range(60)]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "here")
    encode(file, "-o", bucket)
    found = hash_folder(download(bucket, tmp_path / "there"))
    assert found == hash_folder(tmp_path / "here")
    assert "errors.jsonl" in found
    encode(file, "-o", bucket)  # all is done, and nothing is written again
    assert found == hash_folder(download(bucket, tmp_path / "again"))


@needs_s3
def test_every_format_is_read_from_a_bucket(
    bucket: Place, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """The embeddings are those of the same file here, bit for bit."""
    rows = [{"id": row, "sequence": steps.tolist()} for row, steps in enumerate(sequences)]
    same = np.stack([sequences[7][:5]] * 30)
    np.savez(tmp_path / "in.npz", values=np.concatenate(sequences), lengths=np.array(LENGTHS))
    np.savez_compressed(tmp_path / "small.npz", values=np.concatenate(sequences), lengths=np.array(LENGTHS))
    np.save(tmp_path / "in.npy", same)
    np.save(tmp_path / "turned.npy", np.asfortranarray(same))
    table = "id,order,a,b,c\n" + "".join(f"s{row // 3},{row},1,2,{row}\n" for row in range(60))
    (tmp_path / "in.csv").write_text(table)
    write_parquet(tmp_path / "in.parquet", sequences)
    write_jsonl(tmp_path / "in.jsonl", rows)
    write_jsonl(tmp_path / "in.jsonl.gz", rows)
    for file in sorted(tmp_path.glob("*.*")):
        there = upload(file, bucket / file.name)
        encode(file, "-o", tmp_path / f"{file.name}-here")
        encode(there, "-o", tmp_path / f"{file.name}-there")
        found = [read_embeddings(tmp_path / f"{file.name}-{side}") for side in ("here", "there")]
        np.testing.assert_array_equal(found[0], found[1], err_msg=file.name)


@needs_s3
def test_a_partitioned_folder_and_a_pattern_are_listed(
    bucket: Place, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """As here: the names of folders are columns, and a `*` stands for any part of a name."""
    for day in (1, 2):
        (tmp_path / f"in/day={day}").mkdir(parents=True)
        write_parquet(tmp_path / f"in/day={day}/a b.parquet", sequences[day:])
    upload(tmp_path / "in", bucket / "in")
    here = find_inputs([str(tmp_path / "in")])
    there = find_inputs([f"{bucket}/in"])
    assert [one.path for one in there] == [f"{bucket}/in/day={day}/a b.parquet" for day in (1, 2)]
    assert [(one.bytes, one.partitions) for one in there] == [(one.bytes, one.partitions) for one in here]
    for folder in (f"{bucket}/in", str(tmp_path / "in")):
        (one,) = find_inputs([f"{folder}/day=*2/*.parquet"])
        assert (one.path, one.partitions) == (f"{folder}/day=2/a b.parquet", {"day": "2"})
        assert "matches no file" in refuse(f"{folder}/*.parquet", "-o", tmp_path / "out")


@needs_s3
def test_an_object_that_was_written_anew_is_noticed(
    bucket: Place, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """By its size or its time."""
    file = upload(write_parquet(tmp_path / "in.parquet", sequences), bucket / "in.parquet")
    encode(file, "-o", bucket / "out")
    upload(write_parquet(tmp_path / "in.parquet", sequences[1:]), file)
    assert f"{file} was written anew" in refuse(file, "-o", bucket / "out")


def start(*flags: object, first: str = "") -> subprocess.Popen[bytes]:
    """Start the command in a process of its own, with small shards, after some other Python."""
    script = "from bulk.sources import wanted; wanted.SHARD_BYTES = 2**14; from bulk.__main__ import main; main()"
    command = [sys.executable, "-c", f"{first}\n{script}", "--model", str(MADE), "--quiet", *map(str, flags)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


KILLED_IN_ITS_FOURTH_PART = """
import os, signal
from bulk.stores import Place

upload, parts = Place._upload, []

def upload_or_die(place):
    parts.extend([place] if place.name.endswith(".parquet") else [])
    if len(parts) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return upload(place)

Place._upload = upload_or_die
"""


def count_parts(bucket: Place) -> int:
    """Count the parts that are done."""
    return sum(one.name.endswith(".parquet") for one in bucket.list_files())


@needs_s3
def test_killed_and_shared_a_bucket_holds_the_same(
    bucket: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed with parts done and others under way, then ended by two programs at once."""
    draw = np.random.default_rng(1)
    rows = [{"id": row, "sequence": draw.standard_normal((row % 30, FEATURES)).tolist()} for row in range(400)]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    monkeypatch.setattr("bulk.sources.wanted.SHARD_BYTES", 2**14)
    encode(file, "-o", tmp_path / "here")
    with start(file, "-o", bucket, first=KILLED_IN_ITS_FOURTH_PART) as process:
        assert process.wait() == -signal.SIGKILL
    assert 0 < count_parts(bucket) < 4
    shares = [start(file, "-o", bucket, "--shard", share) for share in ("0/2", "1/2")]
    assert [one.wait() for one in shares] == [0, 0]
    assert hash_folder(download(bucket, tmp_path / "there")) == hash_folder(tmp_path / "here")


@needs_s3
def test_an_upload_that_was_killed_leaves_nothing(bucket: Place) -> None:
    """Half of an object was sent, and no object is there."""
    script = f"""
import os, signal
from bulk.stores import open_place
def send():
    yield bytes(12 * 2**20)
    os.kill(os.getpid(), signal.SIGKILL)
open_place("{bucket}/part-00000.jsonl").put(send())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert bucket.list_files() == []


@needs_s3
def test_what_fails_while_it_is_put_leaves_nothing(bucket: Place) -> None:
    """What was sent until then is not shown as if it were all."""

    def send() -> Iterator[bytes]:
        yield b"a row\n"
        raise OSError("the other rows cannot be read")

    with pytest.raises(BulkError, match="the other rows cannot be read"):
        (bucket / "errors.jsonl").put(send())
    assert bucket.list_files() == []


@needs_s3
def test_what_cannot_be_read_back_while_it_is_sent_leaves_nothing(bucket: Place) -> None:
    """A part of it was sent, and neither the error nor the end of the program shows that part as if it were all."""
    script = f"""
import gc
from bulk import stores

class Broken(stores.SpooledTemporaryFile):
    def read(self, size):
        if self.tell():
            raise OSError("the disk is broken")
        return super().read(size)

stores.SpooledTemporaryFile, stores.PIECE_BYTES = Broken, 8
try:
    stores.open_place("{bucket}/part-00000.jsonl").put([b"one row\\n", b"another\\n"])
except stores.BulkError as error:
    print(error)
gc.collect()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("part-00000.jsonl cannot be written: the disk is broken\n")
    assert bucket.list_files() == []


def test_pieces_of_an_object_wait_on_disk_until_all_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So the memory that it takes does not grow with it."""
    monkeypatch.setattr(stores, "HELD_BYTES", 2**20)
    monkeypatch.setattr(stores, "SHOWN_WHOLE", fs.LocalFileSystem)
    place = open_place(tmp_path / "x")
    run_within(8 * 2**20, lambda: place.put(bytes(2**20) for _ in range(32)))
    assert (tmp_path / "x").stat().st_size == 32 * 2**20


def test_without_a_disk_pieces_of_an_object_wait_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container whose files cannot be written."""

    def find_none() -> str:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(stores, "HELD_BYTES", 1)
    monkeypatch.setattr(stores, "SHOWN_WHOLE", fs.LocalFileSystem)
    for module in (stores, tempfile):
        monkeypatch.setattr(module, "gettempdir", find_none)
    open_place(tmp_path / "x").put([b"one", b"two"])
    assert (tmp_path / "x").read_bytes() == b"onetwo"


def test_parts_that_only_their_names_tell_are_listed_and_not_asked_for(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each question takes a while in a store, and the list has answered it."""
    flags = (write_parquet(tmp_path / "in.parquet", sequences), "-o", tmp_path / "out", "--format", "jsonl")
    encode(*flags)
    asked: list[str] = []
    exists = vars(Place)["exists"].fget

    def ask(self: Place) -> bool:
        asked.append(self.name)
        return bool(exists(self))

    monkeypatch.setattr(Place, "exists", property(ask))
    encode(*flags)
    assert not [name for name in asked if name.startswith("part-")]


def test_a_draft_that_another_program_cleared_up_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the same shard, and all others; a draft that is gone while its file is not there is an error."""
    sync, part = stores._sync, open_place(tmp_path / "part-00000.parquet")

    def clear_up(draft: Path) -> None:
        draft.unlink()
        sync(draft)

    monkeypatch.setattr(stores, "_sync", clear_up)
    with pytest.raises(BulkError, match="cannot be written"):
        part.put([b"rows"])
    Path(part.path).write_bytes(b"rows")
    part.put([b"rows"])


@needs_s3
def test_a_bucket_that_is_not_there_is_named(
    bucket: Place, sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """As input and as output, in a sentence; so is what a store cannot hold."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    assert "s3://other/plan.json cannot be written: " in refuse(file, "-o", "s3://other")
    assert "s3://other/in.parquet: No such file" in refuse("s3://other/in.parquet", "-o", tmp_path / "out")
    assert "one array that grows in place" in refuse(file, "-o", bucket, "--format", "npy")


def test_an_address_that_nothing_opens_is_named() -> None:
    """And a key in one is refused, since the plan would repeat it; the message does not."""
    with pytest.raises(BulkError, match=r"none://x cannot be opened, neither by pyarrow nor by fsspec: .*none"):
        open_place("none://x/y")
    with pytest.raises(BulkError, match=r"leave out the key") as told:
        open_place("s3://name:secret@bucket/x")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "name",
    [
        "s3://id:told@made/x",
        "abfs://made@a.dfs.core.windows.net/x?tenant_id=t&client_secret=told",
        "memory://x?sig=told",
    ],
)
def test_an_address_with_a_key_is_refused_without_it(name: str) -> None:
    """The plan repeats addresses, and so does this sentence, but for the key."""
    with pytest.raises(BulkError, match="leave out the key") as caught:
        open_place(name)
    assert "told" not in str(caught.value)


def test_an_endpoint_in_an_address_stays_in_the_names_of_files() -> None:
    """So that each can be opened by its own name."""
    place = open_place("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    assert str(place / "a") == "s3://bucket/x/a?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    assert (place / "a").path == "bucket/x/a"
    assert open_place("file:///a/b") == open_place("/a/b")


@pytest.mark.skipif(find_spec("fsspec") is None, reason="fsspec is not installed")
def test_what_only_fsspec_opens_holds_the_bytes_of_a_local_run(
    sequences: list[npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    """Its stores may show what is half written, so each file is renamed, and no draft is left."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "here")
    encode(file, "-o", "memory://made/out")
    assert hash_folder(download(open_place("memory://made/out"), tmp_path / "there")) == hash_folder(tmp_path / "here")
    there = upload(file, open_place("memory://made/in.parquet"))
    encode(there, "-o", tmp_path / "read")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "read"), read_embeddings(tmp_path / "here"))
    assert find_inputs([str(there)])[0].modified_ns > 0


def test_a_part_of_another_plan_is_not_done(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """Its footer tells; what is no Parquet is none either, and both are written again."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out")
    expected = hash_folder(tmp_path / "out")
    encode(file, "-o", tmp_path / "other", "--on-error", "drop")
    (tmp_path / "other/part-00000.parquet").replace(tmp_path / "out/part-00000.parquet")
    (tmp_path / "out/part-00001.parquet").write_bytes(b"PAR1")
    encode(file, "-o", tmp_path / "out")
    assert hash_folder(tmp_path / "out") == expected


def test_parts_without_a_plan_are_refused(sequences: list[npt.NDArray[np.float32]], tmp_path: Path) -> None:
    """Nobody knows which model made them."""
    file = write_parquet(tmp_path / "in.parquet", sequences)
    encode(file, "-o", tmp_path / "out", "--format", "jsonl")
    (tmp_path / "out/plan.json").unlink()
    assert "holds parts, and no plan.json" in refuse(file, "-o", tmp_path / "out", "--format", "jsonl")


class Counted(io.BytesIO):
    """A file that counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read as ever."""
        found = super().read(size)
        self.count += len(found)
        return found


@pytest.mark.parametrize("kind", ["parquet", "npy", "npz"])
def test_of_a_large_file_a_shard_is_read_and_no_more(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So a store is asked for ranges: here for a tenth of the rows, and what says where they are."""
    many = np.random.default_rng(1).standard_normal((4000, 20, FEATURES)).astype(np.float32)
    file = tmp_path / f"in.{kind}"
    if kind == "parquet":
        write_parquet(file, [*many], 400)
    elif kind == "npy":
        np.save(file, many)
    else:
        np.savez(file, values=many.reshape(-1, FEATURES), lengths=np.full(4000, 20))
    opened: list[Counted] = []

    def open_counted(self: Place) -> Any:
        opened.append(Counted(Path(self.path).read_bytes()))
        return pa.PythonFile(opened[-1], "r")

    monkeypatch.setattr(Place, "open", open_counted)
    (one,) = find_inputs([str(file)])
    source = open_source(one, Wanted("sequence", None, InputSpec(Features(FEATURES)), Settings().limits))
    first, last = (5, 6) if kind == "parquet" else (2000, 2400)
    rows: Rows = source.read(Shard(0, 2000, 400, first, last))
    np.testing.assert_array_equal(np.stack(rows.sequences), many[2000:2400])
    assert sum(file.count for file in opened) < 0.2 * os.stat(file).st_size  # noqa: PTH116


def test_a_plan_names_no_endpoint_of_the_environment(
    sequences: list[npt.NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each program may have another way to the same store."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    encode(write_parquet(tmp_path / "in.parquet", sequences), "-o", tmp_path / "out")
    assert "127.0.0.1" not in json.dumps(json.loads((tmp_path / "out/plan.json").read_text()))
    assert "scheme=http" not in str(open_place("s3://bucket/x?region=us-east-1"))


def test_a_file_that_came_meanwhile_may_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is asked for at the very end, and no draft is left; a disk without links takes the last one."""
    place = open_place(tmp_path / "plan.json")

    def send() -> Iterator[bytes]:
        place.put([b"theirs"])
        yield b"ours"

    place.put(send(), replaces=False)
    assert place.read() == b"theirs"
    place.put(send())
    assert place.read() == b"ours"

    def refuse_to(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse_to)
    place.remove()
    place.put([b"alone"], replaces=False)
    assert place.read() == b"alone"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_problems_are_there_before_drafts_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A draft of them may be another program's, which ends at the same moment and then finds the file itself."""
    folder = open_place(tmp_path)
    for name in (".errors.jsonl.0a0b0c0d", "part-00000.errors", "my.errors"):
        (folder / name).put([f"{name}\n".encode()])
    removed: list[str] = []

    def look(self: Place) -> None:
        assert (folder / "errors.jsonl").read() == b"part-00000.errors\n"
        removed.append(self.name)

    monkeypatch.setattr(Place, "remove", look)
    assert finish(folder) == 1
    assert removed == [".errors.jsonl.0a0b0c0d"]
