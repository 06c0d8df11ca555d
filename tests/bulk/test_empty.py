"""Inputs without a row: an output that opens all the same, since whoever reads it next knows nothing of its input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bulk.command import encode, hash_folder, read_parts, write_jsonl
from tests.conftest import FEATURES
from tests.made import take

STEPS = pa.list_(pa.list_(pa.float32()))


def write(file: Path, rows: int) -> Path:
    """Write so many rows of two steps each, in the format that the name says."""
    steps, lengths = np.ones((2 * rows, FEATURES), np.float32), np.full(rows, 2)
    if file.suffix == ".parquet":
        sequences = pa.array(steps.reshape(rows, 2, FEATURES).tolist(), STEPS)
        pq.write_table(pa.table({"id": pa.array([*range(rows)], pa.int64()), "sequence": sequences}), file)
    elif file.suffix == ".npz":
        np.savez(file, values=steps, lengths=lengths)
    elif file.suffix == ".npy":
        np.save(file, steps.reshape(rows, 2, FEATURES))
    elif file.suffix == ".csv":
        file.write_text("id,order,a,b,c\n" + "".join(f"s{row // 2},{row},1,1,1\n" for row in range(2 * rows)))
    elif file.suffix == ".txt":
        file.write_text("so it goes\n" * rows)
    else:
        write_jsonl(file, [{"id": row, "sequence": [[1.0] * FEATURES] * 2} for row in range(rows)])
    return file


@pytest.mark.parametrize("kind", ["parquet", "csv", "npz", "npy", "txt", "jsonl", "jsonl.gz"])
def test_without_a_row_there_is_a_part_of_the_same_columns(kind: str, tmp_path: Path) -> None:
    """So a reader of the folder finds none, and not an error; the next run finds it done."""
    model = ["--model", str(take("texts", tmp_path / "texts.onnx"))] if kind == "txt" else []
    columns = ["--columns", "id"] if kind.startswith("jsonl") else []  # no line says what fields there are
    for rows in (0, 3):
        encode(write(tmp_path / f"{rows}.{kind}", rows), "-o", tmp_path / f"out{rows}", *model, *columns)
    found, full = (read_parts(tmp_path / f"out{rows}") for rows in (0, 3))
    assert (len(found), len(full)) == (0, 3)
    assert found.column_names == full.column_names
    if not columns:
        assert found.schema.equals(full.schema)
    before = hash_folder(tmp_path / "out0")
    part = tmp_path / "out0/part-00000.parquet"
    written = part.stat().st_mtime_ns
    encode(tmp_path / f"0.{kind}", "-o", tmp_path / "out0", *model, *columns)
    assert (hash_folder(tmp_path / "out0"), part.stat().st_mtime_ns) == (before, written)


def test_without_a_row_outputs_keep_their_widths(tmp_path: Path) -> None:
    """Steps and states of no row have the types of those of some."""
    flags = ("--model", take("parts-lstm", tmp_path / "all.onnx"), "--outputs", "embedding,steps,state")
    for rows in (0, 3):
        encode(write(tmp_path / f"{rows}.parquet", rows), "-o", tmp_path / f"out{rows}", *flags)
    assert read_parts(tmp_path / "out0").schema.equals(read_parts(tmp_path / "out3").schema)


def test_without_a_row_other_formats_open_too(tmp_path: Path) -> None:
    """One array of none, and lines of none."""
    file = write(tmp_path / "in.jsonl", 0)
    for kind in ("npy", "jsonl", "openai"):
        for _ in range(2):
            encode(file, "-o", tmp_path / kind, "--format", kind)
    array = np.load(tmp_path / "npy/embeddings.npy")
    assert (array.dtype, len(array)) == (np.float32, 0)
    assert array.shape[1] > 0
    for kind in ("jsonl", "openai"):
        assert (tmp_path / kind / "part-00000.jsonl").read_bytes() == b""


def test_a_table_that_was_empty_before_it_had_types_is_read(tmp_path: Path) -> None:
    """As pandas writes it: columns of nulls."""
    pq.write_table(pa.table({"id": pa.nulls(0), "sequence": pa.nulls(0)}), tmp_path / "in.parquet")
    encode(tmp_path / "in.parquet", "-o", tmp_path / "out")
    assert read_parts(tmp_path / "out").column_names == ["id", "embedding"]


def test_a_file_without_rows_beside_others_adds_no_part(tmp_path: Path) -> None:
    """Nobody needs one then."""
    files = [write(tmp_path / f"{name}.parquet", rows) for name, rows in (("a", 0), ("b", 3), ("c", 0))]
    encode(*files, "-o", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").glob("part*")] == ["part-00000.parquet"]
    assert len(read_parts(tmp_path / "out")) == 3


def test_a_dry_run_of_no_rows_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the sentence of all others, with no time and no size; one of each is told as one."""
    encode(write(tmp_path / "in.parquet", 0), "-o", tmp_path / "out", "--dry-run")
    said: list[Any] = capsys.readouterr().out.splitlines()
    assert said[0] == "0 rows of 1 file in 1 shard; 0 rows in 1 of them are to be encoded"
    assert said[1].startswith("about 0 steps, 0.0 s, 0.0 MiB of embeddings; ")
    encode(write(tmp_path / "one.parquet", 1), "-o", tmp_path / "out", "--dry-run")
    assert capsys.readouterr().out.startswith("1 row of 1 file in 1 shard; 1 row in 1 of them is to be encoded\n")


def test_no_rows_are_one_shard_of_a_plan(tmp_path: Path) -> None:
    """Whoever has its share writes the part."""
    file = write(tmp_path / "in.parquet", 0)
    for share in ("1/2", "0/2"):
        assert not (tmp_path / "out/part-00000.parquet").exists()
        encode(file, "-o", tmp_path / "out", "--shard", share)
    assert len(json.loads((tmp_path / "out/plan.json").read_text())["shards"]) == 1
    assert len(read_parts(tmp_path / "out")) == 0
