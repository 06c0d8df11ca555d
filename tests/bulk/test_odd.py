"""Odd input: it gives what it says, or is refused in a sentence; it never gives something else without a word."""

import decimal
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.plan import Plan
from bulk.sources import lines
from tests.bulk.command import encode, read_parts, refuse, write_jsonl, write_parquet
from tests.conftest import draw_sequences
from tests.made import take

BOM = b"\xef\xbb\xbf"
STEPS = [[1.0, 2.0, 3.0]]
LISTS = pa.list_(pa.list_(pa.float32()))


def read_problems(out: Path) -> list[tuple[int, str, str]]:
    """Return row, path and detail of what could not be encoded."""
    told = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    return [(one["row"], one["problem"].get("path", ""), one["problem"]["detail"]) for one in told]


def test_the_mark_that_a_text_begins_with_is_not_part_of_it(tmp_path: Path) -> None:
    """Windows writes a byte order mark: the first text or object after it is read as it is without one."""
    model = take("texts", tmp_path / "texts.onnx")
    line = json.dumps({"text": "so it goes"}).encode()
    for kind, content in (("txt", b"so it goes\n"), ("jsonl", line)):
        for name, text in (("plain", content), ("marked", BOM + content)):
            (tmp_path / f"{name}.{kind}").write_bytes(text)
            encode(tmp_path / f"{name}.{kind}", "-o", tmp_path / kind / name, "--model", model)
        assert read_parts(tmp_path / kind / "marked").equals(read_parts(tmp_path / kind / "plain"))


def test_a_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    """It is not encoded with signs in place of what could not be read, and Parquet may hold one, too."""
    model = take("texts", tmp_path / "texts.onnx")
    (tmp_path / "in.txt").write_bytes("so it\nça va\nit\n".encode("cp1252"))
    ends = pa.py_buffer(np.array([0, 5, 10, 12], np.int32))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, ends, pa.py_buffer("so itça vait".encode("cp1252"))])
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    for kind in ("txt", "parquet"):
        encode(tmp_path / f"in.{kind}", "-o", tmp_path / kind, "--model", model)
        found = read_problems(tmp_path / kind)
        assert found == [(1, "sequence", "sequence is not UTF-8 from its byte 0 on: expected a text.")]
        assert [one is None for one in read_parts(tmp_path / kind)["embedding"].to_pylist()] == [False, True, False]


@pytest.mark.parametrize(
    ("kind", "columns", "path"),
    [
        ("made", {"sequence": pa.array([STEPS, None, []], LISTS)}, "sequence"),
        ("tokens", {"sequence": pa.array([[1, 2], None, []], pa.list_(pa.int64()))}, "sequence"),
        ("texts", {"text": ["so it goes", None, ""]}, "sequence"),
        ("named", {name: pa.array([[1.0], None, []], pa.list_(pa.float32())) for name in "xyz"}, "x"),
    ],
)
def test_a_row_that_is_null_is_bad_even_if_empty_ones_are_zero(
    kind: str, columns: dict[str, Any], path: str, tmp_path: Path
) -> None:
    """Nobody said that it is empty."""
    named = ["x", "y", "z"] if kind == "named" else []
    model = take("made" if named else kind, tmp_path / "model.onnx", columns=named)
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    encode(tmp_path / "in.parquet", "-o", tmp_path / "out", "--model", model, "--empty-sequences", "zero")
    assert [(row, place) for row, place, _ in read_problems(tmp_path / "out")] == [(1, path)]
    found = read_parts(tmp_path / "out")["embedding"].to_pylist()
    assert found[1] is None
    assert not any(found[2])


def test_columns_of_one_name_are_refused_unless_they_are_left_out(tmp_path: Path) -> None:
    """Parquet may hold them, and nobody knows which is meant."""
    columns = [pa.array([STEPS], LISTS), pa.array([1]), pa.array([2])]
    pq.write_table(pa.table(columns, ["sequence", "a", "a"]), tmp_path / "in.parquet")
    assert "2 columns have the name 'a'" in refuse(tmp_path / "in.parquet", "-o", tmp_path / "out")
    encode(tmp_path / "in.parquet", "-o", tmp_path / "none", "--columns", "")
    (tmp_path / "in.csv").write_text("id,order,f0,f1,f2,w,w\na,0,1,2,3,4,5\n")
    model = take("made", tmp_path / "named.onnx", columns=["f0", "f1", "f2"])
    assert "2 columns have the name 'w'" in refuse(tmp_path / "in.csv", "-o", tmp_path / "csv", "--model", model)
    encode(tmp_path / "in.csv", "-o", tmp_path / "csv", "--model", model, "--columns", "id")


def test_a_column_that_is_chosen_twice_is_kept_once(tmp_path: Path) -> None:
    """In every kind of file."""
    write_parquet(tmp_path / "in.parquet", draw_sequences([2]), id=["a"])
    write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "sequence": STEPS}])
    (tmp_path / "in.csv").write_text("id,order,f0,f1,f2\na,0,1,2,3\n")
    for kind in ("parquet", "jsonl", "csv"):
        encode(tmp_path / f"in.{kind}", "-o", tmp_path / kind, "--columns", "id,id")
        assert read_parts(tmp_path / kind).drop_columns("embedding").to_pydict() == {"id": ["a"]}


def test_the_sequence_itself_may_be_kept(tmp_path: Path) -> None:
    """If it is chosen: JSON lines keep a text as it is, as Parquet does."""
    model = take("texts", tmp_path / "texts.onnx")
    rows = [{"id": 1, "text": "so it goes"}, {"id": 2, "text": "it"}]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    flags = (file, "--model", model, "--columns", "id,text")
    encode(*flags, "-o", tmp_path / "out")
    assert read_parts(tmp_path / "out").drop_columns("embedding").to_pylist() == rows
    encode(*flags, "-o", tmp_path / "lines", "--format", "jsonl")
    found = [json.loads(line) for line in (tmp_path / "lines/part-00000.jsonl").read_text().splitlines()]
    assert [{"id": one["id"], "text": one["text"]} for one in found] == rows


def test_integers_of_json_lines_keep_each_digit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What neither an int64 nor, among fractions, a double holds is kept as JSON; in a later line it is told."""
    large, among = 2**64 - 1, 2**53 + 1
    rows = [{"hash": 1, "size": 0.5, "sequence": STEPS}, {"hash": large, "size": among, "sequence": STEPS}]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    encode(file, "-o", tmp_path / "out")
    kept = read_parts(tmp_path / "out").drop_columns("embedding")
    assert kept.to_pydict() == {"hash": ["1", str(large)], "size": ["0.5", str(among)]}
    monkeypatch.setattr(lines, "TYPED_LINES", 1)
    for name, value in (("hash", large), ("size", among)):
        write_jsonl(file, [rows[0], rows[0] | {name: value}])
        encode(file, "-o", tmp_path / name)
        assert [(row, path) for row, path, _ in read_problems(tmp_path / name)] == [(1, name)]


def test_json_lines_may_follow_other_files(tmp_path: Path) -> None:
    """Their columns have types wherever they stand among the inputs."""
    write_parquet(tmp_path / "a.parquet", draw_sequences([2]), id=["a"])
    write_jsonl(tmp_path / "b.jsonl", [{"id": "b", "sequence": STEPS}])
    encode(tmp_path / "a.parquet", tmp_path / "b.jsonl", "-o", tmp_path / "out")
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("lengths", [np.array([1.5, 1.9]), np.array([True, True])])
def test_lengths_that_are_not_integers_are_refused(lengths: Any, tmp_path: Path) -> None:
    """They are not cut to integers, by which other steps would be taken for a sequence."""
    np.savez(tmp_path / "in.npz", values=np.zeros((2, 3)), lengths=lengths)
    said = refuse(tmp_path / "in.npz", "-o", tmp_path / "out")
    assert f"the lengths are {lengths.dtype}, and must be integers" in said


def test_a_compressed_array_that_is_damaged_is_named(tmp_path: Path) -> None:
    """Whichever byte of it is another one, it is refused in a sentence, unless nothing reads that byte."""
    np.savez_compressed(tmp_path / "in.npz", values=np.arange(30.0).reshape(10, 3), lengths=[4, 6])
    content = (tmp_path / "in.npz").read_bytes()
    place = content.index(b"values.npy") + len(b"values.npy") + 20 + 8
    for damaged in (
        content[:place] + b"\xff" * 8 + content[place + 8 :],
        content.replace(b"PK\1\2" + content[content.index(b"PK\1\2") + 4 :][:6], b"PK\1\2\0\0\0\0\x21\0"),
    ):
        (tmp_path / "bad.npz").write_bytes(damaged)
        assert "it cannot be read as .npz" in refuse(tmp_path / "bad.npz", "-o", tmp_path / "out")


def test_parquet_whose_checksums_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Many engines write them, so a number that was damaged is not encoded as another one."""
    column = {"sequence": pa.array([[[0.5, 1234.5, 0.25]]], LISTS)}
    flags: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table(column), tmp_path / "in.parquet", write_statistics=False, **flags)
    content = (tmp_path / "in.parquet").read_bytes()
    number = np.float32(1234.5).tobytes()
    assert content.count(number) == 1
    (tmp_path / "in.parquet").write_bytes(content.replace(number, np.float32(1235.5).tobytes()))
    assert "CRC checksum verification failed" in refuse(tmp_path / "in.parquet", "-o", tmp_path / "out")


def test_columns_that_a_file_cannot_have_are_refused(tmp_path: Path) -> None:
    """A line of a text is its text alone, and arrays hold sequences alone."""
    (tmp_path / "in.txt").write_text("so it goes\n")
    model = take("texts", tmp_path / "texts.onnx")
    flags = (tmp_path / "in.txt", "-o", tmp_path / "out", "--model", model, "--columns")
    assert "there is no column 'id' to keep: it has 'text'" in refuse(*flags, "text,id")
    encode(*flags, "text")
    np.save(tmp_path / "in.npy", np.zeros((2, 2, 3)))
    assert "there is no column 'id' to keep" in refuse(tmp_path / "in.npy", "-o", tmp_path / "x", "--columns", "id")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "npy", "parquet"])
def test_a_file_that_is_written_anew_meanwhile_is_noticed(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its shards are of the old one: neither fewer rows nor others are taken for them."""
    writers: dict[str, Callable[[Path, int], object]] = {
        "jsonl": lambda file, count: write_jsonl(file, [{"sequence": STEPS * 9}] * count),
        "csv": lambda file, count: file.write_text(
            "id,order,a,b,c\n" + "".join(f"{row},0,1,2,3\n" for row in range(count))
        ),
        "npy": lambda file, count: np.save(file, np.zeros((count, 9, 3))),
        "parquet": lambda file, count: write_parquet(file, draw_sequences([9] * count)),
    }
    file = tmp_path / f"in.{kind}"
    save = Plan.save

    def save_late(self: Plan, *arguments: Any) -> None:
        save(self, *arguments)
        writers[kind](file, 30)

    writers[kind](file, 40)
    monkeypatch.setattr(Plan, "save", save_late)
    said = refuse(file, "-o", tmp_path / "out")
    assert "it was written anew since the plan was made" in said or "it cannot be read: it ends too early" in said
    assert not [*(tmp_path / "out").glob("part*")]


def test_an_input_that_is_named_twice_is_another_plan(tmp_path: Path) -> None:
    """Its rows are there twice, and a plan of half of them is not gone on with."""
    file = write_parquet(tmp_path / "in.parquet", draw_sequences([2]))
    encode(file, "-o", tmp_path / "once")
    encode(file, file, "-o", tmp_path / "twice")
    assert len(read_parts(tmp_path / "twice")) == 2
    assert "more or less often" in refuse(file, file, "-o", tmp_path / "once")
    assert "more or less often" in refuse(file, "-o", tmp_path / "twice")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([decimal.Decimal("1.10")]),
        pa.array([b"\xff"]),
        pa.array([1], pa.timestamp("ns")),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]),
    ],
)
def test_what_json_lines_cannot_hold_is_refused_by_name(column: Any, tmp_path: Path) -> None:
    """The sentence names the column and what helps."""
    file = write_parquet(tmp_path / "in.parquet", draw_sequences([2]), id=["a"], odd=column)
    said = refuse(file, "-o", tmp_path / "out", "--format", "jsonl")
    assert f"'odd' holds {column.type}, which JSON lines cannot hold" in said
    encode(file, "-o", tmp_path / "id", "--format", "jsonl", "--columns", "id")


def test_times_of_pandas_are_written_as_json_lines(tmp_path: Path) -> None:
    """It writes nanoseconds, and JSON lines hold them as other times if they are whole microseconds."""
    time = "2026-01-02T03:04:05.678901"
    column = pa.array([time]).cast(pa.timestamp("ns"))
    file = write_parquet(tmp_path / "in.parquet", draw_sequences([2]), at=column)
    encode(file, "-o", tmp_path / "out", "--format", "jsonl")
    assert json.loads((tmp_path / "out/part-00000.jsonl").read_text())["at"] == time


def test_a_disk_too_small_for_the_array_is_told_before_it_fills(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Memory that is a file ends a program without a word if the disk is full."""

    def refuse_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    np.save(tmp_path / "in.npy", np.zeros((2, 2, 3)))
    flags = (tmp_path / "in.npy", "-o", tmp_path / "out", "--format", "npy")
    monkeypatch.setattr(os, "posix_fallocate", refuse_room)
    assert "embeddings.npy cannot be made: [Errno 28] No space left on device" in refuse(*flags)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.json"]
    monkeypatch.undo()
    encode(*flags)


def test_an_array_of_something_else_is_not_written_into(tmp_path: Path) -> None:
    """Somebody's own, or one that was cut: rows that nobody encoded would be left in it."""
    np.save(tmp_path / "in.npy", np.zeros((2, 2, 3)))
    flags = (tmp_path / "in.npy", "-o", tmp_path / "out", "--format", "npy")
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out/embeddings.npy", np.zeros((5, 16), np.float32))
    assert "holds (5, 16) float32, and the output is (2, 16) float32" in refuse(*flags)
    (tmp_path / "out/embeddings.npy").unlink()
    encode(*flags)
    (tmp_path / "out/embeddings.npy").write_bytes((tmp_path / "out/embeddings.npy").read_bytes()[:-4])
    assert "embeddings.npy cannot be read: mmap length" in refuse(*flags)


def test_a_column_without_a_name_is_not_a_feature(tmp_path: Path) -> None:
    """Pandas writes its index so, and a model whose features have no names would read it as one."""
    (tmp_path / "in.csv").write_text(",id,order,f0,f1\n0,a,0,1,2\n1,a,1,4,5\n")
    assert "column 1 has no name" in refuse(tmp_path / "in.csv", "-o", tmp_path / "out")


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path: Path) -> None:
    """A pipe cannot be read twice, once for the plan and once for the rows."""
    os.mkfifo(tmp_path / "in.jsonl")
    assert "it is neither a file nor a folder" in refuse(tmp_path / "in.jsonl", "-o", tmp_path / "out")


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    """Of an input, of a file in a folder and of the output; a link that leads to itself is told, too."""
    name = os.fsdecode(b"\xff.npy")
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / name, np.zeros((2, 2, 3)))
    np.save(tmp_path / "in.npy", np.zeros((2, 2, 3)))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "its name is not UTF-8" in refuse(tmp_path / "in" / name, "-o", tmp_path / "out")
    assert "its name is not UTF-8" in refuse(tmp_path / "in", "-o", tmp_path / "out")
    assert "its name is not UTF-8" in refuse(tmp_path / "in.npy", "-o", tmp_path / name)
    assert "cannot be looked at" in refuse(tmp_path / "in.npy", "-o", tmp_path / "in")
    assert "No such file" in refuse(tmp_path / "loop", "-o", tmp_path / "out")


def test_a_table_with_another_end_of_lines_is_told(tmp_path: Path) -> None:
    """It would be one line of names."""
    (tmp_path / "in.csv").write_bytes(b"id,order,f0,f1,f2\ra,0,1,2,3\r")
    assert "it cannot be read: new-line character" in refuse(tmp_path / "in.csv", "-o", tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_is_nested_too_deep_is_a_bad_row(kind: str, tmp_path: Path) -> None:
    """A line may be read that cannot be written again, or of which Python cannot print a value."""
    deep = "[" * 1000 + "]" * 1000
    rows = [
        f'{{"sequence": {STEPS}, "odd": [1]}}',
        f'{{"sequence": {STEPS}, "odd": {deep}}}',
        f'{{"sequence": {deep}}}',
    ]
    rows += [f'{{"sequence": [[1.0, 2.0, {deep}]]}}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    encode(tmp_path / "in.jsonl", "-o", tmp_path / "out", "--format", kind)
    assert [(row, path) for row, path, _ in read_problems(tmp_path / "out")] == [
        (1, "odd"),
        (2, "sequence[0]"),
        (3, "sequence[0][2]"),
    ]


def test_a_request_that_is_nested_too_deep_is_refused_alone(tmp_path: Path) -> None:
    """The other requests of the batch are answered."""
    deep = "[" * 1000 + "]" * 1000
    request = (
        '{"custom_id": "a", "url": "/v1/embeddings", "body": {"model": "made", "input": [[1, 2, 3]], "user": %s}}\n'
    )
    (tmp_path / "in.jsonl").write_text(request % deep + f'{{"custom_id": {deep}}}\n' + request % '"me"')
    encode(tmp_path / "in.jsonl", "-o", tmp_path / "out", "--format", "openai")
    parts = sorted((tmp_path / "out").glob("part-*.jsonl"))
    answers = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    assert [one["response"]["status_code"] for one in answers] == [400, 400, 200]
    told = [one["response"]["body"].get("error", {}).get("param") for one in answers]
    assert told == ["body", "custom_id", None]
